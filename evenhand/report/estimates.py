"""Estimates from readings: shares and distances in both arms, and their shift, with intervals and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate
from evenhand.report.tables import Floats, PromptShares, ReadingTable, Shares
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

SHIFT = "shift"
# What these prompts show is decided by their text, so their shares say nothing about the model's habits.
DIRECTED_SUITES = ("explicit", "fixed", "unrelated")

Scorer = Callable[[Shares, tuple[float, ...] | None], float]


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
        shares: Sequence[Shares],
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
            n_prompts=len(shares),
            n_images=sum(entry.n_images for entry in shares),
            n_unread=sum(entry.n_unread for entry in shares),
            floor=floor,
            how=unpaired + interval.how,
        )


def distribution_estimates(table: ReadingTable) -> Iterator[Estimate]:
    """Every estimate of every attribute in every suite whose prompts leave the attribute open."""
    plan = table.plan
    for suite in plan.suites:
        if suite in DIRECTED_SUITES:
            continue
        for attribute in plan.attributes:
            if attribute in plan.guard_attributes:
                continue
            scope = Scope(plan=plan, suite=suite, attribute=attribute, paired=table.paired)
            rows = [table.prompt_shares(attribute, prompt) for prompt in plan.in_suite(suite)]
            if not any(_read(row.base) or _read(row.adapted) for row in rows) and not _has_target(scope, rows):
                continue
            yield from _suite_estimates(scope, rows)
            for concept in dict.fromkeys(row.prompt.concept for row in rows):
                yield from _concept_estimates(scope, concept, [row for row in rows if row.prompt.concept == concept])


def _has_target(scope: Scope, rows: Sequence[PromptShares]) -> bool:
    return any(scope.plan.target(scope.attribute, row.prompt.concept) is not None for row in rows)


def _read(shares: Shares) -> bool:
    return len(shares.images_NK) > 0


def _suite_estimates(scope: Scope, rows: Sequence[PromptShares]) -> Iterator[Estimate]:
    values = scope.plan.attributes[scope.attribute]
    for index, value in enumerate(values):
        for estimate in _of_prompts(scope, f"share:{value}", rows, _share_of(index), bounds=(0.0, 1.0)):
            yield _widened(scope, estimate, rows, index)
    yield from _of_prompts(scope, "gap", rows, _gap, bounds=(0.0, 1.0), floor="gap")
    yield _gap_reduction(scope, rows)
    yield from _pooled_gap(scope, rows)
    yield from _of_prompts(scope, "entropy", rows, _entropy, bounds=(0.0, 1.0), floor="entropy")
    if _has_target(scope, rows):
        yield from _of_prompts(scope, "tv", rows, _tv, bounds=(0.0, 1.0), floor="tv")
        for estimate in _of_prompts(scope, "distance_sq", rows, _distance_sq):
            yield estimate
            if estimate.arm != SHIFT:
                yield _root(estimate)


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
        how=f"root of distance_sq; {estimate.how}",
    )


def _widened(scope: Scope, estimate: Estimate, rows: Sequence[PromptShares], index: int) -> Estimate:
    """Where every prompt scores the same, an interval over prompts has no width; that over images has."""
    if estimate.low is None or estimate.low != estimate.high:
        return estimate
    base = np.concatenate([row.compared()[0].images_NK[:, index] for row in rows])
    adapted = np.concatenate([row.compared()[1].images_NK[:, index] for row in rows])
    if estimate.arm == SHIFT:
        interval = one_shift(base, adapted, paired=scope.paired, level=scope.plan.level)
    else:
        shares = [row.base if estimate.arm == scope.plan.arms[0] else row.adapted for row in rows]
        interval = one_share(np.concatenate([entry.images_NK[:, index] for entry in shares]), scope.plan.level)
    how = f"no spread between prompts; {interval.how}"
    return replace(estimate, low=interval.low, high=interval.high, how=how)


def _share_of(index: int) -> Scorer:
    return lambda shares, target: float(shares.share_K[index])


def _gap(shares: Shares, target: tuple[float, ...] | None) -> float:
    return float(distances.gap(shares.share_K))


def _entropy(shares: Shares, target: tuple[float, ...] | None) -> float:
    return float(distances.entropy(shares.share_K))


def _tv(shares: Shares, target: tuple[float, ...] | None) -> float:
    return float("nan") if target is None else float(distances.total_variation(shares.share_K, np.array(target)))


def _distance_sq(shares: Shares, target: tuple[float, ...] | None) -> float:
    return float("nan") if target is None else distances.distance_sq(shares.images_NK, np.array(target))


def _of_prompts(
    scope: Scope,
    name: str,
    rows: Sequence[PromptShares],
    score: Scorer,
    *,
    bounds: tuple[float, float] | None = None,
    floor: str | None = None,
) -> Iterator[Estimate]:
    """A mean over prompts in both arms, and the mean of each prompt's difference."""
    level = scope.plan.level
    for arm, shares in zip(scope.plan.arms, ([row.base for row in rows], [row.adapted for row in rows]), strict=True):
        scores = _scores(scope, rows, shares, score)
        interval = mean_interval(scores[~np.isnan(scores)], _concepts(rows, ~np.isnan(scores)), level=level)
        noise = None if floor is None else _floor(scope, floor, rows, shares)
        yield scope.estimate(name, arm, interval, shares, bounds=bounds, floor=noise)
    yield scope.estimate(name, SHIFT, _difference(scope, rows, score), [row.compared()[1] for row in rows])


