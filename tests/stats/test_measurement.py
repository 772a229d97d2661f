"""Readers with known errors: expected values by the readings they must give, and coverage by simulation."""

from __future__ import annotations

import re

import numpy as np
import pytest

from evenhand.stats.intervals import Interval, wilson
from evenhand.stats.measurement import (
    corrected_shares,
    corrected_shift,
    invert_em,
    invert_simplex,
    rogan_gladen,
    too_weak,
)
from tests.stats.bands import assert_covers, band, coverage, holds

LEVEL = 0.95
SENSITIVITY, SPECIFICITY = 0.85, 0.95
RATES_4 = np.array(
    [[0.90, 0.04, 0.03, 0.03], [0.08, 0.80, 0.07, 0.05], [0.03, 0.10, 0.77, 0.10], [0.05, 0.05, 0.05, 0.85]]
)


def read(rng: np.random.Generator, first: np.ndarray) -> np.ndarray:
    """Whether each image is read as value 0, given whether it truly is."""
    return np.where(first, rng.random(first.shape) < SENSITIVITY, rng.random(first.shape) >= SPECIFICITY)


def validated(rng: np.random.Generator, count: int) -> np.ndarray:
    hits, alarms = rng.binomial(count, SENSITIVITY), rng.binomial(count, 1 - SPECIFICITY)
    return np.array([[hits, count - hits], [alarms, count - alarms]])


def test_the_inverse_gives_back_the_truth_behind_exact_readings() -> None:
    confusion = RATES_4 * 1000
    for truth in ((0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1), (1.0, 0.0, 0.0, 0.0)):
        readings = np.array(truth) @ RATES_4
        assert invert_simplex(readings, confusion) == pytest.approx(truth, abs=1e-6)
        assert invert_em(readings, confusion) == pytest.approx(truth, abs=1e-3)


def test_the_inverse_stays_inside_the_simplex() -> None:
    impossible = np.array([1.0, 0.0, 0.0, 0.0])
    for shares in (invert_simplex(impossible, RATES_4), invert_em(impossible, RATES_4)):
        assert shares.sum() == pytest.approx(1)
        assert shares.min() >= 0
        assert shares[0] > 0.99


def test_rogan_gladen_by_hand() -> None:
    """(0.3 + 0.95 - 1) / (0.85 + 0.95 - 1)."""
    interval = rogan_gladen(30, 100, np.array([[85, 15], [5, 95]]), level=LEVEL)
    assert interval.value == pytest.approx(0.3125)
    perfect = rogan_gladen(30, 100, np.array([[100_000, 0], [0, 100_000]]), level=LEVEL)
    expected = wilson(30, 100, level=LEVEL)
    assert (perfect.low, perfect.high) == pytest.approx((expected.low, expected.high), abs=0.01)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_corrected_share_is_covered(share: float) -> None:
    rng = np.random.default_rng(1)

    def run() -> tuple[Interval, float]:
        count = int(read(rng, rng.random(200) < share).sum())
        return rogan_gladen(count, 200, validated(rng, 50), level=LEVEL, seed=int(rng.integers(2**31))), share

    assert_covers(run, 400)


def test_an_uncorrected_share_is_not_covered() -> None:
    rng = np.random.default_rng(2)
    assert coverage(lambda: (wilson(int(read(rng, rng.random(640) < 0.5).sum()), 640, level=LEVEL), 0.5), 200) < 0.5


def test_shares_of_four_values_are_covered_each() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.7, 0.1, 0.1, 0.1])
    held = np.zeros(4)
    for seed in range(150):
        counts = rng.multinomial(400, truth @ RATES_4)
        confusion = np.stack([rng.multinomial(50, row) for row in RATES_4])
        found = corrected_shares(counts, confusion, level=LEVEL, seed=seed)
        held += [holds(interval, share) for interval, share in zip(found, truth, strict=True)]
    assert held.min() / 150 >= band(0.93, 150)[0]


