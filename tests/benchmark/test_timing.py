"""Medians, quartiles and ratios of readings; expected values by hand and from NumPy and scipy."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from evenhand.benchmark.timing import Clock, in_turn, ratio, timing

CPU = torch.device("cpu")


def test_a_timing_is_median_and_quartiles() -> None:
    found = timing([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.n, found.median, found.quartile_1, found.quartile_3) == (5, 3.0, 2.0, 4.0)


def test_no_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="no readings"):
        timing([])


def test_a_ratio_is_of_the_medians_with_the_bounds_of_a_sign_test() -> None:
    """The bounds leave out as many pairs as a sign test at 5 % says may lie on one side: scipy's binomial test."""
    random = np.random.default_rng(0)
    reference = random.uniform(1.0, 2.0, 40)
    work = 1.25 * reference
    work[:3] *= 100.0  # readings that something else got in the way of
    found = ratio(work.tolist(), reference.tolist())
    assert found.value == pytest.approx(np.median(work) / np.median(reference))
    pairs = np.sort(work / reference)
    outside = int(np.sum(pairs < found.low))
    assert binomtest(outside, 40, 0.5).pvalue < 0.05
    assert binomtest(outside + 1, 40, 0.5).pvalue >= 0.05 or outside == 0
    assert found.low == pytest.approx(1.25)
    assert found.high == pytest.approx(1.25)
    assert found.n == 40


def test_a_ratio_of_equal_work_holds_one_and_of_other_work_does_not() -> None:
    random = np.random.default_rng(1)
    first, second = random.lognormal(0.0, 0.2, 30), random.lognormal(0.0, 0.2, 30)
    same, slower = ratio(first.tolist(), second.tolist()), ratio((1.5 * first).tolist(), second.tolist())
    assert same.low < 1.0 < same.high
    assert slower.low > 1.0


def test_few_pairs_are_bounded_by_their_extremes() -> None:
    found = ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (found.low, found.high) == (1.0, 3.0)


def test_a_ratio_needs_pairs() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        ratio([1.0, 2.0], [1.0])


def test_work_in_turn_is_timed_apart_and_after_a_warm_up() -> None:
    calls: list[str] = []

    def quick() -> None:
        calls.append("quick")

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.02)

    turns = in_turn(quick, slow, pairs=3, clock=Clock(CPU))
    assert calls == ["quick", "slow"] * 4
    assert len(turns.first) == len(turns.second) == 3
    assert min(turns.second) >= 0.02
    assert float(np.median(turns.first)) < 0.02


@pytest.mark.gpu
def test_a_gpus_marks_are_events() -> None:
    clock = Clock(torch.device("cuda"))
    first = clock.mark()
    torch.randn(2000, 2000, device="cuda") @ torch.randn(2000, 2000, device="cuda")
    second = clock.mark()
    assert first.event is not None
    assert clock.between(first, second) > 0.0
