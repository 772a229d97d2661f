"""Whether an adapter still shows different pictures: diversity within values, and near-duplicates within prompts.

Within values, because shares can be on target with one woman shown eight times. Letters: N images, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evenhand.analysis.scored import Floats, ScoredImages, ScoredPrompt, concepts, num_images
from evenhand.analysis.suite_shares import SHIFT
from evenhand.records import Estimate
from evenhand.seeds import derive
from evenhand.stats.diversity import vendi
from evenhand.stats.intervals import Interval, jackknife_interval, mean_interval

FEWEST_IMAGES = 2
# Random subsets of the arm that has more images of a value; their mean Vendi score is compared.
NUM_SUBSETS = 16
# What counts as a near-duplicate: a pair as alike as the base's most alike 1 % of pairs. Scorers differ too much in
# what cosine two pictures of one prompt have (0.9 for one, 0.6 for another) for a fixed one.
DUPLICATE_QUANTILE = 0.99
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Vendi scores of one value in one prompt, at equal numbers of images.

    ``matched``: the base's images are of the same prompt, which shows the value in both arms.
    """

    concept: str
    value: str | None
    base: float
    adapted: float
    n_images: int
    matched: bool


def diversity_cells(images: ScoredImages, suite: str) -> list[Cell]:
    """A cell for every value that the adapted images of a prompt show twice or more, where there is a base to compare.

    A value that the base hardly shows for a prompt is compared with base images that were asked for it (explicit
    prompts of the same concept), or else with the base's images of that value for the other prompts. Images in which
    nothing was read make cells only in suites where nothing is read at all.
    """
    prompts = images.suite(suite)
    shown = {value for entry in prompts for arm in (entry.base, entry.adapted) for value in arm.values}
    values: Sequence[str | None] = sorted(value for value in shown if value is not None) or [None]
    cells = []
    for value in values:
        asked = images.asked_for(value)
        for entry in prompts:
            adapted_ND, own_ND = entry.adapted.of(value), entry.base.of(value)
            if len(adapted_ND) < FEWEST_IMAGES:
                continue
            matched = len(own_ND) >= FEWEST_IMAGES
            explicit = asked.get(entry.prompt.concept, [])
            others = [other for other in prompts if other is not entry]
            references = [own_ND] if matched else _base_images(explicit, value) or _base_images(others, value)
            if references:
                cells.append(_cell(entry, value, adapted_ND, references, matched=matched))
    return cells


def _base_images(prompts: Sequence[ScoredPrompt], value: str | None) -> list[Floats]:
    found = [entry.base.of(value) for entry in prompts]
    return [features_ND for features_ND in found if len(features_ND) >= FEWEST_IMAGES]


def _cell(
    entry: ScoredPrompt, value: str | None, adapted_ND: Floats, references: Sequence[Floats], *, matched: bool
) -> Cell:
    seed = derive(0, "diversity", entry.prompt.id, str(value))
    sizes = [min(len(adapted_ND), len(reference)) for reference in references]
    base = [_vendi_at(reference, size, seed) for reference, size in zip(references, sizes, strict=True)]
    adapted = [_vendi_at(adapted_ND, size, seed) for size in sizes]
    return Cell(
        concept=entry.prompt.concept,
        value=value,
        base=float(np.mean(base)),
        adapted=float(np.mean(adapted)),
        n_images=max(sizes),
        matched=matched,
    )


def _vendi_at(features_ND: Floats, size: int, seed: int) -> float:
    """Vendi score of ``size`` of the images: of all, or the mean over random subsets."""
    if len(features_ND) == size:
        return vendi(features_ND)
    rng = np.random.default_rng(seed)
    subsets = [np.sort(rng.choice(len(features_ND), size=size, replace=False)) for _ in range(NUM_SUBSETS)]
    return float(np.mean([vendi(features_ND[subset]) for subset in subsets]))


