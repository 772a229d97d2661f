"""What an adapter cost besides shares: fit to the prompt, different pictures, copies; and the guards over them.

Reads what ``evenhand.evaluation.scoring`` wrote; without it there is nothing to say, and nothing fails.
Letters: J prompts, N images, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evenhand.analysis.copies import EVERY_SUITE, copy_estimates, find_copies
from evenhand.analysis.guards import EVIDENCE, Change
from evenhand.analysis.image_text import (
    dose_score_estimates,
    image_text_estimates,
    image_text_match,
    score_change,
)
from evenhand.analysis.pairs import PermutationTest
from evenhand.analysis.scored import Floats, ScoredImages, concepts, num_images
from evenhand.analysis.suite_shares import SHIFT
from evenhand.analysis.variety import (
    Cell,
    diversity_cells,
    diversity_estimates,
    duplicate_estimates,
    duplicates,
    relative_change,
)
from evenhand.evaluation.folder import ImageKey
from evenhand.evaluation.plan import Plan
from evenhand.evaluation.scoring import FeatureTable, NearestTraining, load_copies, load_features
from evenhand.records import Estimate, Guard
from evenhand.stats.equivalence import tost_of_interval
from evenhand.stats.intervals import Interval, mean_interval
from evenhand.stats.kernels import KERNELS, kernel_test

# A guard's name is the key of its margin.
IMAGE_TEXT, DIVERSITY, NEAR_DUPLICATES, COPIES = "image_text", "diversity", "near_duplicates", "copies"
UNRELATED = "unrelated"
TOLERANCE = 1e-9
SWAPS = 999
# Of the base's images, how many must fit their own prompt better than others: half is what chance gives.
LEAST_TOLD_APART = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the scores of a folder say; empty without scores."""

    estimates: tuple[Estimate, ...] = ()
    guards: tuple[Guard, ...] = ()
    permutations: tuple[PermutationTest, ...] = ()
    notes: tuple[str, ...] = ()


def quality_estimates(plan: Plan, folder: Path, values_by_image: Mapping[ImageKey, str | None]) -> Quality:
    """Estimates and guards from a folder's scores; empty where it has none.

    ``values_by_image`` maps (arm, prompt id, seed) to what the primary reader read of the primary attribute: the value
    that all subjects of the image have, ``mixed`` where they differ, None where nothing was read.
    """
    table = load_features(folder)
    return Quality() if table is None else quality_of(plan, table, load_copies(folder), values_by_image)


def quality_of(
    plan: Plan,
    table: FeatureTable,
    nearest: Sequence[NearestTraining],
    values_by_image: Mapping[ImageKey, str | None],
) -> Quality:
    """Estimates and guards from features in memory, and each image's nearest training image where known."""
    images = ScoredImages(plan, table, values_by_image)
    estimates: list[Estimate] = []
    guards: list[Guard] = []
    notes = [
        f"Image-text scores and features are those of {images.scorer}; such scorers favour some people themselves."
    ]
    for suite in plan.suites:
        estimates += image_text_estimates(images, suite)
        _keep(_image_text_guard(images, suite), guards, notes)
    estimates += dose_score_estimates(images)
    for suite in images.open_suites():
        cells = diversity_cells(images, suite)
        estimates += diversity_estimates(images, suite, cells)
        _keep(_diversity_guard(plan, suite, cells), guards, notes)
        found = duplicates(images, suite)
        if found is not None:
            estimates += duplicate_estimates(images, suite, found)
            rises_J, names = found.adapted_J - found.base_J, concepts(found.prompts)
            _keep(_judged(plan, NEAR_DUPLICATES, suite, _mean_of(rises_J, names), harm=1), guards, notes)
    copies = find_copies(plan, nearest)
    if copies is not None:
        estimates += copy_estimates(images, copies)
        rise = _mean_of(copies.adapted_J - copies.base_J, copies.concepts)
        _keep(_judged(plan, COPIES, EVERY_SUITE, rise, harm=1), guards, notes)
    estimates += feature_similarity_estimates(images)
    kernel_estimates, permutations = kernel_comparisons(images)
    return Quality(
        estimates=(*estimates, *kernel_estimates),
        guards=tuple(guards),
        permutations=tuple(permutations),
        notes=tuple(notes) if estimates else (),
    )


def _keep(judged: Guard | str | None, guards: list[Guard], notes: list[str]) -> None:
    """A guard, or the reason why there is none, where it belongs."""
    if isinstance(judged, Guard):
        guards.append(judged)
    elif judged is not None:
        notes.append(judged)


def _image_text_guard(images: ScoredImages, suite: str) -> Guard | str | None:
    """Fall of the score within values, as a part of the base's match; of the whole score where prompts state values."""
    plan, prompts = images.plan, images.suite(suite)
    if not prompts or IMAGE_TEXT not in plan.margins:
        return None
    match = image_text_match(images, suite)
    if match is None or match.gain.value is None or match.told_apart < LEAST_TOLD_APART or match.gain.value <= 0:
        return (
            f"Guard {IMAGE_TEXT} is not run on {suite} prompts: {images.scorer} does not tell their images from those "
            "of other prompts."
        )
    gain = match.gain.value

    def cost(level: float) -> Interval:
        change = score_change(images, suite, level=level)
        part = change.within if suite in images.open_suites() else change.total
        ends = [None if end is None else end / gain for end in (part.value, part.low, part.high)]
        return Interval(ends[0], ends[1], ends[2], part.how)

    known = cost(plan.level)
    if known.value is None:
        return f"Guard {IMAGE_TEXT} is not run on {suite} prompts: {known.how.removeprefix('not estimable: ')}."
    return _judged(plan, IMAGE_TEXT, suite, cost, harm=-1)


