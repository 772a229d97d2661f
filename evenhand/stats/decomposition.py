"""A change of a mean score, split into who is shown and how each is shown.

A scorer that prefers one value reports a loss when an adapter shows the other more often. That part, composition, is
the scorer's opinion; the cost of an adapter is the part within values. Letters: J prompts, N images, K values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, jackknife_interval

Floats = NDArray[np.float64]


class Split(NamedTuple):
    """``total = composition + within``."""

    total: float
    composition: float
    within: float


def kitagawa(base_shares_K: Floats, adapted_shares_K: Floats, base_means_K: Floats, adapted_means_K: Floats) -> Split:
    """Kitagawa 1955, the two-part formula: change of shares at mean scores, change of scores at mean shares."""
    composition = float((adapted_shares_K - base_shares_K) @ (base_means_K + adapted_means_K) / 2)
    within = float((adapted_means_K - base_means_K) @ (base_shares_K + adapted_shares_K) / 2)
    return Split(composition + within, composition, within)


class Cell(NamedTuple):
    """Images of one prompt in one arm: their scores, and the number of the value each shows, from 0.

    Count images without a reading as a value of their own, so that none is dropped.
    """

    scores_N: Floats
    values_N: NDArray[np.intp]


class SplitIntervals(NamedTuple):
    """Means over prompts with jackknife intervals.

    ``unmatched``: the weight of values that a prompt shows in one arm only; there the change within values is taken
    from the other prompts.
    """

    total: Interval
    composition: Interval
    within: Interval
    unmatched: float | None


class _Table(NamedTuple):
    """Per prompt: total change (J); weights and changes within values (J, K), NaN where an arm lacks the value."""

    total_J: Floats
    weights_JK: Floats
    changes_JK: Floats


def split_change(
    base: Sequence[Cell],
    adapted: Sequence[Cell],
    clusters: Sequence[str],
    *,
    num_values: int,
    level: float,
    base_means_JK: Floats | None = None,
) -> SplitIntervals:
    """Kitagawa's split in every prompt, as a mean over prompts; prompts without images in an arm are left out.

    A value that one arm of a prompt does not show gets the weighted mean change of that value in other prompts, or of
    all values where no prompt shows it in both. ``base_means_JK`` may give the base's mean score of such values
    instead, from explicit prompts (NaN where unknown).
    """
    used = [row for row in range(len(base)) if len(base[row].scores_N) and len(adapted[row].scores_N)]
    if not used:
        nothing = Interval(None, None, None, "not estimable: no prompt has scores in both arms")
        return SplitIntervals(nothing, nothing, nothing, None)
    names = [clusters[row] for row in used]
    known_JK = np.full((len(used), num_values), np.nan) if base_means_JK is None else base_means_JK[used]
    table = _table([base[row] for row in used], [adapted[row] for row in used], known_JK)
    total = jackknife_interval(lambda mask: float(table.total_J[mask].mean()), names, level=level)
    unmatched = float((table.weights_JK * np.isnan(table.changes_JK)).sum(axis=1).mean())
    if np.all(np.isnan(table.changes_JK)):
        nothing = Interval(None, None, None, "not estimable: no value is shown by both arms of a prompt")
        return SplitIntervals(total, nothing, nothing, unmatched)
    within = jackknife_interval(lambda mask: _within(table, mask), names, level=level)
    composition = jackknife_interval(
        lambda mask: float(table.total_J[mask].mean()) - _within(table, mask), names, level=level
    )
    return SplitIntervals(total, composition, within, unmatched)


def _table(base: Sequence[Cell], adapted: Sequence[Cell], known_JK: Floats) -> _Table:
    count = known_JK.shape[1]
    old_shares, old_means = _shares_and_means(base, count)
    new_shares, new_means = _shares_and_means(adapted, count)
    old_means = np.where(np.isnan(old_means), known_JK, old_means)
    total = np.array([float(new.scores_N.mean() - old.scores_N.mean()) for old, new in zip(base, adapted, strict=True)])
    return _Table(total, (old_shares + new_shares) / 2, new_means - old_means)


def _shares_and_means(cells: Sequence[Cell], count: int) -> tuple[Floats, Floats]:
    numbers = np.stack([np.bincount(cell.values_N, minlength=count) for cell in cells]).astype(np.float64)
    sums = np.stack([np.bincount(cell.values_N, weights=cell.scores_N, minlength=count) for cell in cells])
    means = np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0)
    return numbers / numbers.sum(axis=1, keepdims=True), means


def _within(table: _Table, mask: NDArray[np.bool_]) -> float:
    """Mean over the prompts of ``mask`` of the change within values; what is unmatched gets the pooled change."""
    weights, changes = table.weights_JK[mask], table.changes_JK[mask]
    matched = ~np.isnan(changes)
    weighted = np.where(matched, weights * np.where(matched, changes, 0.0), 0.0)
    weight_K = np.where(matched, weights, 0.0).sum(axis=0)
    overall = float(weighted.sum() / weight_K.sum()) if weight_K.sum() > 0 else 0.0
    pooled_K = np.divide(weighted.sum(axis=0), weight_K, out=np.full(len(weight_K), overall), where=weight_K > 0)
    filled = np.where(matched, changes, pooled_K)
    return float((weights * filled).sum(axis=1).mean())
