"""The adapter at several scales: the headline's shares and distances, all of them of the same prompts and seeds.

A plug-in distance has a floor that falls with the number of images. Scales with different numbers of images would
stand on different floors, and a curve through them would show the numbers and not the adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from evenhand.analysis.estimates import arm_plug_in, arm_share, arm_squared, scope_of
from evenhand.analysis.suite_shares import ArmShares, suite_shares
from evenhand.analysis.tables import ReadingTable
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate

DOSE_DISTANCES = ("gap", "tv")
Seeds = Mapping[str, set[int]]  # of each prompt


class DoseScale(NamedTuple):
    """A scale of the adapter, and the arm of the images that were made with it."""

    scale: float
    arm: str


def dose_scales(plan: Plan) -> dict[str, DoseScale]:
    """The points of a dose curve by the arm of their estimates, from scale 0; none where the plan asks for no dose.

    ``adapted@0`` is the base and ``adapted@1`` the adapter at its own scale, both of the images that every scale has.
    """
    if not plan.dose_arms:
        return {}
    base, adapted = plan.arms
    own = 1.0 if plan.generation is None else plan.generation.adapter_scale
    found = {f"{adapted}@0": DoseScale(0.0, base), f"{adapted}@{own:g}": DoseScale(own, adapted)}
    found |= {arm: DoseScale(scale, arm) for arm, scale in plan.dose_arms.items()}
    return dict(sorted(found.items(), key=lambda item: item[1].scale))


def shared_seeds(table: ReadingTable, attribute: str, suite: str) -> dict[str, set[int]]:
    """The seeds of each prompt of a suite that have an image, read or not, at every scale that was read at all."""
    arms = [point.arm for point in dose_scales(table.plan).values() if point.arm in table.arms]
    found = {}
    for prompt in table.plan.in_suite(suite):
        shared = set.intersection(*(set(table.seeds_of(attribute, arm, prompt.id)) for arm in arms))
        if shared:
            found[prompt.id] = shared
    return found


def has_dose(table: ReadingTable) -> bool:
    """Whether another scale than the adapter's own was read."""
    return len(table.arms) > len(table.plan.arms)


def dose_estimates(table: ReadingTable) -> Iterator[Estimate]:
    """Shares, gap and distances to target of the primary attribute and suite, for each scale that was read."""
    if not has_dose(table):
        return
    primary = table.plan.primary
    view = suite_shares(table, primary.suite, primary.attribute)
    seeds = shared_seeds(table, primary.attribute, primary.suite)
    places = [place for place, prompt in enumerate(view.prompts) if prompt.id in seeds]
    prompts = [view.prompts[place] for place in places]
    scope, concepts = scope_of(view), [prompt.concept for prompt in prompts]
    targets_JK = view.targets_JK[places]
    for name, point in dose_scales(table.plan).items():
        if point.arm not in table.arms or not prompts:
            continue
        rows = [table.arm_shares(primary.attribute, point.arm, prompt, seeds[prompt.id]) for prompt in prompts]
        shares = ArmShares(prompts=tuple(rows), num_values=len(view.values))
        for index, value in enumerate(view.values):
            yield arm_share(scope, name, shares, concepts, index, value)
        has_target = bool(np.any(~np.isnan(targets_JK)))
        for distance in DOSE_DISTANCES:
            if distance == "gap" or has_target:
                yield arm_plug_in(scope, name, shares, concepts, targets_JK, distance)
        if has_target:
            yield from arm_squared(scope, name, shares, concepts, targets_JK)
