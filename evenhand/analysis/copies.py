"""Whether an adapter gives its training images back, with the base's images as what happens without any training.

Letters: N images, J prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evenhand.analysis.scored import Floats, ScoredImages
from evenhand.analysis.suite_shares import SHIFT
from evenhand.evaluation.plan import Plan
from evenhand.evaluation.scoring import NearestTraining
from evenhand.records import Estimate
from evenhand.stats.intervals import mean_interval

EVERY_SUITE = "all"
# An image is a copy when it is nearer to a training image than all but 1 % of the base's images come, and that image
# stands out from its neighbours: as in 1 % of the base's, and at most at half their distance (Carlini et al. 2023; a
# cosine distance is half a squared one, hence a quarter). The second keeps a change of style, which brings every image
# nearer to all training images, from counting as copying. The same picture is a copy whatever the base does.
NULL_QUANTILE = 0.99
SAME = 1.0 - 1e-5
STANDS_OUT = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Per prompt with images in both arms: share of copies and mean similarity to the nearest training image."""

    concepts: tuple[str, ...]
    base_J: Floats
    adapted_J: Floats
    base_similarity_J: Floats
    adapted_similarity_J: Floats
    n_images: tuple[int, int]
    how: str


def find_copies(plan: Plan, rows: Sequence[NearestTraining]) -> Copies | None:
    """Copies among the images of both arms; None without any."""
    by_arm = {arm: [row for row in rows if row.arm == arm] for arm in plan.arms}
    base, adapted = (by_arm[arm] for arm in plan.arms)
    if not base or not adapted:
        return None
    limit = float(np.quantile([row.similarity for row in base], NULL_QUANTILE, method="higher"))
    distances = [row.relative_distance for row in base if row.relative_distance is not None]
    nearest = min(STANDS_OUT, *np.quantile(distances, [1 - NULL_QUANTILE], method="lower")) if distances else STANDS_OUT

    def is_copy(row: NearestTraining) -> bool:
        stands_out = row.relative_distance is None or row.relative_distance < nearest
        return row.similarity >= SAME or (row.similarity > limit and stands_out)

    by_prompt: dict[tuple[str, str], list[NearestTraining]] = {}
    for row in (*base, *adapted):
        by_prompt.setdefault((row.arm, row.prompt_id), []).append(row)
    shares: list[list[float]] = []
    names = []
    for prompt in plan.prompts:
        arms = [by_prompt.get((arm, prompt.id), []) for arm in plan.arms]
        if all(arms):
            copied = [float(np.mean([is_copy(row) for row in found])) for found in arms]
            similarities = [float(np.mean([row.similarity for row in found])) for found in arms]
            shares.append([*copied, *similarities])
            names.append(prompt.concept)
    if not shares:
        return None
    base_J, adapted_J, base_similarity_J, adapted_similarity_J = np.array(shares).T
    return Copies(
        concepts=tuple(names),
        base_J=base_J,
        adapted_J=adapted_J,
        base_similarity_J=base_similarity_J,
        adapted_similarity_J=adapted_similarity_J,
        n_images=(len(base), len(adapted)),
        how=f"cosine with a training image above {limit:.4f}, as of 1 % of the base's images, and below {nearest:.4f} "
        "of the distance of the next nearest",
    )


def copy_estimates(images: ScoredImages, found: Copies) -> Iterator[Estimate]:
    """``copies`` (share of images) and ``training_similarity`` (mean cosine with the nearest), both arms and shift."""
    plan = images.plan
    rows = (
        ("copies", found.base_J, found.adapted_J, f"{found.how}; "),
        ("training_similarity", found.base_similarity_J, found.adapted_similarity_J, ""),
    )
    for name, base_J, adapted_J, how in rows:
        arms = ((plan.arms[0], base_J), (plan.arms[1], adapted_J), (SHIFT, adapted_J - base_J))
        for arm, means_J in arms:
            interval = mean_interval(means_J, found.concepts, level=plan.level)
            if name == "copies" and arm != SHIFT and interval.low is not None and interval.high is not None:
                interval = interval._replace(low=max(0.0, interval.low), high=min(1.0, interval.high))
            yield images.estimate(
                name,
                EVERY_SUITE,
                arm,
                interval._replace(how=how + interval.how),
                counts=(len(found.concepts), found.n_images[0 if arm == plan.arms[0] else 1]),
            )
