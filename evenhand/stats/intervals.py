"""Intervals. J prompts, n images; a cluster is a concept, whose wordings move together.

Sources: Wilson 1927; Clopper and Pearson 1934; Newcombe 1998 (method 10); Bonett and Price 2012 (paired proportions);
Fieller 1954 (ratio of means); Efron and Tibshirani 1993, chapter 11 (jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A value with its interval; ``how`` says how it was made, or why there is none."""

    value: float | None
    low: float | None
    high: float | None
    how: str


@lru_cache(maxsize=1024)
def normal_quantile(level: float) -> float:
    """The two-sided normal quantile: 1.96 for 0.95."""
    return float(stats.norm.ppf((1 + level) / 2))


@lru_cache(maxsize=4096)
def t_quantile(level: float, degrees: float) -> float:
    """The two-sided quantile of Student's t."""
    return float(stats.t.ppf((1 + level) / 2, degrees))


def wilson(count: float, n: int, *, level: float) -> Interval:
    """Score interval of a share of ``count`` in ``n`` independent images (Wilson 1927)."""
    if n == 0:
        return Interval(None, None, None, "not estimable: no image was read")
    z, p = normal_quantile(level), count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half), "Wilson interval over images")


def clopper_pearson(count: int, n: int, *, level: float) -> Interval:
    """Exact interval of a share of ``count`` in ``n`` independent images: covers at least ``level``, mostly more.

    Clopper and Pearson 1934, by quantiles of the beta distribution.
    """
    if n == 0:
        return Interval(None, None, None, "not estimable: no image was read")
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return Interval(count / n, low, high, "Clopper-Pearson interval over images")


def paired_difference(gained: int, lost: int, n: int, *, level: float) -> Interval:
    """Bonett-Price interval of a change in share over ``n`` pairs, of which ``gained`` and ``lost`` changed."""
    if n == 0:
        return Interval(None, None, None, "not estimable: no pair was read in both arms")
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = normal_quantile(level) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    middle = up - down
    value = (gained - lost) / n
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Interval(value, min(value, low), max(value, high), "Bonett-Price interval over same-seed pairs")


def unpaired_difference(count_1: int, n_1: int, count_0: int, n_0: int, *, level: float) -> Interval:
    """Newcombe's hybrid score interval of ``count_1 / n_1 - count_0 / n_0``."""
    one, zero = wilson(count_1, n_1, level=level), wilson(count_0, n_0, level=level)
    if one.value is None or zero.value is None:
        return Interval(None, None, None, "not estimable: an arm has no image that was read")
    assert one.low is not None
    assert one.high is not None
    assert zero.low is not None
    assert zero.high is not None
    value = one.value - zero.value
    low = value - math.hypot(one.value - one.low, zero.high - zero.value)
    high = value + math.hypot(one.high - one.value, zero.value - zero.low)
    return Interval(value, low, high, "unpaired: Newcombe interval over images")


def welch_difference(one_N: Floats, zero_M: Floats, *, level: float) -> Interval:
    """t interval of the difference of two means over independent images with unequal variances."""
    if len(one_N) < 2 or len(zero_M) < 2:
        return Interval(None, None, None, "not estimable: an arm has fewer than two images that were read")
    value = float(one_N.mean() - zero_M.mean())
    if one_N.std() == 0 and zero_M.std() == 0:
        return Interval(value, value, value, "unpaired: no spread between images")
    bounds = stats.ttest_ind(one_N, zero_M, equal_var=False).confidence_interval(level)
    return Interval(value, float(bounds.low), float(bounds.high), "unpaired: Welch interval over images")


def _cluster_indices(clusters: Sequence[str]) -> tuple[NDArray[np.intp], int, str]:
    """Cluster number of each prompt, number of clusters, and the unit in words.

    Wordings of one concept share what the model believes of it. Treating them as independent prompts covers too seldom
    (tests/stats/test_intervals.py measures it); with one prompt a concept the two are the same.
    """
    names = sorted(set(clusters))
    if len(names) == len(clusters) or len(names) == 1:
        return np.arange(len(clusters)), len(clusters), f"{len(clusters)} prompts"
    numbers = {name: number for number, name in enumerate(names)}
    indices = np.array([numbers[name] for name in clusters], dtype=np.intp)
    return indices, len(names), f"{len(clusters)} prompts of {len(names)} concepts, by concept"


