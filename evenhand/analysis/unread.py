"""Images that were not read: how many, whether the arms differ in them, and what they could hide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evenhand.analysis.estimates import scope_of
from evenhand.analysis.suite_shares import SHIFT, ArmShares, SuiteShares
from evenhand.analysis.tables import Floats, ReadingTable
from evenhand.records import Estimate
from evenhand.stats.bounds import UnreadShift, share_bounds, shift_bounds, unread_shift
from evenhand.stats.intervals import Interval, mean_interval
from evenhand.stats.over_prompts import share_interval


def _rates(shares: ArmShares) -> Floats:
    images_J = shares.read_J + shares.unread_J
    rate_J: Floats = np.divide(shares.unread_J, images_J, out=np.full(len(images_J), np.nan), where=images_J > 0)
    return rate_J


def unread_estimates(view: SuiteShares) -> Iterator[Estimate]:
    """``unread``: the share of images without a reading, in both arms and as a shift, and ``bounds`` of every share."""
    scope, level = scope_of(view), view.plan.level
    for arm, shares in view.arms:
        rate_J = _rates(shares)
        used = ~np.isnan(rate_J)
        concepts = [concept for concept, use in zip(view.concepts, used, strict=True) if use]
        images = int((shares.read_J + shares.unread_J).sum())
        interval = share_interval(rate_J[used], concepts, n_images=max(1, images), level=level)
        yield scope.estimate("unread", arm, interval, shares)
    change_J = _rates(view.adapted) - _rates(view.base)
    used = ~np.isnan(change_J)
    concepts = [concept for concept, use in zip(view.concepts, used, strict=True) if use]
    yield scope.estimate("unread", SHIFT, mean_interval(change_J[used], concepts, level=level), view.adapted)
    for index, value in enumerate(view.values):
        bounds = [_bounds(shares, index) for _, shares in view.arms]
        for (arm, shares), interval in zip(view.arms, bounds, strict=True):
            yield scope.estimate(f"bounds:{value}", arm, interval, shares)
        yield scope.estimate(f"bounds:{value}", SHIFT, shift_bounds(bounds[0], bounds[1]), view.adapted)


def _bounds(shares: ArmShares, index: int) -> Interval:
    counts_J = np.array([float(column.sum()) for column in shares.column(index)])
    return share_bounds(counts_J, shares.read_J, shares.unread_J)


def unread_difference(table: ReadingTable, view: SuiteShares) -> UnreadShift:
    """Whether one arm has more unread images: by over five points, or clear of chance."""
    arms = []
    for arm in table.plan.arms:
        images = table.images(view.attribute, arm)
        where = [images.of_prompt(table.place(prompt.id)) for prompt in view.prompts]
        arms.append(np.concatenate([(images.counts_NK[part].sum(axis=1) == 0).astype(np.float64) for part in where]))
    return unread_shift(arms[0], arms[1], paired=view.paired, level=view.plan.level)