def relative_change(cells: Sequence[Cell], *, level: float) -> Interval:
    """Change of the number of different pictures beyond the first (Vendi score minus one), relative to the base.

    -1 is one picture only, at any number of images; the Vendi score itself is then 1 of at most N.
    """
    if not cells:
        return Interval(None, None, None, "not estimable: no value is shown twice or more by both arms")
    base_C = np.array([max(0.0, cell.base - 1.0) for cell in cells])
    adapted_C = np.array([max(0.0, cell.adapted - 1.0) for cell in cells])
    names = [cell.concept for cell in cells]
    left = [base_C[[other != name for other in names]].sum() for name in set(names)] if len(set(names)) > 1 else []
    if min([base_C.sum(), base_C.sum() - base_C.max() if len(cells) > 1 else 1.0, *left]) <= ROUNDING:
        return Interval(None, None, None, "not estimable: the base's pictures are all the same")
    interval = jackknife_interval(
        lambda mask: float(adapted_C[mask].sum() / base_C[mask].sum()) - 1.0, names, level=level
    )
    unmatched = sum(not cell.matched for cell in cells)
    how = f"Vendi score at equal numbers of images in {len(cells)} cells, {interval.how.replace('prompt', 'cell')}"
    return interval._replace(how=f"{how}; {unmatched} cells compared with the base's images of other prompts")


def diversity_estimates(images: ScoredImages, suite: str, cells: Sequence[Cell]) -> Iterator[Estimate]:
    """``diversity`` and, with two values or more, ``diversity:<value>``: mean Vendi score of both arms, and its shift.

    Only of values that both arms show for a prompt, so that the two arms are interchangeable.
    """
    plan = images.plan
    matched = [cell for cell in cells if cell.matched]
    values = sorted({cell.value for cell in matched if cell.value is not None})
    groups = {"diversity": matched}
    if len(values) > 1:
        groups |= {f"diversity:{value}": [cell for cell in matched if cell.value == value] for value in values}
    for name, group in groups.items():
        names = [cell.concept for cell in group]
        base_C, adapted_C = (np.array([getattr(cell, arm) for cell in group]) for arm in ("base", "adapted"))
        rows = (*zip(plan.arms, (base_C, adapted_C), strict=True), (SHIFT, adapted_C - base_C))
        for arm, scores_C in rows if group else ():
            interval = mean_interval(scores_C, names, level=plan.level)
            if arm != SHIFT and interval.low is not None:
                interval = interval._replace(low=max(1.0, interval.low))
            how = f"Vendi score at equal numbers of images; {interval.how.replace('prompt', 'cell')}"
            yield images.estimate(
                name,
                suite,
                arm,
                interval._replace(how=how),
                attribute=plan.primary.attribute,
                counts=(len(set(names)), sum(cell.n_images for cell in group)),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Share of near-duplicates among the pairs of images of each prompt, and above what cosine a pair counts."""

    prompts: tuple[ScoredPrompt, ...]
    base_J: Floats
    adapted_J: Floats
    threshold: float


def duplicates(images: ScoredImages, suite: str) -> Duplicates | None:
    """Near-duplicates of a suite's prompts; None where no prompt has two images in both arms."""
    prompts = [
        entry for entry in images.suite(suite) if min(len(entry.base.seeds), len(entry.adapted.seeds)) >= FEWEST_IMAGES
    ]
    if not prompts:
        return None
    base = [_pair_cosines(entry.base.features_ND) for entry in prompts]
    adapted = [_pair_cosines(entry.adapted.features_ND) for entry in prompts]
    threshold = float(np.quantile(np.concatenate(base), DUPLICATE_QUANTILE, method="higher"))
    threshold = min(threshold, 1.0 - ROUNDING)
    base_J, adapted_J = (np.array([(row >= threshold).mean() for row in rows]) for rows in (base, adapted))
    return Duplicates(prompts=tuple(prompts), base_J=base_J, adapted_J=adapted_J, threshold=threshold)


def _pair_cosines(features_ND: Floats) -> Floats:
    cosines: Floats = (features_ND @ features_ND.T)[np.triu_indices(len(features_ND), 1)]
    return cosines


def duplicate_estimates(images: ScoredImages, suite: str, found: Duplicates) -> Iterator[Estimate]:
    """``near_duplicates``: the share of such pairs among a prompt's pairs of images, in both arms, and its rise."""
    plan = images.plan
    rows = ((plan.arms[0], found.base_J), (plan.arms[1], found.adapted_J), (SHIFT, found.adapted_J - found.base_J))
    for arm, shares_J in rows:
        interval = mean_interval(shares_J, concepts(found.prompts), level=plan.level)
        if arm != SHIFT and interval.low is not None and interval.high is not None:
            interval = interval._replace(low=max(0.0, interval.low), high=min(1.0, interval.high))
        how = (
            f"pairs with a cosine of {found.threshold:.4f} or more, which 1 % of the base's pairs have; {interval.how}"
        )
        yield images.estimate(
            "near_duplicates",
            suite,
            arm,
            interval._replace(how=how),
            counts=(len(found.prompts), num_images(found.prompts, "base" if arm == plan.arms[0] else "adapted")),
        )
