"""Estimates from readings: shares and distances in both arms, and their shift, with intervals and counts.

Letters: J prompts, N images, K values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evenhand.analysis.suite_shares import BOTH, SHIFT, ArmShares, SuiteShares
from evenhand.analysis.tables import Floats, ReadingTable
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate
from evenhand.stats import distances
from evenhand.stats.intervals import (
    Interval,
    jackknife_interval,
    mean_interval,
    paired_difference,
    reduction_interval,
    unpaired_difference,
    welch_difference,
    wilson,
)
from evenhand.stats.over_prompts import change_interval, distance_sampling_variance, share_interval, skewed_interval
from evenhand.stats.stratified import stratified_mean, stratified_shift
from evenhand.stats.worst import worst_gap

# Plug-in distances by the names of their estimates. Those of the first line ask how even shares are, the others how far
# they are from the target.
EVEN_DISTANCES = ("gap", "entropy", "shen_bias", "deviation_ratio", "heim_imbalance")
TARGET_DISTANCES = ("tv", "hellinger", "js", "four_fifths", "fairness_discrepancy")
TWO_VALUES_ONLY = ("heim_imbalance",)
# With more numbers of images than this, floors are made at some of them; between those they go by 1 / sqrt(n).
MOST_FLOORS = 4

Scores = Callable[[ArmShares, Floats], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an estimate is about."""

    plan: Plan
    suite: str
    attribute: str
    paired: bool

    def estimate(
        self,
        name: str,
        arm: str,
        interval: Interval,
        shares: ArmShares,
        *,
        concept: str | None = None,
        bounds: tuple[float, float] | None = None,
        floor: float | None = None,
    ) -> Estimate:
        """An estimate with counts from the shares that it was made of; its interval clipped to ``bounds``."""
        low, high = interval.low, interval.high
        if bounds is not None and low is not None and high is not None:
            low, high = max(bounds[0], low), min(bounds[1], high)
        unpaired = "" if self.paired or arm != SHIFT or interval.how.startswith("unpaired") else "unpaired images; "
        return Estimate(
            name=name,
            suite=self.suite,
            concept=concept,
            attribute=self.attribute,
            arm=arm,
            value=interval.value,
            low=low,
            high=high,
            level=self.plan.level,
            n_prompts=len(shares.prompts),
            n_images=shares.num_read + shares.num_unread,
            n_unread=shares.num_unread,
            floor=floor,
            how=unpaired + interval.how,
        )


def scope_of(view: SuiteShares) -> Scope:
    """The scope of a suite's estimates."""
    return Scope(plan=view.plan, suite=view.suite, attribute=view.attribute, paired=view.paired)


def suite_estimates(table: ReadingTable, views: Sequence[SuiteShares]) -> Iterator[Estimate]:
    """Every estimate of shares and distances: of whole suites, then of their concepts."""
    for view in views:
        yield from _share_estimates(view)
        yield from _distance_estimates(view)
        for concept in dict.fromkeys(view.concepts):
            yield from _concept_estimates(view.of_concept(concept), concept)


def headline_estimates(view: SuiteShares) -> Iterator[Estimate]:
    """What another reader is held against: shares, gap and the distances to target."""
    yield from _share_estimates(view, strata=False)
    yield from plug_in(view, "gap")
    if view.has_target:
        yield from plug_in(view, "tv")
        yield from _squared(view)


def _share_estimates(view: SuiteShares, *, strata: bool = True) -> Iterator[Estimate]:
    scope, level = scope_of(view), view.plan.level
    for index, value in enumerate(view.values):
        for arm, shares in view.arms:
            yield arm_share(scope, arm, shares, view.concepts, index, value)
        base, adapted = view.compared_base, view.compared_adapted
        change_J = adapted.shares_JK[:, index] - base.shares_JK[:, index]
        used = ~np.isnan(change_J)
        interval = mean_interval(change_J[used], _of(view.concepts, used), level=level)
        interval = with_width(interval, base.column(index), adapted.column(index), paired=view.paired, level=level)
        yield scope.estimate(f"share:{value}", SHIFT, interval, adapted, bounds=(-1.0, 1.0))
        if strata:
            yield from _these_prompts(view, index, value)


