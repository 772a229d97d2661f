"""Error rates and coverage by simulation, looking after every batch; wealth by its definition, written out."""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.sequential import CHANGED, EXHAUSTED, NARROW, STAKES, Betting
from tests.stats.bands import band, holds

ALPHA = 0.05


def batch(rng: np.random.Generator, means: np.ndarray, changing: float = 0.3) -> np.ndarray:
    """One seed over all prompts: differences -1, 0 or 1 with these means."""
    some = np.minimum(1.0, np.abs(means) + changing)
    draws = rng.random(len(means))
    return np.where(draws < (some + means) / 2, 1.0, np.where(draws < some, -1.0, 0.0))


def test_wealth_is_the_mean_over_stakes_of_the_product_of_factors() -> None:
    rng = np.random.default_rng(1)
    betting, played = Betting(ALPHA), []
    for _ in range(5):
        played.append(batch(rng, np.full(12, 0.2)))
        betting.update(played[-1])
    every = np.concatenate(played)
    expected = np.mean([np.prod(1 + stake * every) for stake in (*STAKES, *-STAKES)])
    assert betting.e_value == pytest.approx(expected)
    assert betting.num_batches == 5


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_looking_after_every_batch_stops_in_vain_at_the_level_at_most(spread: float) -> None:
    """Also where prompts move in opposite directions and cancel. Control: looking with a z test, far more often."""
    rng = np.random.default_rng(2)
    stopped = peeked = 0
    for _ in range(120):
        means = rng.normal(0, spread, 20)
        means = np.clip(means - means.mean(), -0.9, 0.9)
        means -= means.mean()
        betting, total = Betting(ALPHA), []
        vain = False
        for _ in range(16):
            differences = batch(rng, means)
            betting.update(differences)
            total.append(differences.mean())
            if len(total) > 2:
                error = np.std(total, ddof=1) / len(total) ** 0.5
                vain |= bool(abs(np.mean(total)) > 1.96 * error)
        stopped += betting.stop() == CHANGED
        peeked += vain
    assert stopped / 120 <= band(ALPHA, 120)[1]
    assert peeked / 120 > 0.15


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.35])
def test_the_confidence_sequence_covers_where_one_stops(shift: float) -> None:
    rng = np.random.default_rng(3)
    held, stops = 0, []
    for _ in range(100):
        betting = Betting(ALPHA)
        while betting.stop(max_batches=16) is None:
            betting.update(batch(rng, np.full(40, shift)))
        held += holds(betting.confidence_sequence(), shift)
        stops.append(betting.num_batches)
    assert held / 100 >= band(0.95, 100)[0]
    if shift == 0.35:
        assert np.median(stops) <= 4  # of 16 batches


def test_stops_say_why() -> None:
    rng = np.random.default_rng(4)
    betting = Betting(ALPHA)
    assert betting.stop(width=0.5, max_batches=3) is None
    for _ in range(3):
        betting.update(batch(rng, np.zeros(40)))
    assert betting.stop(width=2.0, max_batches=99) == NARROW
    assert betting.stop(width=0.01, max_batches=3) == EXHAUSTED
    assert betting.stop(width=0.01, max_batches=4) is None
    for _ in range(6):
        betting.update(batch(rng, np.full(40, 0.4)))
    assert betting.stop(max_batches=9) == CHANGED
    assert betting.p < ALPHA


def test_swapping_the_arms_negates_the_interval() -> None:
    rng = np.random.default_rng(5)
    one, other = Betting(ALPHA), Betting(ALPHA)
    for _ in range(6):
        differences = batch(rng, np.full(20, 0.2))
        one.update(differences)
        other.update(-differences)
    assert one.e_value == pytest.approx(other.e_value)
    first, second = one.confidence_sequence(), other.confidence_sequence()
    assert (first.low, first.high) == pytest.approx((-second.high, -second.low))  # type: ignore[operator]


def test_no_batch_has_no_interval_and_extremes_do_not_break_it() -> None:
    betting = Betting(ALPHA)
    assert betting.confidence_sequence().value is None
    assert betting.e_value == 1
    for _ in range(200):
        betting.update(np.ones(40))
    interval = betting.confidence_sequence()
    assert interval.value == 1
    assert interval.low is not None
    assert interval.low > 0.9
    assert np.isfinite(betting.e_value)


def test_differences_out_of_range_or_unread_are_refused() -> None:
    for wrong in (1.5, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            Betting(ALPHA).update(np.array([0.0, wrong]))
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 5"):
        Betting(5)