def _covariance(x_J: Floats, y_J: Floats, indices: NDArray[np.intp], count: int) -> float:
    """Cluster-robust covariance of the means of ``x`` and ``y``."""
    x_C = np.bincount(indices, weights=x_J - x_J.mean(), minlength=count)
    y_C = np.bincount(indices, weights=y_J - y_J.mean(), minlength=count)
    return float(count / (count - 1) * (x_C @ y_C) / len(x_J) ** 2)


class MeanError(NamedTuple):
    """Standard error of a mean over prompts, its degrees of freedom, and the unit of resampling in words."""

    spread: float
    degrees: int
    unit: str


def mean_error(values_J: Floats, clusters: Sequence[str]) -> MeanError:
    """Standard error of the mean of two prompts or more, concepts together."""
    indices, count, unit = _cluster_indices(clusters)
    spread = math.sqrt(max(0.0, _covariance(values_J, values_J, indices, count)))
    return MeanError(spread, count - 1, unit)


def mean_interval(values_J: Floats, clusters: Sequence[str], *, level: float) -> Interval:
    """t interval of a mean over prompts: what it would be for prompts like these."""
    if len(values_J) == 0:
        return Interval(None, None, None, "not estimable: no prompt has a reading")
    value = float(np.mean(values_J))
    if len(values_J) == 1:
        return Interval(value, None, None, "one prompt: no interval over prompts")
    error = mean_error(values_J, clusters)
    half = t_quantile(level, error.degrees) * error.spread
    return Interval(value, value - half, value + half, f"t interval over {error.unit}")


def reduction_interval(base_J: Floats, adapted_J: Floats, clusters: Sequence[str], *, level: float) -> Interval:
    """``1 - mean(adapted) / mean(base)`` with Fieller's interval over prompts.

    Exact where prompt means are normal, and honest where the base's mean is near zero: then there is no interval.
    """
    if len(base_J) < 2:
        return Interval(None, None, None, "not estimable: needs two prompts or more")
    indices, count, unit = _cluster_indices(clusters)
    base, adapted = float(np.mean(base_J)), float(np.mean(adapted_J))
    t_squared = t_quantile(level, count - 1) ** 2
    a = base**2 - t_squared * _covariance(base_J, base_J, indices, count)
    if a <= 0:
        return Interval(None, None, None, "not estimable: the base's own gap is not clear of zero")
    b = base * adapted - t_squared * _covariance(base_J, adapted_J, indices, count)
    c = adapted**2 - t_squared * _covariance(adapted_J, adapted_J, indices, count)
    root = math.sqrt(max(0.0, b * b - a * c))
    return Interval(1 - adapted / base, 1 - (b + root) / a, 1 - (b - root) / a, f"Fieller interval over {unit}")


def jackknife_interval(
    statistic: Callable[[NDArray[np.bool_]], float], clusters: Sequence[str], *, level: float
) -> Interval:
    """t interval of a statistic of all prompts, leaving out one prompt (or concept) at a time.

    ``statistic`` takes a mask of the prompts to use.
    """
    everything = np.ones(len(clusters), dtype=np.bool_)
    if len(clusters) == 0:
        return Interval(None, None, None, "not estimable: no prompt has a reading")
    value = statistic(everything)
    if len(clusters) == 1:
        return Interval(value, None, None, "one prompt: no interval over prompts")
    indices, count, unit = _cluster_indices(clusters)
    left_out = np.array([statistic(indices != number) for number in range(count)])
    spread = math.sqrt((count - 1) / count * float(np.sum((left_out - left_out.mean()) ** 2)))
    half = t_quantile(level, count - 1) * spread
    return Interval(value, value - half, value + half, f"jackknife over {unit}")
