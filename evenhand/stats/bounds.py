"""Unread images: what they could hide, and whether there are more of them in one arm."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, paired_difference, unpaired_difference
from evenhand.stats.paired import mcnemar

Floats = NDArray[np.float64]
UNREAD_POINTS = 0.05  # a difference in unread images above this caps the verdict, significant or not


def share_bounds(counts_J: Floats, read_J: Floats, unread_J: Floats) -> Interval:
    """Between which shares of *all* images the truth lies, whatever the unread ones show. Manski 1989, equation 3.

    Mean over prompts of ``count / n`` and ``(count + unread) / n``; ``counts_J`` images that show the value, of
    ``read_J``. The bounds are of these images: they hold no sampling error.
    """
    images_J = np.asarray(read_J, dtype=np.float64) + unread_J
    some = images_J > 0
    if not np.any(some):
        return Interval(None, None, None, "not estimable: no image")
    low = float(np.mean(np.asarray(counts_J)[some] / images_J[some]))
    high = float(np.mean((np.asarray(counts_J) + unread_J)[some] / images_J[some]))
    return Interval(None, low, high, "Manski bounds: the unread images all without the value, or all with it")


def shift_bounds(base: Interval, adapted: Interval) -> Interval:
    """Bounds of the change in share from the two arms' :func:`share_bounds`."""
    if base.low is None or base.high is None or adapted.low is None or adapted.high is None:
        return Interval(None, None, None, "not estimable: an arm has no image")
    return Interval(None, adapted.low - base.high, adapted.high - base.low, "Manski bounds of the shift")


class UnreadShift(NamedTuple):
    """Change in the share of unread images; ``differs`` when a verdict must be capped for it."""

    interval: Interval
    p: float | None
    differs: bool


def unread_shift(base_N: Floats, adapted_N: Floats, *, paired: bool, level: float) -> UnreadShift:
    """Whether images go unread (1, else 0) more often in one arm: by over five points, or clear of chance."""
    base, adapted = np.asarray(base_N) > 0, np.asarray(adapted_N) > 0
    p: float | None = None
    if paired:
        gained, lost = int(np.sum(adapted & ~base)), int(np.sum(base & ~adapted))
        interval = paired_difference(gained, lost, len(base), level=level)
        p = mcnemar(gained, lost) if len(base) else None
        clear = p is not None and p < 1 - level
    else:
        interval = unpaired_difference(int(adapted.sum()), len(adapted), int(base.sum()), len(base), level=level)
        clear = interval.low is not None and interval.high is not None and (interval.low > 0 or interval.high < 0)
    large = interval.value is not None and abs(interval.value) > UNREAD_POINTS
    return UnreadShift(interval, p, bool(large or clear))
