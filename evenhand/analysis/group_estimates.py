"""Estimates for pictures of several people: shares of subjects, presence, homogeneity, and how mixed an image is.

Letters: J prompts, N images, K values; ``counts_NK`` holds how many subjects of each value an image shows. The unit is
the prompt, or the image where there is one prompt: never the person, since people in a picture are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.analysis.estimates import Scope, one_share, one_shift, scope_of, with_width
from evenhand.analysis.suite_shares import SHIFT, SuiteShares
from evenhand.analysis.tables import Floats, ReadingTable
from evenhand.records import Estimate
from evenhand.stats import groups
from evenhand.stats.intervals import Interval, jackknife_interval, mean_interval
from evenhand.stats.over_prompts import share_interval

SEVERAL = 2  # subjects make a group


class GroupCounts(NamedTuple):
    """Subjects by value in each image of each prompt, of both arms; ``pairs`` are the images that a shift compares."""

    arms: tuple[tuple[Floats, ...], tuple[Floats, ...]]
    pairs: tuple[tuple[Floats, ...], tuple[Floats, ...]]


def group_counts(table: ReadingTable, view: SuiteShares) -> GroupCounts | None:
    """The counts of a suite; None where no image shows several subjects."""
    arms, several = [], False
    for arm in table.plan.arms:
        images = table.images(view.attribute, arm)
        where = [images.of_prompt(table.place(prompt.id)) for prompt in view.prompts]
        arms.append(tuple(images.counts_NK[part] for part in where))
        several = several or any(bool(np.any(images.subjects_N[part] >= SEVERAL)) for part in where)
    if not several:
        return None
    base, adapted = arms
    if not view.paired:
        return GroupCounts((base, adapted), (base, adapted))
    both = [(one.sum(axis=1) > 0) & (other.sum(axis=1) > 0) for one, other in zip(base, adapted, strict=True)]
    chosen = [tuple(part[keep] for part, keep in zip(arm, both, strict=True)) for arm in arms]
    return GroupCounts((base, adapted), (chosen[0], chosen[1]))


def group_estimates(table: ReadingTable, views: Sequence[SuiteShares]) -> Iterator[Estimate]:
    """Every estimate of the suites that show several people."""
    for view in views:
        counts = group_counts(table, view)
        if counts is None:
            continue
        scope = scope_of(view)
        for index, value in enumerate(view.values):
            yield from _subject_share(view, counts, index, value, concept=None)
            yield from _of_images(view, counts, f"presence:{value}", _presence(index), whole=True)
        yield from _of_images(view, counts, "homogeneity", groups.homogeneity_of_images, whole=True)
        yield from _of_images(view, counts, "within_mix", groups.within_mix_of_images)
        yield from _between_mix(scope, view, counts)
        yield from _of_images(view, counts, "subjects", groups.subjects_of_images, bounds=(0.0, float("inf")))
        for concept in dict.fromkeys(view.concepts):
            places = [place for place, name in enumerate(view.concepts) if name == concept]
            part = GroupCounts(*(tuple(tuple(arm[at] for at in places) for arm in kind) for kind in counts))  # type: ignore[arg-type]  # two arms
            for index, value in enumerate(view.values):
                yield from _subject_share(view.of_concept(concept), part, index, value, concept=concept)


def _presence(index: int) -> Callable[[Floats], Floats]:
    return lambda counts_NK: groups.presence_of_images(counts_NK, index)


def _subject_share(
    view: SuiteShares, counts: GroupCounts, index: int, value: str, *, concept: str | None
) -> Iterator[Estimate]:
    """Share of all subjects: a ratio. The cluster is the prompt in a suite, the image in a concept or single prompt."""
    scope, level, name = scope_of(view), view.plan.level, f"subject_share:{value}"
    names = None if concept is not None or len(view.prompts) == 1 else _units(view)
    for (arm, shares), arm_counts in zip(view.arms, counts.arms, strict=True):
        counts_NK, clusters = _joined(arm_counts, names)
        interval = _named(view, groups.subject_share(counts_NK, index, level=level, clusters=clusters))
        yield scope.estimate(name, arm, interval, shares, concept=concept, bounds=(0.0, 1.0))
    base, adapted = counts.pairs
    used = [place for place in range(len(base)) if base[place].sum() > 0 and adapted[place].sum() > 0]
    chosen = None if names is None else [names[place] for place in used]
    base_NK, base_clusters = _joined([base[place] for place in used], chosen)
    adapted_NK, clusters = _joined([adapted[place] for place in used], chosen)
    interval = groups.subject_share_shift(
        base_NK, adapted_NK, index, paired=view.paired, level=level, clusters=clusters, base_clusters=base_clusters
    )
    yield scope.estimate(
        name, SHIFT, _named(view, interval), view.compared_adapted, concept=concept, bounds=(-1.0, 1.0)
    )


def _named(view: SuiteShares, interval: Interval) -> Interval:
    """An interval over clusters that says what they are."""
    several = 1 < len(set(view.concepts)) < len(view.concepts)
    return interval._replace(how=interval.how.replace("cluster", "concept" if several else "prompt"))


def _units(view: SuiteShares) -> list[str]:
    """What each prompt's images move together with: their concept, or the prompt where there is one concept only."""
    return view.concepts if len(set(view.concepts)) > 1 else [prompt.id for prompt in view.prompts]