def arm_share(scope: Scope, arm: str, shares: ArmShares, concepts: Sequence[str], index: int, value: str) -> Estimate:
    """One arm's mean share over prompts."""
    share_J = shares.shares_JK[:, index]
    used = ~np.isnan(share_J)
    interval = share_interval(share_J[used], _of(concepts, used), n_images=shares.num_read, level=scope.plan.level)
    return scope.estimate(f"share:{value}", arm, interval, shares)


def _these_prompts(view: SuiteShares, index: int, value: str) -> Iterator[Estimate]:
    """The same for these very prompts: only their images are drawn anew."""
    scope, level, name = scope_of(view), view.plan.level, f"share_these_prompts:{value}"
    for arm, shares in view.arms:
        yield scope.estimate(name, arm, stratified_mean(shares.column(index), level=level), shares)
    base, adapted = view.compared_base, view.compared_adapted
    interval = stratified_shift(base.column(index), adapted.column(index), paired=view.paired, level=level)
    yield scope.estimate(name, SHIFT, interval, adapted)


def _of(concepts: Sequence[str], used: NDArray[np.bool_]) -> list[str]:
    return [concept for concept, use in zip(concepts, used, strict=True) if use]


def _distance_estimates(view: SuiteShares) -> Iterator[Estimate]:
    for name in EVEN_DISTANCES:
        if name in TWO_VALUES_ONLY and len(view.values) != 2:
            continue
        yield from plug_in(view, name)
        if name == "gap":
            yield _gap_reduction(view)
            yield from _pooled_gap(view)
            yield from _worst_gap(view)
    if view.has_target:
        yield from _squared(view)
        for name in TARGET_DISTANCES:
            yield from plug_in(view, name)


def plug_in_scores(name: str, shares_JK: Floats, targets_JK: Floats) -> Floats:
    """A plug-in distance of each prompt; NaN where it has none."""
    if name in EVEN_DISTANCES:
        targets_JK = np.full_like(targets_JK, 1 / targets_JK.shape[1])
    known = ~np.isnan(shares_JK[:, 0]) & ~np.isnan(targets_JK[:, 0])
    scores_J = np.full(len(shares_JK), np.nan)
    if known.any():
        scores_J[known] = distances.DISTANCES[name](shares_JK[known], targets_JK[known])
    return scores_J


def plug_in(view: SuiteShares, name: str) -> Iterator[Estimate]:
    """A plug-in distance in both arms with its noise floor, and its mean change over prompts."""
    scope = scope_of(view)
    for arm, shares in view.arms:
        yield arm_plug_in(scope, arm, shares, view.concepts, view.targets_JK, name)
    base, adapted = view.compared_base, view.compared_adapted
    change_J = plug_in_scores(name, adapted.shares_JK, view.targets_JK) - plug_in_scores(
        name, base.shares_JK, view.targets_JK
    )
    used = ~np.isnan(change_J)
    interval = mean_interval(change_J[used], _of(view.concepts, used), level=view.plan.level)
    yield scope.estimate(name, SHIFT, interval, adapted)


def arm_plug_in(
    scope: Scope, arm: str, shares: ArmShares, concepts: Sequence[str], targets_JK: Floats, name: str
) -> Estimate:
    """A plug-in distance of one arm, with its floor at the very numbers of images."""
    scores_J = plug_in_scores(name, shares.shares_JK, targets_JK)
    used = ~np.isnan(scores_J)
    interval = mean_interval(scores_J[used], _of(concepts, used), level=scope.plan.level)
    floor = mean_floor(name, shares.read_J, targets_JK)
    return scope.estimate(name, arm, interval, shares, bounds=(0.0, 1.0), floor=floor)


def mean_floor(name: str, read_J: Floats, targets_JK: Floats) -> float | None:
    """What a generator that is exactly even (or on target) would score with these numbers of images."""
    if name in EVEN_DISTANCES:
        targets_JK = np.full_like(targets_JK, 1 / targets_JK.shape[1])
    floors: list[float] = []
    known = ~np.isnan(targets_JK[:, 0]) & (read_J > 0)
    for target_K in np.unique(targets_JK[known], axis=0):
        target = tuple(float(share) for share in target_K)
        counts = read_J[known & np.all(targets_JK == target_K, axis=1)]
        grid = _some_of(np.unique(counts))
        at = [distances.noise_floor(name, int(n), target, target) for n in grid]
        floors += list(np.interp(-1 / np.sqrt(counts), -1 / np.sqrt(grid), at))
    defined = [floor for floor in floors if not np.isnan(floor)]
    return float(np.mean(defined)) if defined else None


