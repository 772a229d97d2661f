"""Expected values from statsmodels; coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from evenhand.stats.agreement import agreement_share, kappa
from evenhand.stats.intervals import Interval
from tests.stats.bands import assert_covers

LEVEL = 0.95


def two_readers(rng: np.random.Generator, n: int, accuracy: float, values: int = 2) -> tuple[list[str], list[str]]:
    truth = rng.integers(0, values, n)
    both = [np.where(rng.random(n) < accuracy, truth, rng.integers(0, values, n)) for _ in range(2)]
    return both[0].astype(str).tolist(), both[1].astype(str).tolist()


def test_kappa_and_its_interval_equal_statsmodels() -> None:
    one, other = two_readers(np.random.default_rng(1), 120, 0.7, 3)
    table = np.zeros((3, 3))
    np.add.at(table, (np.array(one, dtype=int), np.array(other, dtype=int)), 1)
    expected = cohens_kappa(table)
    found = kappa(one, other, level=LEVEL)
    assert found.value == pytest.approx(expected.kappa)
    assert (found.low, found.high) == pytest.approx((expected.kappa_low, expected.kappa_upp))
    assert agreement_share(one, other) == pytest.approx(np.trace(table) / 120)


def test_kappa_is_covered() -> None:
    """Readers that are right or guess: kappa is accuracy squared for even values."""
    rng = np.random.default_rng(2)
    assert_covers(lambda: (kappa(*two_readers(rng, 200, 0.8), level=LEVEL), 0.64), 300)


def test_images_of_a_prompt_that_fool_both_together_widen_it() -> None:
    rng = np.random.default_rng(3)
    names = [f"p{row // 16}" for row in range(320)]

    def run() -> tuple[Interval, float]:
        hard = np.repeat(rng.random(20) < 0.5, 16)
        truth = rng.integers(0, 2, 320)
        other = np.where(hard, rng.integers(0, 2, 320), truth)
        return kappa(truth.astype(str).tolist(), other.astype(str).tolist(), level=LEVEL, clusters=names), 0.5

    assert_covers(run, 200)
    one, other = two_readers(rng, 320, 0.8)
    assert "jackknife" in kappa(one, other, level=LEVEL, clusters=names).how


def test_readers_that_agree_by_chance_have_kappa_zero_and_the_same_reader_one() -> None:
    rng = np.random.default_rng(4)
    one, other = (rng.choice(["a", "b"], 4000, p=[0.9, 0.1]).tolist() for _ in range(2))
    assert agreement_share(one, other) == pytest.approx(0.82, abs=0.02)
    assert kappa(one, other, level=LEVEL).value == pytest.approx(0, abs=0.05)
    assert kappa(one, one, level=LEVEL)[:3] == (1, 1, 1)


def test_nothing_or_one_value_only_is_not_estimable() -> None:
    assert kappa([], [], level=LEVEL).value is None
    assert agreement_share([], []) is None
    assert kappa(["a"] * 9, ["a"] * 9, level=LEVEL).value is None
    assert kappa(["a"] * 9, ["b"] * 9, level=LEVEL).value == 0