def _scores(scope: Scope, rows: Sequence[PromptShares], shares: Sequence[Shares], score: Scorer) -> Floats:
    """The score of each prompt, NaN where it has none."""
    return np.array(
        [
            score(entry, scope.plan.target(scope.attribute, row.prompt.concept)) if _read(entry) else np.nan
            for row, entry in zip(rows, shares, strict=True)
        ]
    )


def _concepts(rows: Sequence[PromptShares], mask: NDArray[np.bool_]) -> list[str]:
    return [row.prompt.concept for row, used in zip(rows, mask, strict=True) if used]


def _compared_scores(scope: Scope, rows: Sequence[PromptShares], score: Scorer) -> tuple[Floats, Floats, list[str]]:
    base = _scores(scope, rows, [row.compared()[0] for row in rows], score)
    adapted = _scores(scope, rows, [row.compared()[1] for row in rows], score)
    both = ~np.isnan(base) & ~np.isnan(adapted)
    return base[both], adapted[both], _concepts(rows, both)


def _difference(scope: Scope, rows: Sequence[PromptShares], score: Scorer) -> Interval:
    base, adapted, concepts = _compared_scores(scope, rows, score)
    return mean_interval(adapted - base, concepts, level=scope.plan.level)


def _gap_reduction(scope: Scope, rows: Sequence[PromptShares]) -> Estimate:
    """By which part of itself the gap fell. Noise fills small gaps, so this understates a real reduction."""
    base, adapted, concepts = _compared_scores(scope, rows, _gap)
    interval = reduction_interval(base, adapted, concepts, level=scope.plan.level)
    return scope.estimate("gap_reduction", SHIFT, interval, [row.compared()[1] for row in rows])


def _pooled_gap(scope: Scope, rows: Sequence[PromptShares]) -> Iterator[Estimate]:
    """The gap of all images together: hides opposite biases of different prompts; secondary."""
    level = scope.plan.level

    def pooled(shares: Sequence[Shares], mask: NDArray[np.bool_]) -> float:
        chosen = [entry.images_NK for entry, used in zip(shares, mask, strict=True) if used]
        return float(distances.gap(np.concatenate(chosen).mean(axis=0)))

    for arm, every in zip(scope.plan.arms, ([row.base for row in rows], [row.adapted for row in rows]), strict=True):
        used = [row for row, entry in zip(rows, every, strict=True) if _read(entry)]
        shares = [entry for entry in every if _read(entry)]
        interval = jackknife_interval(
            lambda mask, shares=shares: pooled(shares, mask),  # type: ignore[misc]  # binds the loop's shares
            [row.prompt.concept for row in used],
            level=level,
        )
        yield scope.estimate("gap_pooled", arm, interval, every, bounds=(0.0, 1.0))
    both = [row for row in rows if _read(row.compared()[0]) and _read(row.compared()[1])]
    base, adapted = [row.compared()[0] for row in both], [row.compared()[1] for row in both]
    interval = jackknife_interval(
        lambda mask: pooled(adapted, mask) - pooled(base, mask), [row.prompt.concept for row in both], level=level
    )
    yield scope.estimate("gap_pooled", SHIFT, interval, [row.compared()[1] for row in rows])


def _floor(scope: Scope, name: str, rows: Sequence[PromptShares], shares: Sequence[Shares]) -> float | None:
    """What a generator that is exactly even (for tv: on target) would score with these numbers of images."""
    count = len(scope.plan.attributes[scope.attribute])
    even = (1.0 / count,) * count
    floors = []
    for row, entry in zip(rows, shares, strict=True):
        target = scope.plan.target(scope.attribute, row.prompt.concept) if name == "tv" else even
        if target is not None and _read(entry):
            floors.append(distances.noise_floor(name, len(entry.images_NK), target, target))
    return float(np.mean(floors)) if floors else None


def _concept_estimates(scope: Scope, concept: str, rows: Sequence[PromptShares]) -> Iterator[Estimate]:
    """Shares of one concept, its wordings together: what these very prompts give."""
    for index, value in enumerate(scope.plan.attributes[scope.attribute]):
        name = f"share:{value}"
        for arm, shares in zip(
            scope.plan.arms, ([row.base for row in rows], [row.adapted for row in rows]), strict=True
        ):
            interval = one_share(np.concatenate([entry.images_NK[:, index] for entry in shares]), scope.plan.level)
            yield scope.estimate(name, arm, interval, shares, concept=concept, bounds=(0.0, 1.0))
        base = np.concatenate([row.compared()[0].images_NK[:, index] for row in rows])
        adapted = np.concatenate([row.compared()[1].images_NK[:, index] for row in rows])
        interval = one_shift(base, adapted, paired=scope.paired, level=scope.plan.level)
        yield scope.estimate(name, SHIFT, interval, [row.compared()[1] for row in rows], concept=concept)


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
