"""What a small human audit of both arms allows: a true shift, and a test of whether the reader errs alike in both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand.stats.intervals import Interval, paired_difference

Floats = NDArray[np.float64]
SUSPICIOUS = 0.10  # p below which errors count as differing between arms: a screen, so it is wider than 0.05


def prediction_powered(
    human_L: Floats,
    reader_L: Floats,
    reader_N: Floats,
    *,
    level: float,
    clusters_L: Sequence[str] | None = None,
    clusters_N: Sequence[str] | None = None,
) -> Interval:
    """The true mean shift from a few labelled pairs and many read ones.

    ``human_L`` and ``reader_L``: adapted minus base by the human and by the reader, on a random sample of L pairs;
    ``reader_N``: by the reader on the N pairs without a label. ``lambda mean(reader_N) + mean(human_L - lambda
    reader_L)`` is right however wrong the reader is, in either arm (Angelopoulos et al., Science 2023); lambda makes it
    narrow (Angelopoulos, Duchi and Zrnic 2023, PPI++, section 6), here kept within [0, 1]. With clusters (prompts) the
    variance is that of the influence values summed by cluster, over both kinds of pairs.
    """
    human_L, reader_L, reader_N = (np.asarray(values, dtype=np.float64) for values in (human_L, reader_L, reader_N))
    count_L, count_N = len(human_L), len(reader_N)
    if count_L < 2:
        return Interval(None, None, None, "not estimable: needs two labelled pairs or more")
    weight = _power_tuning(human_L, reader_L, count_N)
    rest_L = human_L - weight * reader_L
    value = float(rest_L.mean()) + (weight * float(reader_N.mean()) if count_N else 0.0)
    parts_L = (rest_L - rest_L.mean()) / count_L
    parts_N = weight * (reader_N - reader_N.mean()) / count_N if count_N else reader_N
    how = f"prediction-powered: {count_L} labelled and {count_N} read pairs, lambda {weight:.2f}"
    if clusters_L is not None and clusters_N is not None:
        names = np.asarray([*clusters_L, *clusters_N])
        _, indices = np.unique(names, return_inverse=True)
        sums_C = np.bincount(indices, weights=np.concatenate([parts_L, parts_N]))
        count = len(sums_C)
        if count < 2:
            return Interval(value, None, None, f"{how}; one cluster: no interval over clusters")
        variance, degrees = count / (count - 1) * float(sums_C @ sums_C), count - 1
        how = f"{how}, by {count} clusters"
    else:
        variance = count_L / (count_L - 1) * float(parts_L @ parts_L) + float(parts_N @ parts_N)
        degrees = count_L - 1
    if variance <= 1e-18:
        return _without_spread(human_L, value, level, how)
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * math.sqrt(variance)
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), how)


def _power_tuning(human_L: Floats, reader_L: Floats, count_N: int) -> float:
    """The lambda of least variance, by the labelled pairs; 0 uses the labels alone."""
    spread = float(reader_L.var(ddof=1))
    if count_N == 0 or spread <= 0:
        return 0.0
    covariance = float(np.cov(human_L, reader_L, ddof=1)[0, 1])
    return float(np.clip(covariance / ((1 + len(human_L) / count_N) * spread), 0.0, 1.0))


def _without_spread(human_L: Floats, value: float, level: float, how: str) -> Interval:
    gained, lost = int(np.sum(human_L > 0)), int(np.sum(human_L < 0))
    interval = paired_difference(gained, lost, len(human_L), level=level)
    if interval.low is None or interval.high is None:
        return interval
    return Interval(
        value,
        min(value, interval.low),
        max(value, interval.high),
        f"{how}; no spread: Bonett-Price over labelled pairs",
    )


class DifferentialError(NamedTuple):
    """``p`` that the reader errs alike in both arms; ``by_value``: true value -> error rates of the arms and p."""

    p: float | None
    suspicious: bool
    by_value: Mapping[str, tuple[float | None, float | None, float | None]]
    how: str


def differential_error(true: Sequence[str], read: Sequence[str], arms: Sequence[str]) -> DifferentialError:
    """Whether the reader errs differently in the two arms, by images with a true label (given in the order of images).

    Styles that differ between arms make readers err differently, and no confusion matrix corrects that. Two questions
    are asked, and their p values joined by the Cauchy combination (Liu and Xie 2020). Are errors more frequent in one
    arm, among images that truly show the same? The score test of the arm in a logistic regression of the error, which
    is Mantel and Haenszel's (1959). And is a value's share misread by more in one arm? A z test of the net error,
    ``mean(read = value) - mean(true = value)``; it sees a reader that leans one way in one arm and the other way in the
    other. p values by true value are Fisher's exact, mid-p. ``suspicious`` is a screen: one audit in ten of a reader
    that errs alike is suspicious too.
    """
    names = sorted(set(arms))
    if len(names) != 2:
        return DifferentialError(None, False, {}, f"not estimable: needs labels on two arms, got {names}")
    second = np.asarray([arm == names[1] for arm in arms])
    truth, found = np.asarray(list(true)), np.asarray(list(read))
    values = sorted({*true, *read})
    p_errors = _mantel_haenszel(truth, truth != found, second)
    p_net = [_net_error(truth == value, found == value, second) for value in values[: 1 if len(values) == 2 else None]]
    p = _cauchy([p_errors] * len(p_net) + p_net)
    by_value = {value: _rates_of_value(truth != found, truth == value, second) for value in dict.fromkeys(true)}
    how = f"more errors: Mantel-Haenszel p {p_errors:.3f}; net error of a value: least p {min(p_net):.3f}; Cauchy"
    return DifferentialError(p, p < SUSPICIOUS, by_value, how)


Mask = NDArray[np.bool_]


def _mantel_haenszel(truth: NDArray[np.str_], wrong: Mask, second: Mask) -> float:
    """p value that errors are as frequent in both arms within true values; 1 where nothing can tell."""
    excess = variance = 0.0
    for value in np.unique(truth):
        rows = truth == value
        ones, total, errors = int((rows & second).sum()), int(rows.sum()), int((rows & wrong).sum())
        if total > 1:
            excess += int((rows & second & wrong).sum()) - ones * errors / total
            variance += ones * (total - ones) * errors * (total - errors) / (total**2 * (total - 1))
    return float(stats.chi2.sf(excess**2 / variance, 1)) if variance > 0 else 1.0


def _net_error(true: Mask, read: Mask, second: Mask) -> float:
    """p value that a share is misread by as much in both arms."""
    errors = read.astype(np.float64) - true
    one, zero = errors[second], errors[~second]
    spread = math.sqrt(float(one.var()) / len(one) + float(zero.var()) / len(zero))
    return 2 * float(stats.norm.sf(abs(float(one.mean() - zero.mean())) / spread)) if spread > 0 else 1.0


def _cauchy(p_values: Sequence[float]) -> float:
    """One p value of several that may depend on each other (Liu and Xie 2020, equation 3)."""
    clipped = np.clip(np.asarray(p_values, dtype=np.float64), 1e-15, 0.999)
    return float(stats.cauchy.sf(np.mean(np.tan((0.5 - clipped) * math.pi))))


def _rates_of_value(wrong: Mask, rows: Mask, second: Mask) -> tuple[float | None, float | None, float | None]:
    ones, total, errors = int((rows & second).sum()), int(rows.sum()), int((rows & wrong).sum())
    errors_1 = int((rows & second & wrong).sum())
    zeros = total - ones
    p = _fisher_midp(errors_1, ones, errors, total) if ones and zeros else None
    return ((errors - errors_1) / zeros if zeros else None, errors_1 / ones if ones else None, p)


def _fisher_midp(errors_1: int, ones: int, errors: int, total: int) -> float:
    """Two-sided mid-p of Fisher's exact test: outcomes less likely than the one seen, and half of those as likely."""
    chances = stats.hypergeom.pmf(np.arange(0, ones + 1), total, errors, ones)
    seen = chances[errors_1]
    alike = np.abs(chances - seen) <= 1e-9 * seen
    return float(min(1.0, chances[(chances < seen) & ~alike].sum() + 0.5 * chances[alike].sum()))
