"""No harm within a declared margin: two one-sided tests. A large p value of a difference is not evidence of none.

Sources: Schuirmann 1987 (the test, and its form as an interval at 1 - 2 alpha); Bonett and Price 2012 (paired shares).
Non-inferiority is one side of it: ``low=-margin, high=math.inf``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand.stats.intervals import Interval, mean_error, normal_quantile

Floats = NDArray[np.float64]
WITHIN, BEYOND, NOT_SETTLED = "within", "beyond", "not settled"


class Equivalence(NamedTuple):
    """A change, its interval at ``1 - 2 alpha``, and the p value that it lies outside the margins.

    ``verdict``: ``within`` when the interval is inside the margins, ``beyond`` when it is wholly outside, else
    ``not settled``: too few images to say.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str
    how: str


def tost_of_interval(interval: Interval, *, low: float, high: float) -> str:
    """The verdict of any interval made at level ``1 - 2 alpha``."""
    if interval.low is None or interval.high is None:
        return NOT_SETTLED
    if low < interval.low and interval.high < high:
        return WITHIN
    if interval.high < low or interval.low > high:
        return BEYOND
    return NOT_SETTLED


def tost_paired(
    differences_N: Floats, *, low: float, high: float, alpha: float, clusters: Sequence[str] | None = None
) -> Equivalence:
    """Whether the mean difference over pairs (or prompts, with their concepts as clusters) lies within the margins.

    For shares use :func:`tost_paired_shares`: twenty pairs without a change have no spread, and still prove little.
    """
    _check_margins(low, high)
    if len(differences_N) < 2:
        value = float(differences_N[0]) if len(differences_N) else None
        return Equivalence(value, None, None, None, NOT_SETTLED, "not estimable: needs two pairs or more")
    names = [str(row) for row in range(len(differences_N))] if clusters is None else clusters
    error = mean_error(np.asarray(differences_N, dtype=np.float64), names)
    unit = error.unit.replace("prompt", "pair") if clusters is None else error.unit
    return _tost(float(np.mean(differences_N)), error.spread, error.degrees, low, high, alpha, f"TOST over {unit}")


def tost_unpaired(one_N: Floats, zero_M: Floats, *, low: float, high: float, alpha: float) -> Equivalence:
    """Whether ``mean(one) - mean(zero)`` of independent images lies within the margins; unequal variances (Welch)."""
    _check_margins(low, high)
    if len(one_N) < 2 or len(zero_M) < 2:
        return Equivalence(None, None, None, None, NOT_SETTLED, "not estimable: an arm has fewer than two images")
    parts = [(float(np.var(arm, ddof=1)) / len(arm), len(arm) - 1) for arm in (one_N, zero_M)]
    squares = sum(part**2 / count for part, count in parts)
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / squares if squares > 0 else float(sum(count for _, count in parts))
    value = float(np.mean(one_N) - np.mean(zero_M))
    return _tost(value, math.sqrt(variance), degrees, low, high, alpha, "unpaired: Welch TOST over images")


def tost_paired_shares(gained: int, lost: int, n: int, *, low: float, high: float, alpha: float) -> Equivalence:
    """Whether a change in share over ``n`` pairs lies within the margins, by the Bonett-Price interval."""
    _check_margins(low, high)
    if n == 0:
        return Equivalence(None, None, None, None, NOT_SETTLED, "not estimable: no pair was read in both arms")
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    spread = math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    middle, half = up - down, normal_quantile(1 - 2 * alpha) * spread
    interval = Interval((gained - lost) / n, middle - half, middle + half, "Bonett-Price TOST over same-seed pairs")
    p = max(float(stats.norm.sf((middle - low) / spread)), float(stats.norm.sf((high - middle) / spread)))
    return Equivalence(*interval[:3], p, tost_of_interval(interval, low=low, high=high), interval.how)


def _check_margins(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"the lower margin must be below the upper one, got {low} and {high}")


def _tost(value: float, spread: float, degrees: float, low: float, high: float, alpha: float, how: str) -> Equivalence:
    if spread <= 0:
        p = 0.0 if low < value < high else 1.0
        interval = Interval(value, value, value, f"{how}; no spread")
        return Equivalence(value, value, value, p, tost_of_interval(interval, low=low, high=high), interval.how)
    half = float(stats.t.ppf(1 - alpha, degrees)) * spread
    interval = Interval(value, value - half, value + half, how)
    p = max(float(stats.t.sf((value - low) / spread, degrees)), float(stats.t.sf((high - value) / spread, degrees)))
    return Equivalence(*interval[:3], p, tost_of_interval(interval, low=low, high=high), how)
