"""Intervals over prompts where a plain t interval covers too seldom: shares near 0 or 1, and squared distances.

Letters: J prompts, C clusters (concepts whose wordings move together). Coverage in simulated folders of 5 to 40 prompts
with 8 or 16 images: tests/stats/test_over_prompts.py.

Sources: Wilson 1927 with an effective sample size for clustered samples as in Korn and Graubard 1998 (Survey
Methodology 24) and Dean and Pagano 2015 (Journal of Survey Statistics and Methodology 3); Hall 1992 (JRSS B 54,
transformation for skewed means); Cochran 1977, chapter 2.11 (a ratio's linearised variance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand.stats.intervals import Interval, normal_quantile, t_quantile

Floats = NDArray[np.float64]

# A sample of more than this many times the images is never assumed, however equal the prompts happen to be.
MOST_EFFECTIVE = 10.0
# The variance between prompts counts as at least this part of what sampling images alone makes it: less is an accident.
LEAST_OF_SAMPLING = 0.5
# Hall's low end is at most this many times as far from the mean as Student's: one prompt that differs from four equal
# ones would else bring it to zero. Coverage with and without: the module's test.
MOST_LOWER = 1.25


class Spread(NamedTuple):
    """A mean over prompts: its variance over clusters, its skewness, and the unit in words."""

    mean: float
    variance: float
    skewness: float
    num_clusters: int
    unit: str


def _numbers(clusters: Sequence[str]) -> tuple[NDArray[np.intp], int, str]:
    names = sorted(set(clusters))
    if len(names) == len(clusters) or len(names) == 1:
        return np.arange(len(clusters)), len(clusters), f"{len(clusters)} prompts"
    number = {name: index for index, name in enumerate(names)}
    indices = np.array([number[name] for name in clusters], dtype=np.intp)
    return indices, len(names), f"{len(clusters)} prompts of {len(names)} concepts, by concept"


def spread(values_J: Floats, clusters: Sequence[str]) -> Spread:
    """Cluster-robust variance of a mean over prompts; needs two prompts or more."""
    indices, count, unit = _numbers(clusters)
    mean = float(values_J.mean())
    parts_C = np.bincount(indices, weights=values_J - mean, minlength=count) * (count / len(values_J))
    second = float(parts_C @ parts_C) / (count - 1)
    third = count * float(np.sum(parts_C**3)) / ((count - 1) * (count - 2)) if count > 2 else 0.0
    tiny = second <= 1e-24
    return Spread(mean, 0.0 if tiny else second / count, 0.0 if tiny else third / second**1.5, count, unit)


def _too_few(values_J: Floats) -> Interval | None:
    if len(values_J) == 0:
        return Interval(None, None, None, "not estimable: no prompt has a reading")
    if len(values_J) == 1:
        return Interval(float(values_J[0]), None, None, "one prompt: no interval over prompts")
    return None


def effective_wilson(
    value: float, variance: float, num_clusters: int, *, n: float, level: float
) -> tuple[float, float]:
    """Wilson's bounds of a share whose variance over clusters is ``variance``; ``n`` images were read.

    The images count as many as independent ones would have to be for that variance, and Student's quantile takes the
    place of the normal one.
    """
    z, t = normal_quantile(level), t_quantile(level, num_clusters - 1)
    size = float(n)
    if variance > 0 and 0 < value < 1:
        size = min(MOST_EFFECTIVE * n, value * (1 - value) / variance * (z / t) ** 2)
    middle = (value + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(value * (1 - value) / size + z * z / (4 * size * size))
    return max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


def share_interval(shares_J: Floats, clusters: Sequence[str], *, n_images: int, level: float) -> Interval:
    """A mean of prompts' shares, for prompts like these; right also near 0 and 1."""
    few = _too_few(shares_J)
    if few is not None:
        return few
    found = spread(shares_J, clusters)
    low, high = effective_wilson(found.mean, found.variance, found.num_clusters, n=n_images, level=level)
    return Interval(found.mean, low, high, f"Wilson interval with the effective sample size of {found.unit}")