def squared_distances(shares: ArmShares, targets_JK: Floats) -> Floats:
    """The unbiased squared distance of each prompt (see ``stats.distances.distance_sq``); NaN where it has none."""
    result: Floats = ((shares.shares_JK - targets_JK) ** 2).sum(axis=1) - shares.noise_J
    return result


def sampling_variance(shares: ArmShares, targets_JK: Floats, used: NDArray[np.bool_]) -> float:
    """The variance of the mean squared distance of the prompts used that sampling their images gives."""
    if not used.any():
        return 0.0
    return distance_sampling_variance(shares.shares_JK[used], shares.read_J[used], targets_JK[used])


def arm_squared(
    scope: Scope, arm: str, shares: ArmShares, concepts: Sequence[str], targets_JK: Floats
) -> tuple[Estimate, Estimate]:
    """``distance_sq`` of one arm, and its root."""
    scores_J = squared_distances(shares, targets_JK)
    used = ~np.isnan(scores_J)
    interval = skewed_interval(
        scores_J[used],
        _of(concepts, used),
        sampling_variance=sampling_variance(shares, targets_JK, used),
        level=scope.plan.level,
    )
    estimate = scope.estimate("distance_sq", arm, interval, shares)
    return estimate, _root(estimate)


def _squared(view: SuiteShares) -> Iterator[Estimate]:
    scope = scope_of(view)
    for arm, shares in view.arms:
        yield from arm_squared(scope, arm, shares, view.concepts, view.targets_JK)
    base, adapted = view.compared_base, view.compared_adapted
    change_J = squared_distances(adapted, view.targets_JK) - squared_distances(base, view.targets_JK)
    used = ~np.isnan(change_J)
    noise = sum(sampling_variance(shares, view.targets_JK, used) for shares in (base, adapted))
    # What pairs have in common cancels in their difference.
    noise *= 1 - max(0.0, view.phi or 0.0)
    interval = change_interval(change_J[used], _of(view.concepts, used), sampling_variance=noise, level=view.plan.level)
    yield scope.estimate("distance_sq", SHIFT, interval, adapted)


def _root(estimate: Estimate) -> Estimate:
    """``rms``: the distance itself, from the unbiased squared one; what is below zero counts as zero."""

    def root(value: float | None) -> float | None:
        return None if value is None else max(0.0, value) ** 0.5

    return replace(
        estimate,
        name="rms",
        value=root(estimate.value),
        low=root(estimate.low),
        high=root(estimate.high),
        how=f"root of the squared distance; {estimate.how}",
    )


def _gap_reduction(view: SuiteShares) -> Estimate:
    """By which part of itself the gap fell. Noise fills small gaps, so this understates a real reduction."""
    base, adapted = (
        plug_in_scores("gap", shares.shares_JK, view.targets_JK)
        for shares in (view.compared_base, view.compared_adapted)
    )
    used = ~np.isnan(base) & ~np.isnan(adapted)
    interval = reduction_interval(base[used], adapted[used], _of(view.concepts, used), level=view.plan.level)
    return scope_of(view).estimate("gap_reduction", BOTH, interval, view.compared_adapted)


def _worst_gap(view: SuiteShares) -> Iterator[Estimate]:
    """The largest gap of a prompt in each arm, beside what the worst of as many even prompts would score."""
    even = (1 / len(view.values),) * len(view.values)
    for arm, shares in view.arms:
        index, interval = worst_gap([entry.images_NK for entry in shares.prompts], level=view.plan.level)
        floor = None
        if index is not None:
            read_J = shares.read_J[shares.read_J > 0]
            grid = _some_of(np.unique(read_J))
            floor = _worst_floor(tuple(sorted(int(grid[np.abs(grid - n).argmin()]) for n in read_J)), even)
            interval = interval._replace(how=f"{view.prompts[index].concept}: {interval.how}")
        yield scope_of(view).estimate("worst_gap", arm, interval, shares, bounds=(0.0, 1.0), floor=floor)


@lru_cache(maxsize=256)
def _worst_floor(counts: tuple[int, ...], even: tuple[float, ...]) -> float:
    return distances.worst_floor("gap", counts, even, even)


