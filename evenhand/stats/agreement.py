"""How far two readers (or a reader and a person) agree, beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, jackknife_interval, normal_quantile

Floats = NDArray[np.float64]


def agreement_share(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Share of images for which both say the same; None without images."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one) if len(one) else None


def kappa(one: Sequence[str], other: Sequence[str], *, level: float, clusters: Sequence[str] | None = None) -> Interval:
    """Cohen's kappa (1960) with the large-sample interval of Fleiss, Cohen and Everitt 1969, equation 13.

    With ``clusters`` (prompts): a jackknife interval over them. None where both always say the same one value: then
    chance alone would agree as often.
    """
    if not len(one):
        return Interval(None, None, None, "not estimable: no image was read by both")
    values = {value: index for index, value in enumerate(sorted({*one, *other}))}
    rows = np.array([values[value] for value in one])
    columns = np.array([values[value] for value in other])
    value, spread = _kappa(rows, columns, len(values))
    if value is None:
        return Interval(None, None, None, "not estimable: both say one value for all images")
    if clusters is not None and len(set(clusters)) > 1:
        interval = jackknife_interval(
            lambda mask: _kappa(rows[mask], columns[mask], len(values))[0] or 0.0, clusters, level=level
        )
        if interval.low is None or interval.high is None:
            return interval
        return Interval(value, max(-1.0, interval.low), min(1.0, interval.high), f"Cohen's kappa, {interval.how}")
    half = normal_quantile(level) * spread
    how = f"Cohen's kappa, large-sample interval over {len(one)} images"
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), how)


def _kappa(rows_N: NDArray[np.int_], columns_N: NDArray[np.int_], count: int) -> tuple[float | None, float]:
    """Kappa and its standard error; None where chance agreement is complete."""
    table = np.bincount(rows_N * count + columns_N, minlength=count * count).reshape(count, count) / len(rows_N)
    row_K, column_K = table.sum(axis=1), table.sum(axis=0)
    agreed, chance = float(np.trace(table)), float(row_K @ column_K)
    if chance >= 1:
        return None, 0.0
    value = (agreed - chance) / (1 - chance)
    diagonal = float(np.diag(table) @ (1 - (row_K + column_K) * (1 - value)) ** 2)
    crossed = table * (column_K[:, None] + row_K[None, :]) ** 2
    outside = (1 - value) ** 2 * float(crossed.sum() - np.trace(crossed))
    variance = diagonal + outside - (value - chance * (1 - value)) ** 2
    return value, math.sqrt(max(0.0, variance) / len(rows_N)) / (1 - chance)
