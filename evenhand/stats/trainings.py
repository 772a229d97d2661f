"""Intervals over trainings and prompts together. Letters: S and T trainings, J prompts that all have.

The variance of a grand mean is taken as the variance of the prompts' means over J plus that of the trainings' means
over S, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). What trainings and prompts share of one
image's noise is counted in both, so the interval is a little too wide, and never too narrow for it. Coverage in
simulated benchmarks: tests/stats/test_trainings.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, t_quantile
from evenhand.stats.over_prompts import LEAST_OF_SAMPLING, spread

Floats = NDArray[np.float64]

NO_SPREAD = "no two prompts differ, which says nothing of others: no interval"
ONE_PROMPT = "one prompt: no interval over prompts"
NOTHING = Interval(None, None, None, "not estimable: nothing was measured")


def crossed_interval(
    values_SJ: Floats, clusters: Sequence[str], *, level: float, sampling_variance: float = 0.0
) -> Interval:
    """The mean of all values with its interval; ``clusters`` names the concept of each prompt.

    ``sampling_variance`` is the variance of the mean that sampling images alone gives: however equal prompts happen to
    be, that between them counts as at least a part of it, as in ``over_prompts.skewed_interval``.
    With one training the interval is over prompts alone, and says so. ValueError for a value that is not finite.
    """
    _check(values_SJ, clusters)
    parts = []
    if len(values_SJ) > 1:
        parts.append((_between(values_SJ) / len(values_SJ), len(values_SJ) - 1))
    return _interval(
        values_SJ.mean(axis=0) if values_SJ.size else np.zeros(0),
        clusters,
        parts,
        f" and {len(values_SJ)} trainings" if parts else "",
        sampling_variance=sampling_variance,
        level=level,
    )


def crossed_difference(
    values_SJ: Floats,
    others_TJ: Floats,
    clusters: Sequence[str],
    *,
    trained: tuple[bool, bool],
    level: float,
    sampling_variance: float = 0.0,
) -> Interval:
    """The mean of ``values_SJ`` minus that of ``others_TJ``, prompt by prompt; trainings of the two are independent.

    ``trained`` says of each whether other trainings of it would differ: the base and what is done without training are
    as they are. Who was trained once is taken to vary as the other does; where both were, the interval is over prompts
    alone, and says so. ``sampling_variance`` as above, of the difference. ValueError for values that are not finite, or
    untrained ones with several rows.
    """
    several = []
    for rows_SJ, is_trained in ((values_SJ, trained[0]), (others_TJ, trained[1])):
        _check(rows_SJ, clusters)
        if not is_trained and len(rows_SJ) > 1:
            raise ValueError(f"what is not trained is measured once, got {len(rows_SJ)} rows")
        several.append(len(rows_SJ) > 1)
    if not (values_SJ.size and others_TJ.size):
        return NOTHING
    parts, unit = [], ""
    known = [rows for rows, is_several in zip((values_SJ, others_TJ), several, strict=True) if is_several]
    if all(trained) and len(known) == 1:
        (rows_SJ,) = known
        parts.append((_between(rows_SJ) * (1 + 1 / len(rows_SJ)), len(rows_SJ) - 1))
        unit = f" and {len(rows_SJ)} trainings; one of the two was trained once, and is taken to vary as the other"
    elif known:
        parts = [(_between(rows) / len(rows), len(rows) - 1) for rows in known]
        unit = f" and {' and '.join(str(len(rows)) for rows in known)} trainings"
    elif any(trained):
        unit = "; how trainings differ is not in it"
    means_J = values_SJ.mean(axis=0) - others_TJ.mean(axis=0)
    return _interval(means_J, clusters, parts, unit, sampling_variance=sampling_variance, level=level)


def over_trainings(intervals: Sequence[Interval], *, level: float) -> Interval:
    """The mean of one estimate of several trainings, each with its interval over the same prompts at ``level``.

    The mean distance of the low ends from their values and the half width of the t interval over trainings are added in
    squares, and so the high ends (Zou and Donner 2008, Statistics in Medicine 27): ends need not be symmetric. What
    images of one training alone add to its interval is not divided by the number of trainings, so it is never too
    narrow for it. A training without a value leaves none: it has not been shown.
    """
    if not intervals:
        return NOTHING
    missing = next((one for one in intervals if one.value is None), None)
    if missing is not None:
        return Interval(None, None, None, missing.how)
    if len(intervals) == 1:
        return intervals[0]
    values = np.array([one.value for one in intervals], dtype=np.float64)
    mean, count = float(values.mean()), len(values)
    how = f"{intervals[0].how}, and {count} trainings"
    if any(one.low is None or one.high is None for one in intervals):
        return Interval(mean, None, None, next(one.how for one in intervals if one.low is None or one.high is None))
    half = t_quantile(level, count - 1) * float(values.std(ddof=1)) / count**0.5
    below = float(np.mean([value - (one.low or 0.0) for value, one in zip(values, intervals, strict=True)]))
    above = float(np.mean([(one.high or 0.0) - value for value, one in zip(values, intervals, strict=True)]))
    return Interval(mean, mean - float(np.hypot(below, half)), mean + float(np.hypot(above, half)), how)


def _check(values_SJ: Floats, clusters: Sequence[str]) -> None:
    if values_SJ.ndim != 2 or values_SJ.shape[1] != len(clusters):
        raise ValueError(f"values must be trainings x {len(clusters)} prompts, got the shape {values_SJ.shape}")
    if not np.isfinite(values_SJ).all():
        raise ValueError("a value is not finite: leave out the prompts that a training has no reading of")


def _between(values_SJ: Floats) -> float:
    """The variance between trainings' means."""
    return float(values_SJ.mean(axis=1).var(ddof=1))


def _interval(
    means_J: Floats,
    clusters: Sequence[str],
    parts: list[tuple[float, int]],
    unit: str,
    *,
    sampling_variance: float,
    level: float,
) -> Interval:
    """The t interval of the mean over prompts; ``parts`` are variances of it beside that, with their degrees."""
    if len(means_J) == 0:
        return NOTHING
    mean = float(means_J.mean())
    if len(means_J) == 1:
        return Interval(mean, None, None, ONE_PROMPT)
    over_prompts = spread(means_J, clusters)
    between = max(over_prompts.variance, LEAST_OF_SAMPLING * sampling_variance)
    every = [(between, over_prompts.num_clusters - 1), *parts]
    variance = sum(part for part, _ in every)
    if variance <= 0:
        return Interval(mean, None, None, NO_SPREAD)
    degrees = variance**2 / sum(part**2 / df for part, df in every)
    half = t_quantile(level, degrees) * variance**0.5
    how = f"t interval over {over_prompts.unit}{unit}, {degrees:.1f} degrees of freedom"
    return Interval(mean, mean - half, mean + half, how)
