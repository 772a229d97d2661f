"""The headline intervals at many more runs than the other tests: 1,000 each, on shares as heterogeneous as real ones.

Shares of prompts follow the published counts of twelve occupations; shifts differ between prompts by 0.11.
"""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.audits import prediction_powered
from evenhand.stats.fair_diffusion import FAIR_DIFFUSION
from evenhand.stats.groups import subject_share
from evenhand.stats.intervals import Interval, mean_interval
from evenhand.stats.permutation import label_swap
from evenhand.stats.power import BETWEEN_SD
from evenhand.stats.sequential import CHANGED, Betting
from evenhand.stats.stratified import stratified_shift
from tests.stats.bands import assert_covers, band

LEVEL, RUNS = 0.95, 1_000
SHARES = np.array([women / (men + women) for men, women, _, _ in FAIR_DIFFUSION])


def arms(
    rng: np.random.Generator, count: int, n: int, shift: float
) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Images of prompts drawn from a population, and the population's mean shift."""
    before = np.clip(rng.choice(SHARES, count), 0.02, 0.98)
    moved = shift + rng.normal(0, BETWEEN_SD, count) if shift else np.zeros(count)
    toward_even = np.where(before < 0.5, moved, -moved)
    after = np.clip(before + toward_even, 0, 1)
    draw = [[(rng.random(n) < share).astype(float) for share in shares] for shares in (before, after)]
    return draw[0], draw[1], float((after - before).mean())


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 10, 20, 40])
def test_shift_for_prompts_like_these_is_covered(count: int) -> None:
    """The truth is the mean over a million prompts of the population."""
    rng = np.random.default_rng(1)
    big = np.random.default_rng(2)
    before = np.clip(big.choice(SHARES, 1_000_000), 0.02, 0.98)
    moved = 0.2 + big.normal(0, BETWEEN_SD, 1_000_000)
    truth = float((np.clip(before + np.where(before < 0.5, moved, -moved), 0, 1) - before).mean())

    def run() -> tuple[Interval, float]:
        base, adapted, _ = arms(rng, count, 16, 0.2)
        shifts = np.array([new.mean() - old.mean() for old, new in zip(base, adapted, strict=True)])
        return mean_interval(shifts, [str(row) for row in range(count)], level=LEVEL), truth

    assert_covers(run, RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_shift_of_these_prompts_is_covered(paired: bool) -> None:
    rng = np.random.default_rng(3)

    def run() -> tuple[Interval, float]:
        base, adapted, truth = arms(rng, 40, 16, 0.2)
        return stratified_shift(base, adapted, paired=paired, level=LEVEL), truth

    assert_covers(run, RUNS)


@pytest.mark.slow
def test_share_of_people_in_groups_is_covered() -> None:
    rng = np.random.default_rng(4)

    def run() -> tuple[Interval, float]:
        sizes = rng.integers(2, 9, 60)
        first = rng.binomial(sizes, rng.beta(0.7 * 7 / 3, 0.3 * 7 / 3, 60))  # correlation 0.3
        return subject_share(np.stack([first, sizes - first], axis=1).astype(float), 0, level=LEVEL), 0.7

    assert_covers(run, RUNS)


@pytest.mark.slow
def test_an_audit_of_100_pairs_covers() -> None:
    """No true shift; the reader's specificity is 0.97 in one arm and 0.88 in the other."""
    rng = np.random.default_rng(5)

    def run() -> tuple[Interval, float]:
        truth = rng.random((2, 640)) < 0.3
        right = rng.random((2, 640)) < np.where(truth, 0.9, np.array([[0.97], [0.88]]))
        found = np.where(right, truth, ~truth).astype(float)
        human = truth[1].astype(float) - truth[0]
        reader = found[1] - found[0]
        return prediction_powered(human[:100], reader[:100], reader[100:], level=LEVEL), 0.0

    assert_covers(run, RUNS)


@pytest.mark.slow
def test_two_runs_of_one_generator_are_told_apart_in_one_of_twenty() -> None:
    rng = np.random.default_rng(6)
    p = []
    for seed in range(RUNS):
        base, adapted, _ = arms(rng, 40, 16, 0.0)
        images = [[np.stack([entry, 1 - entry], axis=1) for entry in arm] for arm in (base, adapted)]
        p.append(label_swap(*images, swaps=499, seed=seed).p)
    low, high = band(0.05, RUNS)
    assert low - 0.01 <= np.mean(np.array(p) <= 0.05) <= high


@pytest.mark.slow
def test_looking_after_every_seed_stops_in_vain_in_one_of_twenty_at_most() -> None:
    rng = np.random.default_rng(7)
    stopped = 0
    for _ in range(RUNS):
        base, adapted, _ = arms(rng, 40, 16, 0.0)
        betting = Betting(0.05)
        for differences in np.array(adapted).T - np.array(base).T:
            betting.update(differences)
        stopped += betting.stop() == CHANGED
    assert stopped / RUNS <= band(0.05, RUNS)[1]