def _diversity_guard(plan: Plan, suite: str, cells: list[Cell]) -> Guard | str | None:
    """The value that lost most, at a level shared by all values."""
    if DIVERSITY not in plan.margins:
        return None
    values = dict.fromkeys(cell.value for cell in cells)
    groups = [[cell for cell in cells if cell.value == value] for value in values]

    def changes(level: float) -> list[Interval]:
        return [relative_change(group, level=1 - (1 - level) / max(1, len(groups))) for group in groups]

    def worst(level: float) -> Interval:
        known = [change for change in changes(level) if change.low is not None]
        return min(known, key=lambda change: change.value or 0.0)

    if all(change.low is None for change in changes(plan.level)):
        reasons = [change.how.removeprefix("not estimable: ") for change in changes(plan.level)]
        reason = reasons[0] if reasons else "no value is shown twice or more by both arms"
        return f"Guard {DIVERSITY} is not run on {suite} prompts: {reason}."
    return _judged(plan, DIVERSITY, suite, worst, harm=-1)


def _mean_of(values_J: Floats, names: Sequence[str]) -> Change:
    def interval(level: float) -> Interval:
        return mean_interval(values_J, names, level=level)

    return interval


def _judged(plan: Plan, name: str, suite: str, change: Change, *, harm: int) -> Guard | None:
    """A guard over a change whose harm is a fall (-1) or a rise (1).

    By rule ``point`` it fails when the change is beyond the margin and its interval is clear of zero: at few images
    these changes are noisy. By rule ``interval`` it fails unless the worse end of the interval is within the margin.
    """
    if name not in plan.margins:
        return None
    interval, margin = change(plan.level), plan.margins[name]
    assert interval.value is not None
    known = interval.low is not None and interval.high is not None
    nearer, worse = sorted((harm * (interval.low or 0.0), harm * (interval.high or 0.0)))
    if plan.guard_rule == "point":
        passed = harm * interval.value <= margin + TOLERANCE or (known and nearer <= 0)
    else:
        passed = known and worse <= margin + TOLERANCE
    bounds = {"low": -margin, "high": math.inf} if harm < 0 else {"low": -math.inf, "high": margin}
    return Guard(
        name=name,
        suite=suite,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        margin=margin,
        passed=passed,
        evidence=EVIDENCE[tost_of_interval(change(1 - 2 * plan.alpha), **bounds)],
    )


def feature_similarity_estimates(images: ScoredImages) -> Iterator[Estimate]:
    """``similarity`` of same-seed pairs of unrelated images by their features, and its yardstick.

    The yardstick is that of the base's images of two seeds: what different pictures of a prompt have in common.
    """
    rows: dict[str, list[tuple[float, str, int]]] = {"similarity": [], "similarity_yardstick": []}
    for entry in images.suite(UNRELATED):
        base, adapted = entry.base, entry.adapted
        places = {seed: number for number, seed in enumerate(adapted.seeds)}
        both = [(number, places[seed]) for number, seed in enumerate(base.seeds) if seed in places]
        pairs = [float(base.features_ND[one] @ adapted.features_ND[other]) for one, other in both]
        seeds = [
            float(base.features_ND[n] @ base.features_ND[n - 1]) for n in range(len(base.seeds) * (len(base.seeds) > 1))
        ]
        for name, found in (("similarity", pairs), ("similarity_yardstick", seeds)):
            if found:
                rows[name].append((float(np.mean(found)), entry.prompt.concept, len(found)))
    for name, arm in (("similarity", SHIFT), ("similarity_yardstick", images.plan.arms[0])):
        if rows[name]:
            means, names, counts = zip(*rows[name], strict=True)
            interval = mean_interval(np.array(means), names, level=images.plan.level)
            interval = interval._replace(how=f"cosine of {images.scorer} features; {interval.how}")
            yield images.estimate(
                name, UNRELATED, arm, interval, attribute="features", counts=(len(means), sum(counts))
            )


def kernel_comparisons(images: ScoredImages) -> tuple[list[Estimate], list[PermutationTest]]:
    """``cmmd`` and ``kid`` between the arms on unrelated and on headline prompts, and their permutation tests.

    Secondary: on headline prompts a change is the goal, and a distance of whole sets does not say which change it is.
    """
    estimates, permutations = [], []
    for suite in dict.fromkeys((UNRELATED, images.plan.primary.suite)):
        prompts = images.suite(suite)
        if not prompts:
            continue
        base_ND, adapted_MD = (
            np.concatenate([getattr(entry, arm).features_ND for entry in prompts]) for arm in ("base", "adapted")
        )
        paired = images.plan.paired and all(entry.base.seeds == entry.adapted.seeds for entry in prompts)
        for kernel in KERNELS:
            test = kernel_test(base_ND, adapted_MD, kernel=kernel, paired=paired, swaps=SWAPS)
            if test.value is None or test.p is None or test.null_high is None:
                continue
            how = f"{test.how}, p = {test.p:.3f}; below {test.null_high:.3g} in 95 % of them"
            distance = Interval(test.value, None, None, how)
            estimates.append(
                images.estimate(kernel, suite, SHIFT, distance, counts=(len(prompts), num_images(prompts)))
            )
            permutations.append(
                PermutationTest(
                    suite=suite,
                    attribute=images.scorer,
                    statistic=kernel,
                    value=test.value,
                    p=test.p,
                    swaps=SWAPS,
                    how=test.how,
                )
            )
    return estimates, permutations