def _joined(counts: Sequence[Floats], names: Sequence[str] | None) -> tuple[Floats, list[str] | None]:
    """The images of several prompts, and to which unit each belongs."""
    joined = np.concatenate(counts) if counts else np.zeros((0, 1))
    if names is None:
        return joined, None
    return joined, [name for name, counts_NK in zip(names, counts, strict=True) for _ in counts_NK]


def _of_images(
    view: SuiteShares,
    counts: GroupCounts,
    name: str,
    score: Callable[[Floats], Floats],
    *,
    whole: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Iterator[Estimate]:
    """A score of images (NaN where it has none), as a mean over prompts; ``whole``: it is yes or no."""
    low, high = bounds
    scope, level = scope_of(view), view.plan.level
    for (arm, shares), arm_counts in zip(view.arms, counts.arms, strict=True):
        yield scope.estimate(
            name, arm, _mean(arm_counts, score, view.concepts, level, whole=whole), shares, bounds=bounds
        )
    change = _mean_change(view, counts, score)
    yield scope.estimate(name, SHIFT, change, view.compared_adapted, bounds=(low - high, high - low))


def _scores(counts: Sequence[Floats], score: Callable[[Floats], Floats]) -> list[Floats]:
    return [score(counts_NK) if len(counts_NK) else np.zeros(0) for counts_NK in counts]


def _mean(
    counts: Sequence[Floats], score: Callable[[Floats], Floats], concepts: Sequence[str], level: float, *, whole: bool
) -> Interval:
    scores = [scores_N[~np.isnan(scores_N)] for scores_N in _scores(counts, score)]
    read = [(scores_N, concept) for scores_N, concept in zip(scores, concepts, strict=True) if len(scores_N)]
    names = [concept for _, concept in read]
    means = np.array([scores_N.mean() for scores_N, _ in read])
    if len(read) == 1:
        return one_share(read[0][0], level)
    if whole:
        return share_interval(means, names, n_images=sum(len(scores_N) for scores_N, _ in read), level=level)
    return mean_interval(means, names, level=level)


def _mean_change(view: SuiteShares, counts: GroupCounts, score: Callable[[Floats], Floats]) -> Interval:
    level = view.plan.level
    pairs: list[tuple[Floats, Floats, str]] = []
    for base_N, adapted_N, concept in zip(
        _scores(counts.pairs[0], score), _scores(counts.pairs[1], score), view.concepts, strict=True
    ):
        if view.paired:
            both = ~np.isnan(base_N) & ~np.isnan(adapted_N)
            base_N, adapted_N = base_N[both], adapted_N[both]
        else:
            base_N, adapted_N = base_N[~np.isnan(base_N)], adapted_N[~np.isnan(adapted_N)]
        if len(base_N) and len(adapted_N):
            pairs.append((base_N, adapted_N, concept))
    if len(pairs) == 1:
        return one_shift(pairs[0][0], pairs[0][1], paired=view.paired, level=level)
    changes = np.array([adapted_N.mean() - base_N.mean() for base_N, adapted_N, _ in pairs])
    interval = mean_interval(changes, [concept for _, _, concept in pairs], level=level)
    base, adapted = [base_N for base_N, _, _ in pairs], [adapted_N for _, adapted_N, _ in pairs]
    return with_width(interval, base, adapted, paired=view.paired, level=level)


class _PairSums(NamedTuple):
    """What ``stats.groups.between_mix`` needs of each prompt: leaving one out is then a subtraction."""

    totals_JK: Floats
    squared_subjects_J: Floats
    squared_counts_J: Floats

    @classmethod
    def of(cls, parts: Sequence[Floats]) -> _PairSums:
        return cls(
            np.array([counts_NK.sum(axis=0) for counts_NK in parts]),
            np.array([float((counts_NK.sum(axis=1) ** 2).sum()) for counts_NK in parts]),
            np.array([float((counts_NK**2).sum()) for counts_NK in parts]),
        )

    def mix(self, mask: NDArray[np.bool_]) -> float:
        total_K = self.totals_JK[mask].sum(axis=0)
        pairs = float(total_K.sum() ** 2 - self.squared_subjects_J[mask].sum())
        if pairs <= 0:
            return float("nan")
        return 1 - float((total_K**2).sum() - self.squared_counts_J[mask].sum()) / pairs


def _between_mix(scope: Scope, view: SuiteShares, counts: GroupCounts) -> Iterator[Estimate]:
    """Chance that subjects of two different images differ: what ``within_mix`` is held against."""
    level, names = view.plan.level, view.concepts

    def interval(kinds: Sequence[Sequence[Floats]]) -> Interval:
        sums = [_PairSums.of(parts) for parts in kinds]

        def statistic(mask: NDArray[np.bool_]) -> float:
            found = [entry.mix(mask) for entry in sums]
            return found[0] if len(found) == 1 else found[1] - found[0]

        result = jackknife_interval(statistic, names, level=level)
        if result.value is None or np.isnan(result.value):
            return Interval(None, None, None, "not estimable: fewer than two images show a subject")
        if result.low is None or np.isnan(result.low):
            return Interval(result.value, None, None, "no interval over prompts: it hangs on one prompt")
        return result

    for (arm, shares), parts in zip(view.arms, counts.arms, strict=True):
        yield scope.estimate("between_mix", arm, interval([parts]), shares, bounds=(0.0, 1.0))
    yield scope.estimate("between_mix", SHIFT, interval(counts.pairs), view.compared_adapted, bounds=(-1.0, 1.0))
