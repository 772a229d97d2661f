"""Intervals over trainings and prompts: coverage in simulated benchmarks, and the limits that are known otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evenhand.stats.intervals import Interval, mean_interval
from evenhand.stats.trainings import crossed_difference, crossed_interval, over_trainings

NUM_BENCHMARKS = 400


def simulated(rng: np.random.Generator, *, trainings: float, prompts: float, noise: float, truth: float) -> np.ndarray:
    """Three trainings on twelve prompts around a truth."""
    return (
        truth
        + trainings * rng.standard_normal((3, 1))
        + prompts * rng.standard_normal((1, 12))
        + noise * rng.standard_normal((3, 12))
    )


@pytest.mark.parametrize(
    ("trainings", "prompts", "noise"), [(1.0, 1.0, 1.0), (1.0, 0.1, 0.1), (0.1, 1.0, 0.5), (0, 0, 1)]
)
def test_the_truth_is_covered_as_often_as_is_said_or_more(trainings: float, prompts: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(NUM_BENCHMARKS):
        values = simulated(rng, trainings=trainings, prompts=prompts, noise=noise, truth=0.3)
        interval = crossed_interval(values, [str(number) for number in range(12)], level=0.95)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.3 <= interval.high
    assert stats.binomtest(covered, NUM_BENCHMARKS, 0.95, alternative="less").pvalue > 1e-3


def test_prompts_alone_would_cover_too_seldom_where_trainings_differ() -> None:
    """The control: the interval that forgets the trainings, by scipy."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(NUM_BENCHMARKS):
        means = simulated(rng, trainings=1.0, prompts=0.3, noise=0.3, truth=0.3).mean(axis=0)
        low, high = stats.t.interval(0.95, 11, loc=means.mean(), scale=stats.sem(means))
        covered += low <= 0.3 <= high
    assert covered / NUM_BENCHMARKS < 0.6


def test_where_trainings_are_alike_it_is_the_t_interval_over_prompts() -> None:
    values = np.random.default_rng(2).standard_normal(8)
    expected = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
    for copies in (1, 3):
        interval = crossed_interval(np.tile(values, (copies, 1)), list("abcdefgh"), level=0.95)
        assert (interval.low, interval.high) == pytest.approx(expected)
    assert "trainings" not in crossed_interval(values[None], list("abcdefgh"), level=0.95).how


def test_what_has_no_interval_says_why() -> None:
    assert crossed_interval(np.ones((3, 1)), ["a"], level=0.95).how == "one prompt: no interval over prompts"
    assert crossed_interval(np.ones((3, 4)), list("abcd"), level=0.95).how.startswith("no two prompts differ")
    assert crossed_interval(np.ones((0, 2)), ["a", "b"], level=0.95).value is None
    with pytest.raises(ValueError, match="not finite"):
        crossed_interval(np.array([[1.0, np.nan]]), ["a", "b"], level=0.95)
    with pytest.raises(ValueError, match="trainings x 3 prompts"):
        crossed_interval(np.ones((2, 2)), ["a", "b", "c"], level=0.95)


NAMES = [str(number) for number in range(12)]


def two_methods(rng: np.random.Generator, *, num_first: int, num_second: int) -> tuple[np.ndarray, np.ndarray]:
    """Trainings of two methods that differ by 0.2, on the same twelve prompts."""
    prompts = 2.0 * rng.standard_normal(12)
    first, second = (
        prompts + 0.5 * rng.standard_normal((count, 1)) + 0.3 * rng.standard_normal((count, 12))
        for count in (num_first, num_second)
    )
    return first + 0.2, second


@pytest.mark.parametrize(("num_first", "num_second"), [(3, 3), (2, 3), (1, 3), (3, 1)])
def test_a_difference_is_covered_with_equal_and_with_unequal_numbers_of_trainings(
    num_first: int, num_second: int
) -> None:
    rng, covered, widths = np.random.default_rng(3), 0, []
    for _ in range(NUM_BENCHMARKS):
        first, second = two_methods(rng, num_first=num_first, num_second=num_second)
        found = crossed_difference(first, second, NAMES, trained=(True, True), level=0.95)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 <= found.high
        widths.append(found.high - found.low)
    assert stats.binomtest(covered, NUM_BENCHMARKS, 0.95, alternative="less").pvalue > 1e-3
    assert np.median(widths) < 6  # the prompts' own spread of 2 cancels: with it the ends would be further apart


def test_to_forget_how_one_training_varies_would_cover_too_seldom() -> None:
    """The control: one training beside three, as if its own spread were none."""
    rng, covered = np.random.default_rng(4), 0
    for _ in range(NUM_BENCHMARKS):
        first, second = two_methods(rng, num_first=1, num_second=3)
        found = crossed_difference(first, second, NAMES, trained=(False, True), level=0.95)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 <= found.high
    assert covered / NUM_BENCHMARKS < 0.9


def test_two_that_were_trained_once_are_compared_over_prompts_alone_and_it_says_so() -> None:
    first, second = np.random.default_rng(5).standard_normal((2, 1, 12))
    found = crossed_difference(first, second, NAMES, trained=(True, True), level=0.95)
    expected = stats.ttest_rel(first[0], second[0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert "how trainings differ is not in it" in found.how
    untrained = crossed_difference(first, second, NAMES, trained=(False, False), level=0.95)
    assert (untrained.low, untrained.high) == (found.low, found.high)
    assert "trainings" not in untrained.how
    with pytest.raises(ValueError, match="measured once, got 2 rows"):
        crossed_difference(np.ones((2, 12)), second, NAMES, trained=(False, True), level=0.95)


def test_an_estimate_of_several_trainings_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(6), 0
    for _ in range(NUM_BENCHMARKS):
        values = simulated(rng, trainings=1.0, prompts=1.0, noise=1.0, truth=0.3)
        found = over_trainings([mean_interval(row, NAMES, level=0.95) for row in values], level=0.95)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert stats.binomtest(covered, NUM_BENCHMARKS, 0.95, alternative="less").pvalue > 1e-3


def test_the_ends_of_trainings_are_added_in_squares_and_one_training_is_as_it_is() -> None:
    one, other = Interval(0.4, 0.3, 0.7, "a"), Interval(0.6, 0.5, 0.7, "a")
    found = over_trainings([one, other], level=0.95)
    half = stats.t.ppf(0.975, 1) * np.std([0.4, 0.6], ddof=1) / 2**0.5
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - np.hypot(0.1, half), 0.5 + np.hypot(0.2, half)))
    assert over_trainings([one], level=0.95) == one
    assert over_trainings([one, Interval(0.5, None, None, "why not")], level=0.95).how == "why not"
    assert over_trainings([one, Interval(None, None, None, "unread")], level=0.95) == (None, None, None, "unread")
    assert over_trainings([], level=0.95).value is None