def _some_of(counts: Floats) -> Floats:
    """Counts of images at which floors are made, when there are many."""
    if len(counts) <= MOST_FLOORS:
        return counts
    chosen: Floats = counts[np.round(np.linspace(0, len(counts) - 1, MOST_FLOORS)).astype(int)]
    return chosen


def _pooled_gap(view: SuiteShares) -> Iterator[Estimate]:
    """The gap of all images together: hides opposite biases of different prompts; secondary."""
    scope = scope_of(view)

    def sums(shares: ArmShares, used: NDArray[np.bool_]) -> Floats:
        result: Floats = shares.shares_JK[used] * shares.read_J[used, None]
        return result

    def interval(arms: Sequence[ArmShares]) -> Interval:
        used = np.all([shares.read_J > 0 for shares in arms], axis=0)
        sums_AJK = [sums(shares, used) for shares in arms]
        reads = [shares.read_J[used] for shares in arms]

        def pooled(mask: NDArray[np.bool_]) -> float:
            gaps = [
                float(distances.gap(sums_JK[mask].sum(axis=0) / read_J[mask].sum()))
                for sums_JK, read_J in zip(sums_AJK, reads, strict=True)
            ]
            return gaps[0] if len(gaps) == 1 else gaps[1] - gaps[0]

        return jackknife_interval(pooled, _of(view.concepts, used), level=view.plan.level)

    for arm, shares in view.arms:
        yield scope.estimate("gap_pooled", arm, interval([shares]), shares, bounds=(0.0, 1.0))
    both = [view.compared_base, view.compared_adapted]
    yield scope.estimate("gap_pooled", SHIFT, interval(both), view.compared_adapted)


def _concept_estimates(view: SuiteShares, concept: str) -> Iterator[Estimate]:
    """Shares of one concept, its wordings together: what these very prompts give."""
    scope, level = scope_of(view), view.plan.level
    for index, value in enumerate(view.values):
        name = f"share:{value}"
        for arm, shares in view.arms:
            interval = one_share(np.concatenate(shares.column(index)), level)
            yield scope.estimate(name, arm, interval, shares, concept=concept, bounds=(0.0, 1.0))
        base, adapted = view.compared_base, view.compared_adapted
        interval = one_shift(
            np.concatenate(base.column(index)), np.concatenate(adapted.column(index)), paired=view.paired, level=level
        )
        yield scope.estimate(name, SHIFT, interval, adapted, concept=concept)


def _whole(images_N: Floats) -> bool:
    return bool(np.all((images_N == 0) | (images_N == 1)))


def one_share(images_N: Floats, level: float) -> Interval:
    """Wilson's interval; with several people in an image, a t interval over images, which are the independent draws."""
    if _whole(images_N):
        return wilson(int(images_N.sum()), len(images_N), level=level)
    return _over_images(images_N, level)


def _over_images(values_N: Floats, level: float) -> Interval:
    interval = mean_interval(values_N, [str(index) for index in range(len(values_N))], level=level)
    return interval._replace(how=interval.how.replace("prompt", "image"))


def with_width(
    interval: Interval, base: Sequence[Floats], adapted: Sequence[Floats], *, paired: bool, level: float
) -> Interval:
    """A change's interval over prompts; where every prompt changes the same it has no width, and that of images has."""
    if interval.low is None or interval.low != interval.high:
        return interval
    pooled = one_shift(np.concatenate(base), np.concatenate(adapted), paired=paired, level=level)
    return Interval(interval.value, *pooled[1:3], f"no spread between prompts; {pooled.how}")


def one_shift(base_N: Floats, adapted_N: Floats, *, paired: bool, level: float) -> Interval:
    """The change in a share over images: of pairs row by row, or of two unpaired sets."""
    if paired:
        if _whole(base_N) and _whole(adapted_N):
            gained, lost = int(np.sum(adapted_N > base_N)), int(np.sum(adapted_N < base_N))
            return paired_difference(gained, lost, len(base_N), level=level)
        return _over_images(adapted_N - base_N, level)
    if _whole(base_N) and _whole(adapted_N):
        return unpaired_difference(int(adapted_N.sum()), len(adapted_N), int(base_N.sum()), len(base_N), level=level)
    return welch_difference(adapted_N, base_N, level=level)
