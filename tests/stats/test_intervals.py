"""Expected values come from scipy, from closed forms written out here, or from simulations with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from evenhand.stats.intervals import (
    clopper_pearson,
    jackknife_interval,
    mean_interval,
    paired_difference,
    reduction_interval,
    unpaired_difference,
    welch_difference,
    wilson,
)

LEVEL = 0.95


def names(count: int) -> list[str]:
    return [f"c{index}" for index in range(count)]


@pytest.mark.parametrize(("count", "n"), [(0, 16), (1, 16), (8, 16), (16, 16), (37, 250)])
def test_wilson_equals_scipys(count: int, n: int) -> None:
    expected = stats.binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    interval = wilson(count, n, level=LEVEL)
    assert interval.value == count / n
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("count", "n"), [(0, 16), (1, 16), (8, 16), (16, 16), (37, 250)])
def test_share_intervals_equal_statsmodels(count: int, n: int) -> None:
    for interval, method in (
        (wilson(count, n, level=LEVEL), "wilson"),
        (clopper_pearson(count, n, level=LEVEL), "beta"),
    ):
        expected = proportion_confint(count, n, method=method)
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_clopper_pearson_never_covers_too_seldom(share: float) -> None:
    """Exact: summed over all outcomes of 16 images. Wald's interval at the same shares covers 15 to 92 %."""
    chances = stats.binom.pmf(np.arange(17), 16, share)
    ends = [clopper_pearson(count, 16, level=LEVEL) for count in range(17)]
    assert sum(p for p, end in zip(chances, ends, strict=True) if end.low <= share <= end.high) >= 0.95  # type: ignore[operator]
    assert clopper_pearson(0, 0, level=LEVEL).value is None


def test_no_image_is_not_a_share_of_zero() -> None:
    interval = wilson(0, 0, level=LEVEL)
    assert interval.value is None
    assert "not estimable" in interval.how


def test_t_interval_equals_scipys_when_each_concept_has_one_prompt() -> None:
    values = np.array([0.1, -0.3, 0.25, 0.4, 0.05])
    expected = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    interval = mean_interval(values, names(5), level=LEVEL)
    assert (interval.value, interval.low, interval.high) == pytest.approx((values.mean(), expected.low, expected.high))


def test_t_interval_with_equal_wordings_is_that_of_the_concepts_means() -> None:
    values = np.array([0.1, 0.2, 0.5, 0.3, -0.2, 0.0])
    means = values.reshape(3, 2).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(LEVEL)
    interval = mean_interval(values, ["a", "a", "b", "b", "c", "c"], level=LEVEL)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_one_prompt_has_a_value_and_no_interval() -> None:
    interval = mean_interval(np.array([0.4]), ["a"], level=LEVEL)
    assert interval.value == 0.4
    assert interval.low is None
    assert interval.high is None


def coverage_of_wordings(*, by_concept: bool, repeats: int = 600) -> float:
    """How often an interval over 12 concepts x 4 wordings holds the true mean 0 when concepts differ by 0.2."""
    rng = np.random.default_rng(1)
    concepts = [f"c{index // 4}" for index in range(48)]
    units = concepts if by_concept else names(48)
    hits = 0
    for _ in range(repeats):
        values = np.repeat(rng.normal(0, 0.2, 12), 4) + rng.normal(0, 0.1, 48)
        interval = mean_interval(values, units, level=LEVEL)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0 <= interval.high
    return hits / repeats


def test_wordings_of_a_concept_must_count_together() -> None:
    """The reason for clustering: without it, 95 % intervals hold the truth far too seldom."""
    assert 0.925 <= coverage_of_wordings(by_concept=True) <= 0.975
    assert coverage_of_wordings(by_concept=False) < 0.80


def test_paired_difference_is_bonett_and_prices() -> None:
    """By hand for 9 gained, 2 lost of 16: centre 7/18, squared error (13/18 - (7/18)^2) / 18."""
    half = 1.959964 * ((13 / 18 - (7 / 18) ** 2) / 18) ** 0.5
    interval = paired_difference(9, 2, 16, level=LEVEL)
    assert interval.value == pytest.approx(7 / 16)
    assert (interval.low, interval.high) == pytest.approx((7 / 18 - half, 7 / 18 + half), abs=1e-6)


@pytest.mark.parametrize(("base", "adapted"), [(0.05, 0.05), (0.05, 0.4), (0.5, 0.6)])
def test_paired_difference_covers_the_truth(base: float, adapted: float) -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(2000):
        draws = rng.random(24)
        gained, lost = (
            int(np.sum((draws < adapted) & (draws >= base))),
            int(np.sum((draws < base) & (draws >= adapted))),
        )
        interval = paired_difference(gained, lost, 24, level=LEVEL)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= adapted - base <= interval.high
    assert hits / 2000 >= 0.94


def test_swapping_the_arms_negates_every_difference() -> None:
    for one, other in [
        (paired_difference(9, 2, 16, level=LEVEL), paired_difference(2, 9, 16, level=LEVEL)),
        (unpaired_difference(9, 20, 3, 16, level=LEVEL), unpaired_difference(3, 16, 9, 20, level=LEVEL)),
    ]:
        assert other.low is not None
        assert other.high is not None
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_unpaired_difference_is_newcombes() -> None:
    """Newcombe 1998, table II, example a: 56/70 - 48/80 has the interval 0.0524 to 0.3339 (method 10)."""
    interval = unpaired_difference(56, 70, 48, 80, level=LEVEL)
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_welch_difference_equals_scipys() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.random(20), rng.random(31)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(LEVEL)
    interval = welch_difference(one, other, level=LEVEL)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_reduction_interval_is_where_the_t_test_does_not_reject() -> None:
    """Fieller's interval by definition: both ends give the t test of ``adapted - ratio * base`` p = 0.05."""
    rng = np.random.default_rng(4)
    base = rng.uniform(0.5, 1.0, 12)
    adapted = base * rng.uniform(0.1, 0.6, 12)
    interval = reduction_interval(base, adapted, names(12), level=LEVEL)
    assert interval.value == pytest.approx(1 - adapted.mean() / base.mean())
    for end in (interval.low, interval.high):
        assert end is not None
        assert stats.ttest_1samp(adapted - (1 - end) * base, 0).pvalue == pytest.approx(0.05, abs=1e-9)


def test_reduction_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1000):
        base = rng.normal(0.6, 0.2, 12)
        adapted = 0.5 * base + rng.normal(0, 0.1, 12)
        interval = reduction_interval(base, adapted, names(12), level=LEVEL)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.5 <= interval.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_a_base_without_a_gap_has_no_reduction() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(0, 0.1, 12)
    interval = reduction_interval(base, rng.normal(0, 0.1, 12), names(12), level=LEVEL)
    assert interval.value is None
    assert "not clear of zero" in interval.how


def test_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = np.array([0.1, -0.3, 0.25, 0.4, 0.05])
    expected = mean_interval(values, names(5), level=LEVEL)
    interval = jackknife_interval(lambda mask: float(values[mask].mean()), names(5), level=LEVEL)
    assert (interval.value, interval.low, interval.high) == pytest.approx((expected.value, expected.low, expected.high))
