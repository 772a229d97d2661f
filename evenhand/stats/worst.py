"""The prompt with the largest gap, with an interval that knows it was picked as the largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.distances import gap
from evenhand.stats.intervals import Interval, wilson

Floats = NDArray[np.float64]


class Worst(NamedTuple):
    """``prompt`` is the number of the one whose images show the largest gap; ``interval`` is of the largest truth."""

    prompt: int | None
    interval: Interval


def worst_gap(images: Sequence[Floats], *, level: float) -> Worst:
    """The largest gap over prompts; one array (images, values) for each prompt.

    Wilson intervals of every share of every prompt hold at once (Bonferroni, Dunn 1961), so from the largest low end
    to the largest high end is an interval of the largest true gap. Its floor: ``worst_floor``.
    """
    rows = [row for row, images_NK in enumerate(images) if len(images_NK)]
    if not rows:
        return Worst(None, Interval(None, None, None, "not estimable: no image was read"))
    num_values = images[rows[0]].shape[1]
    num_intervals = len(rows) * (1 if num_values == 2 else num_values)
    each = 1 - (1 - level) / num_intervals
    gaps = [float(gap(images[row].mean(axis=0))) for row in rows]
    bounds = np.array([_gap_bounds(images[row], each) for row in rows])
    worst = int(np.argmax(gaps))
    how = f"largest of {len(rows)} prompts, Wilson intervals that hold at once"
    low, high = float(bounds[:, 0].max()), float(bounds[:, 1].max())
    return Worst(rows[worst], Interval(gaps[worst], min(low, gaps[worst]), max(high, gaps[worst]), how))


def _gap_bounds(images_NK: Floats, level: float) -> tuple[float, float]:
    """Between which gaps all shares inside their intervals lie."""
    count, shares_K = len(images_NK), images_NK.mean(axis=0)
    ends = [wilson(float(share) * count, count, level=level) for share in shares_K]
    low_K = np.array([end.low for end in ends], dtype=np.float64)
    high_K = np.array([end.high for end in ends], dtype=np.float64)
    if len(shares_K) == 2:
        low, high = 2 * low_K[0] - 1, 2 * high_K[0] - 1
        return (0.0 if low <= 0 <= high else float(min(abs(low), abs(high)))), float(max(abs(low), abs(high)))
    apart = ~np.eye(len(shares_K), dtype=np.bool_)
    lowest = (low_K[:, None] - high_K[None, :])[apart].max(initial=0.0)
    highest = (high_K[:, None] - low_K[None, :])[apart].max(initial=0.0)
    return float(max(0.0, lowest)), float(min(1.0, highest))