def test_shift_over_prompts_is_covered_and_the_observed_one_is_not() -> None:
    """5 % to 40 % through a reader that shrinks shifts by 0.8, known by 50 labels a value."""
    rng = np.random.default_rng(4)
    observed_held = []

    def run() -> tuple[Interval, float]:
        shares = np.clip(0.4 + rng.normal(0, 0.1, 40), 0, 1)
        base = [one_hot(read(rng, rng.random(16) < 0.05)) for _ in shares]
        adapted = [one_hot(read(rng, rng.random(16) < share)) for share in shares]
        shift = np.array([new[:, 0].mean() - old[:, 0].mean() for old, new in zip(base, adapted, strict=True)])
        observed_held.append(abs(shift.mean() - 0.35) < 2.02 * shift.std(ddof=1) / 40**0.5)
        confusion = validated(rng, 50)
        found = corrected_shift(base, adapted, confusion, paired=True, level=LEVEL, seed=int(rng.integers(2**31)))
        return found[0], 0.35

    assert_covers(run, 300)
    assert np.mean(observed_held) < 0.4


def one_hot(first: np.ndarray) -> np.ndarray:
    return np.stack([first, ~first], axis=1).astype(float)


@pytest.mark.parametrize("paired", [True, False])
def test_one_prompt_is_corrected_over_its_images(paired: bool) -> None:
    rng = np.random.default_rng(5)

    def run() -> tuple[Interval, float]:
        arms = [[one_hot(read(rng, rng.random(200) < share))] for share in (0.2, 0.5)]
        confusion = validated(rng, 100)
        return corrected_shift(*arms, confusion, paired=paired, level=LEVEL, seed=int(rng.integers(2**31)))[0], 0.3

    assert_covers(run, 200)


def test_shifts_of_all_values_cancel_and_swapping_negates_them() -> None:
    rng = np.random.default_rng(6)
    base, adapted = ([np.eye(4)[rng.integers(0, 4, 16)] for _ in range(8)] for _ in range(2))
    names = [f"c{row // 2}" for row in range(8)]
    one = corrected_shift(base, adapted, RATES_4 * 50, paired=True, level=LEVEL, clusters=names)
    other = corrected_shift(adapted, base, RATES_4 * 50, paired=True, level=LEVEL, clusters=names)
    assert sum(interval.value or 0 for interval in one) == pytest.approx(0)
    for first, second in zip(one, other, strict=True):
        assert first.value == pytest.approx(-(second.value or 0))


@pytest.mark.parametrize(
    ("confusion", "reason"),
    [
        (np.array([[60, 40], [40, 60]]), r"sensitivity \+ specificity - 1 is 0.20"),
        (np.array([[60, 40], [0, 0]]), r"truly value number \[1\]"),
        (np.array([[34, 33, 33], [33, 34, 33], [33, 33, 34]]), "smallest singular value"),
    ],
)
def test_a_weak_or_unknown_reader_is_refused(confusion: np.ndarray, reason: str) -> None:
    count = len(confusion)
    assert re.search(reason, too_weak(confusion) or "")
    found = corrected_shares(np.full(count, 10), confusion, level=LEVEL)
    assert all(interval.value is None and "not corrected" in interval.how for interval in found)
    images = [np.eye(count)]
    assert corrected_shift(images, images, confusion, paired=True, level=LEVEL)[0].value is None
    if count == 2:
        assert rogan_gladen(5, 10, confusion, level=LEVEL).value is None


def test_nothing_read_is_not_corrected_and_extremes_do_not_break_it() -> None:
    confusion = np.array([[85, 15], [5, 95]])
    assert rogan_gladen(0, 0, confusion, level=LEVEL).value is None
    assert corrected_shares(np.zeros(2), confusion, level=LEVEL)[0].value is None
    assert corrected_shift([], [], confusion, paired=True, level=LEVEL)[0].value is None
    assert rogan_gladen(0, 16, confusion, level=LEVEL).value == 0
    assert rogan_gladen(16, 16, confusion, level=LEVEL).value == 1
    one = [np.array([[1.0, 0.0]])]
    assert corrected_shift(one, one, confusion, paired=True, level=LEVEL)[0].value == 0