def _hall(t: float, skewness: float, count: int) -> float:
    """The studentised bound that Hall's cubic transformation gives in the place of ``t``."""
    a = skewness / math.sqrt(count)
    if abs(a) < 1e-6:
        return t
    return 3 / a * (float(np.cbrt(1 + a * (t - a / 6))) - 1)


def skewed_interval(values_J: Floats, clusters: Sequence[str], *, sampling_variance: float, level: float) -> Interval:
    """A mean of squared distances over prompts: Hall's interval, as wide as sampling makes it at least.

    ``sampling_variance`` is the variance of the mean that sampling images alone gives.
    """
    few = _too_few(values_J)
    if few is not None:
        return few
    found = spread(values_J, clusters)
    t = t_quantile(level, found.num_clusters - 1)
    error = math.sqrt(found.variance)
    least = t * math.sqrt(LEAST_OF_SAMPLING * sampling_variance)
    low = found.mean - max(least, error * min(MOST_LOWER * t, _hall(t, found.skewness, found.num_clusters)))
    high = found.mean + max(least, -error * _hall(-t, found.skewness, found.num_clusters))
    return Interval(found.mean, low, high, f"Hall's interval for skewed means over {found.unit}")


def change_interval(values_J: Floats, clusters: Sequence[str], *, sampling_variance: float, level: float) -> Interval:
    """A mean of prompts' changes: t interval, as wide as sampling makes it at least."""
    few = _too_few(values_J)
    if few is not None:
        return few
    found = spread(values_J, clusters)
    t = t_quantile(level, found.num_clusters - 1)
    half = t * math.sqrt(max(found.variance, LEAST_OF_SAMPLING * sampling_variance))
    return Interval(found.mean, found.mean - half, found.mean + half, f"t interval over {found.unit}")


def distance_sampling_variance(shares_JK: Floats, n_J: Floats, targets_JK: Floats) -> float:
    """The variance that sampling images alone gives to the mean over prompts of the unbiased squared distance.

    For one prompt it is ``4 d'Sd + 2 tr(S S)``, with ``d`` the distance to the target and ``S`` the covariance of its
    shares; the plug-in of the first term is too large by twice the second and more. One image is added, spread evenly,
    so that a prompt that shows one value only has a variance.
    """
    count, k = shares_JK.shape
    smooth_JK = (shares_JK * n_J[:, None] + 1 / k) / (n_J[:, None] + 1)
    d_JK = shares_JK - targets_JK
    along_J = ((smooth_JK * d_JK**2).sum(axis=1) - (smooth_JK * d_JK).sum(axis=1) ** 2) / n_J
    squares_J = (smooth_JK**2).sum(axis=1)
    trace_J = (squares_J - 2 * (smooth_JK**3).sum(axis=1) + squares_J**2) / n_J**2
    return float(max(np.mean(4 * along_J - 2 * trace_J), np.mean(2 * trace_J))) / float(count)


def on_target_p(value: float, n_J: Floats, targets_JK: Floats) -> float:
    """Chance that a generator exactly on target has a mean unbiased squared distance of ``value`` or more.

    From the variance and the third moment of the quadratic form (Pearson's type III; Imhof 1961, section 4), which
    holds in the far tail, where an interval from a handful of prompts does not.
    """
    second = third = 0.0
    for target_K in np.unique(targets_JK, axis=0):
        matrix = np.diag(target_K) - np.outer(target_K, target_K)
        n = n_J[np.all(targets_JK == target_K, axis=1)]
        second += 2 * float(np.trace(matrix @ matrix)) * float(np.sum(1 / (n * np.maximum(n - 1, 1))))
        third += 8 * float(np.trace(matrix @ matrix @ matrix)) * float(np.sum(1 / n**3))
    if second <= 0:
        return 1.0 if value <= 0 else 0.0
    shape = 4 * second**3 / third**2 if third > 0 else math.inf
    z = value * len(n_J) / math.sqrt(second)
    if math.isinf(shape):
        return float(stats.norm.sf(z))
    return float(stats.gamma.sf(shape + z * math.sqrt(shape), shape))
