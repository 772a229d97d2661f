"""Bounds by hand, and by filling in every possible value of the unread images."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from evenhand.stats.bounds import share_bounds, shift_bounds, unread_shift
from tests.stats.bands import holds

LEVEL = 0.95


def test_bounds_are_the_extremes_over_all_fillings() -> None:
    """Prompts of 4 and 6 images, of which 1 and 3 were not read: all 16 fillings."""
    counts, read, unread = np.array([2, 1]), np.array([3, 3]), np.array([1, 3])
    means = [np.mean([(2 + a) / 4, (1 + b + c + d) / 6]) for a, b, c, d in product((0, 1), repeat=4)]
    interval = share_bounds(counts, read, unread)
    assert interval.value is None
    assert (interval.low, interval.high) == pytest.approx((min(means), max(means)))


def test_nothing_unread_gives_the_share_and_nothing_at_all_gives_none() -> None:
    assert share_bounds(np.array([2, 1]), np.array([4, 4]), np.array([0, 0]))[1:3] == pytest.approx((0.375, 0.375))
    empty = share_bounds(np.zeros(2), np.zeros(2), np.zeros(2))
    assert (empty.low, empty.high) == (None, None)
    assert shift_bounds(empty, empty).low is None


def test_shift_bounds_hold_the_truth_when_one_group_vanishes_in_one_arm() -> None:
    """30 % of one group's faces are missed in the adapted arm only; the share of those read is off by a lot."""
    rng = np.random.default_rng(1)
    truth = [rng.random((40, 400)) < 0.5 for _ in range(2)]
    missed = [np.zeros((40, 400), dtype=bool), truth[1] & (rng.random((40, 400)) < 0.3)]
    bounds = [
        share_bounds((one & ~gone).sum(axis=1), (~gone).sum(axis=1), gone.sum(axis=1))
        for one, gone in zip(truth, missed, strict=True)
    ]
    shift = shift_bounds(*bounds)
    true_shift = truth[1].mean() - truth[0].mean()
    read_shift = truth[1][~missed[1]].mean() - truth[0].mean()
    assert holds(shift, true_shift)
    assert abs(read_shift - true_shift) > 0.05
    noticed = unread_shift(missed[0].ravel().astype(float), missed[1].ravel().astype(float), paired=True, level=LEVEL)
    assert noticed.differs
    assert noticed.interval.value == pytest.approx(missed[1].mean())


@pytest.mark.parametrize("paired", [True, False])
def test_equal_rates_of_unread_images_do_not_differ(paired: bool) -> None:
    rng = np.random.default_rng(2)
    flags = [
        unread_shift(*(rng.random((2, 640)) < 0.1).astype(float), paired=paired, level=LEVEL).differs
        for _ in range(300)
    ]
    assert np.mean(flags) < 0.09
    none = unread_shift(np.zeros(640), np.zeros(640), paired=paired, level=LEVEL)
    assert not none.differs
    assert unread_shift(np.zeros(0), np.zeros(0), paired=paired, level=LEVEL).interval.value is None


def test_over_five_points_differ_without_being_clear_of_chance() -> None:
    base, adapted = np.zeros(16), np.repeat([0.0, 1.0], [15, 1])
    assert unread_shift(base, adapted, paired=True, level=LEVEL).p == pytest.approx(0.5)
    assert unread_shift(base, adapted, paired=True, level=LEVEL).differs
