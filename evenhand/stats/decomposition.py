"""A change of a mean score, split into who is shown and how each is shown.

A scorer that prefers one value reports a loss when an adapter shows the other more often. That part, composition, is
the scorer's opinion; the cost of an adapter is the part within values. Kitagawa 1955, the two-part formula: the change
of shares at the mean of both arms' scores, and the change of scores at the mean of both arms' shares.
Letters: J prompts, N images, K values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, jackknife_interval, mean_interval

Floats = NDArray[np.float64]
UNREAD = -1


class Cell(NamedTuple):
    """Images of one prompt in one arm: their scores, and the number of the value each shows, or :data:`UNREAD`."""

    scores_N: Floats
    values_N: NDArray[np.intp]


class Split(NamedTuple):
    """The change of the mean score over prompts: ``total = composition + within``."""

    total: Interval
    composition: Interval
    within: Interval


class Asked(NamedTuple):
    """Mean scores of images that were asked for a value, of each arm (J, K); NaN where nobody asked."""

    base_JK: Floats
    adapted_JK: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Means:
    """Per prompt of one arm: its mean score, share of images read, and mean score of those (J); shares of the values
    among them, and mean score of each (J, K). NaN where there is no such image."""

    score_J: Floats
    read_J: Floats
    read_score_J: Floats
    shares_JK: Floats
    scores_JK: Floats


def split_change(
    base: Sequence[Cell],
    adapted: Sequence[Cell],
    clusters: Sequence[str],
    *,
    num_values: int,
    level: float,
    asked: Asked | None = None,
) -> Split:
    """Kitagawa's split in every prompt, as means over prompts with jackknife intervals over prompts (or concepts).

    The mix is that of the values among images that were read: images in which nothing could be read count as a change
    within values, whatever they score, since a spoilt picture must not pass for another mix. A value that a prompt
    shows in one arm only gets that value's mean change in the other prompts. Where no prompt shows it in both, the
    missing score is the one of ``asked``. Prompts without images in an arm are left out.
    """
    used = [row for row in range(len(base)) if len(base[row].scores_N) and len(adapted[row].scores_N)]
    names = [clusters[row] for row in used]
    if not used:
        nothing = Interval(None, None, None, "not estimable: no prompt has scores in both arms")
        return Split(nothing, nothing, nothing)
    before, after = _means([base[row] for row in used], num_values), _means([adapted[row] for row in used], num_values)
    both_J = (before.read_J > 0) & (after.read_J > 0)
    changes_JK = after.scores_JK - before.scores_JK
    unknown_K = np.isnan(changes_JK[both_J]).all(axis=0)
    if asked is not None:
        old_JK = np.where(np.isnan(before.scores_JK), asked.base_JK[used], before.scores_JK)
        new_JK = np.where(np.isnan(after.scores_JK), asked.adapted_JK[used], after.scores_JK)
        changes_JK = np.where(unknown_K, new_JK - old_JK, changes_JK)
    total_J = after.score_J - before.score_J
    weight_J = (before.read_J + after.read_J) / 2
    weights_JK = (before.shares_JK + after.shares_JK) / 2
    read_J = after.read_score_J - before.read_score_J
    total = mean_interval(total_J, names, level=level)
    if both_J.any() and np.isnan(changes_JK[both_J]).all():
        nothing = Interval(None, None, None, "not estimable: no value is shown by both arms of a prompt")
        return Split(total, nothing, nothing)

    def composition(mask: NDArray[np.bool_]) -> float:
        used_J = mask & both_J
        if not used_J.any():
            return 0.0
        within_J = _within(weights_JK[used_J], changes_JK[used_J])
        return float((weight_J[used_J] * (read_J[used_J] - within_J)).sum() / mask.sum())

    return Split(
        total=total,
        composition=jackknife_interval(composition, names, level=level),
        within=jackknife_interval(lambda mask: float(total_J[mask].mean()) - composition(mask), names, level=level),
    )


def _means(cells: Sequence[Cell], count: int) -> _Means:
    masks = [cell.values_N[:, None] == np.arange(count) for cell in cells]
    counts_JK = np.stack([mask.sum(axis=0) for mask in masks])
    sums_JK = np.stack([cell.scores_N @ mask for cell, mask in zip(cells, masks, strict=True)])
    read_J = counts_JK.sum(axis=1).astype(np.float64)
    return _Means(
        score_J=np.array([cell.scores_N.mean() for cell in cells]),
        read_J=read_J / np.array([len(cell.scores_N) for cell in cells]),
        read_score_J=_ratio(sums_JK.sum(axis=1), read_J),
        shares_JK=_ratio(counts_JK, read_J[:, None]),
        scores_JK=_ratio(sums_JK, counts_JK),
    )


def _ratio(above: Floats, below: Floats) -> Floats:
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), below)
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return result


def _within(weights_JK: Floats, changes_JK: Floats) -> Floats:
    """Kitagawa's second part for each prompt; a change that is not known is the value's mean, or that of all values."""
    known_JK = ~np.isnan(changes_JK)
    weighted_JK = np.where(known_JK, weights_JK * np.where(known_JK, changes_JK, 0.0), 0.0)
    weight_K = np.where(known_JK, weights_JK, 0.0).sum(axis=0)
    overall = weighted_JK.sum() / weight_K.sum() if weight_K.sum() > 0 else 0.0
    pooled_K = np.where(weight_K > 0, weighted_JK.sum(axis=0) / np.where(weight_K > 0, weight_K, 1.0), overall)
    result: Floats = (weights_JK * np.where(known_JK, changes_JK, pooled_K)).sum(axis=1)
    return result
