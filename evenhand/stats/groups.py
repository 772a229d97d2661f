"""Pictures of several people. The image is the independent draw, never the person in it: people in a picture are alike.

``counts_NK`` holds how many subjects of each value an image shows: N images, K values; m subjects in an image.
``clusters`` names what images move together, mostly their prompt; without it each image counts by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, jackknife_interval, t_quantile
from evenhand.stats.over_prompts import effective_wilson

Floats = NDArray[np.float64]
NO_SPREAD = 1e-18  # a variance of shares below this is rounding
NO_SUBJECT = Interval(None, None, None, "not estimable: no subject was read")


def subject_share(counts_NK: Floats, index: int, *, level: float, clusters: Sequence[str] | None = None) -> Interval:
    """Share of a value among all subjects, so that large crowds weigh more.

    Ratio estimator with linearised variance over clusters (Cochran 1977, equation 6.13; for clusters, Kish 1965,
    section 6.3). Its interval is Wilson's at the number of independent subjects that would have this variance (Korn and
    Graubard 1998), which holds near 0 and 1 as well; without spread between clusters, at the number of clusters.
    """
    counts_NK, names = _with_subjects(counts_NK, clusters)
    if not len(counts_NK):
        return NO_SUBJECT
    residuals_C, count = _summed(_residuals(counts_NK, index), names)
    value = float(counts_NK[:, index].sum() / counts_NK.sum())
    unit = f"{count} images" if clusters is None else f"{count} clusters"
    if count < 2:
        return Interval(value, None, None, f"one {'image' if clusters is None else 'cluster'}: no interval")
    variance = count / (count - 1) * float(residuals_C @ residuals_C)
    draws = count if variance <= NO_SPREAD else counts_NK.sum()
    low, high = effective_wilson(value, variance, count, n=float(draws), level=level)
    return Interval(value, low, high, f"ratio estimator, Wilson interval at the effective size of {unit}")


def subject_share_shift(
    base_NK: Floats,
    adapted_NK: Floats,
    index: int,
    *,
    paired: bool,
    level: float,
    clusters: Sequence[str] | None = None,
    base_clusters: Sequence[str] | None = None,
) -> Interval:
    """Change of :func:`subject_share`. ``paired``: rows are same-seed pairs, and residuals are subtracted pair by pair.

    ``clusters`` names the rows of both arms, or of ``adapted_NK`` where ``base_clusters`` names those of ``base_NK``.
    With clusters, what both arms show of a cluster is subtracted also when there are no pairs.
    """
    old_names, new_names = _shift_names(base_NK, adapted_NK, paired, clusters, base_clusters)
    if not base_NK.sum() or not adapted_NK.sum():
        return NO_SUBJECT
    value = float(adapted_NK[:, index].sum() / adapted_NK.sum() - base_NK[:, index].sum() / base_NK.sum())
    residuals = np.concatenate([-_residuals(base_NK, index), _residuals(adapted_NK, index)])
    residuals_C, count = _summed(residuals, [*old_names, *new_names])
    if count < 2:
        return Interval(value, None, None, f"one {'image' if clusters is None else 'cluster'}: no interval")
    variance = count / (count - 1) * float(residuals_C @ residuals_C)
    if variance <= NO_SPREAD and clusters is not None:  # an interval over clusters has no width; that over images has
        found = subject_share_shift(base_NK, adapted_NK, index, paired=paired, level=level)
        return found._replace(how=f"no spread between prompts; {found.how}")
    if variance <= NO_SPREAD:  # as in Bonett and Price 2012: one cluster that gained and one that lost are added
        variance = 2 / (count + 2) ** 2
    half = t_quantile(level, count - 1) * math.sqrt(variance)
    unit = "pairs" if paired and clusters is None else "images" if clusters is None else "clusters"
    how = f"ratio estimator over {count} {unit}" if paired else f"unpaired: ratio estimator over {count} {unit}"
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), how)


def subjects_of_images(counts_NK: Floats) -> Floats:
    """How many subjects each image shows."""
    result: Floats = np.asarray(counts_NK, dtype=np.float64).sum(axis=1)
    return result


def presence_of_images(counts_NK: Floats, index: int) -> Floats:
    """1 where an image shows the value at least once, else 0; NaN without subjects."""
    return np.where(counts_NK.sum(axis=1) > 0, (counts_NK[:, index] > 0).astype(np.float64), np.nan)


def homogeneity_of_images(counts_NK: Floats) -> Floats:
    """1 where all subjects show one value (the "all-male panel"), else 0; NaN with fewer than two subjects."""
    subjects_N = counts_NK.sum(axis=1)
    return np.where(subjects_N >= 2, (counts_NK.max(axis=1) == subjects_N).astype(np.float64), np.nan)


def within_mix_of_images(counts_NK: Floats) -> Floats:
    """Chance that two subjects of an image differ; NaN with fewer than two subjects.

    Unbiased Simpson index ``1 - sum w (w - 1) / (m (m - 1))`` (Simpson 1949). An adapter can reach half and half by
    pictures of women only and of men only; this is what shows it.
    """
    subjects_N = counts_NK.sum(axis=1)
    pairs_N = subjects_N * (subjects_N - 1)
    alike_N = (counts_NK * (counts_NK - 1)).sum(axis=1)
    result: Floats = 1 - np.divide(alike_N, pairs_N, out=np.full(len(counts_NK), np.nan), where=pairs_N > 0)
    return result


def between_mix(counts_NK: Floats) -> float:
    """Chance that subjects of two different images differ; NaN with fewer than two images that have subjects."""
    total_K, subjects_N = counts_NK.sum(axis=0), counts_NK.sum(axis=1)
    pairs = float(total_K.sum() ** 2 - (subjects_N**2).sum())
    if pairs <= 0:
        return float("nan")
    return 1 - float((total_K**2).sum() - (counts_NK**2).sum()) / pairs


def icc(counts_NK: Floats) -> float:
    """How alike the subjects of an image are: 0 like strangers, 1 all the same. NaN where nothing differs.

    ``1 - within / between`` of the two mixes, the chance-corrected agreement of Fleiss and Cuzick 1979.
    """
    between = between_mix(counts_NK)
    within_N = within_mix_of_images(counts_NK)
    if math.isnan(between) or between <= 0 or np.all(np.isnan(within_N)):
        return float("nan")
    return 1 - float(np.nanmean(within_N)) / between


def independent_homogeneity(counts_NK: Floats) -> float:
    """The mean homogeneity if subjects were drawn independently from the shares: its control. NaN without groups."""
    subjects_N = counts_NK.sum(axis=1)
    groups_N = subjects_N[subjects_N >= 2]
    if not len(groups_N):
        return float("nan")
    shares_K = counts_NK.sum(axis=0) / counts_NK.sum()
    return float((shares_K[None, :] ** groups_N[:, None]).sum(axis=1).mean())


def between_mix_interval(counts_NK: Floats, *, level: float, clusters: Sequence[str] | None = None) -> Interval:
    """:func:`between_mix` with an interval over clusters.

    Two values: the mix ``2 p (1 - p)`` at the ends of the share's interval. More: the jackknife's variance, and the
    second-order term ``2 tr(S S)`` of a squared length whose parts have covariance S, since near an even mix the
    first-order variance vanishes and the mix still varies.
    """
    if counts_NK.shape[1] == 2:
        return _mix_of_share(counts_NK, subject_share(counts_NK, 0, level=level, clusters=clusters))
    counts_NK, names = _with_subjects(counts_NK, clusters)
    interval = _jackknife(between_mix, counts_NK, names, level)
    if interval.value is None or interval.low is None or interval.high is None:
        return interval
    residuals_CK = np.stack([_summed(_residuals(counts_NK, k), names)[0] for k in range(counts_NK.shape[1])], axis=1)
    count = len(residuals_CK)
    covariance_KK = count / (count - 1) * residuals_CK.T @ residuals_CK
    t = t_quantile(level, count - 1)
    half = math.hypot(interval.high - interval.value, t * math.sqrt(2 * float((covariance_KK**2).sum())))
    return interval._replace(low=max(0.0, interval.value - half), high=min(1.0, interval.value + half))


def _mix_of_share(counts_NK: Floats, share: Interval) -> Interval:
    value = between_mix(counts_NK)
    if share.low is None or share.high is None or math.isnan(value):
        return Interval(None if math.isnan(value) else value, None, None, share.how)
    ends = (2 * share.low * (1 - share.low), 2 * share.high * (1 - share.high))
    highest = 0.5 if share.low <= 0.5 <= share.high else max(ends)
    return Interval(value, min(value, *ends), max(value, highest), f"from the share's interval: {share.how}")


def icc_interval(counts_NK: Floats, *, level: float, clusters: Sequence[str] | None = None) -> Interval:
    """:func:`icc` with a jackknife interval over clusters."""
    counts_NK, names = _with_subjects(counts_NK, clusters)
    return _jackknife(icc, counts_NK, names, level)


def _jackknife(statistic: Callable[[Floats], float], counts_NK: Floats, names: Sequence[str], level: float) -> Interval:
    if not len(counts_NK) or math.isnan(statistic(counts_NK)):
        return Interval(None, None, None, "not estimable: nothing differs between subjects, or too few images")
    interval = jackknife_interval(lambda mask: statistic(counts_NK[mask]), names, level=level)
    if interval.low is None or interval.high is None or math.isnan(interval.low):
        return Interval(interval.value, None, None, "no interval: it hangs on one cluster")
    return interval._replace(how=interval.how.replace("prompt", "cluster"))


def _with_subjects(counts_NK: Floats, clusters: Sequence[str] | None) -> tuple[Floats, list[str]]:
    """Images that show someone, and what each belongs to."""
    counts_NK = np.asarray(counts_NK, dtype=np.float64)
    some = counts_NK.sum(axis=1) > 0
    names = [str(row) for row in range(len(counts_NK))] if clusters is None else list(clusters)
    return counts_NK[some], [name for name, used in zip(names, some, strict=True) if used]


def _shift_names(
    base_NK: Floats,
    adapted_NK: Floats,
    paired: bool,
    clusters: Sequence[str] | None,
    base_clusters: Sequence[str] | None,
) -> tuple[list[str], list[str]]:
    """Cluster of each row of both arms: pairs share theirs, unpaired images have their own."""
    if paired and len(base_NK) != len(adapted_NK):
        raise ValueError(f"paired arms need as many images, got {len(base_NK)} and {len(adapted_NK)}; use paired=False")
    if clusters is not None:
        return list(clusters if base_clusters is None else base_clusters), list(clusters)
    new_names = [f"row {row}" for row in range(len(adapted_NK))]
    return ([f"row {row}" if paired else f"base {row}" for row in range(len(base_NK))], new_names)


def _residuals(counts_NK: Floats, index: int) -> Floats:
    """What each image adds to the share's error, to first order."""
    counts_NK = np.asarray(counts_NK, dtype=np.float64)
    subjects_N, total = counts_NK.sum(axis=1), counts_NK.sum()
    share = counts_NK[:, index].sum() / total
    result: Floats = (counts_NK[:, index] - share * subjects_N) / total
    return result


def _summed(values_N: Floats, names: Sequence[str]) -> tuple[Floats, int]:
    """Sums by cluster, and their number."""
    _, indices = np.unique(np.asarray(names), return_inverse=True)
    sums_C = np.bincount(indices, weights=values_N).astype(np.float64)
    return sums_C, len(sums_C)
