"""The adapter at other scales: the headline's shares and distances, as arms of their own."""

from __future__ import annotations

from collections.abc import Iterator

from evenhand.records import Estimate
from evenhand.report.estimates import arm_plug_in, arm_share, arm_squared, scope_of
from evenhand.report.suite_shares import ArmShares, suite_shares
from evenhand.report.tables import ReadingTable

DOSE_DISTANCES = ("gap", "tv")


def dose_estimates(table: ReadingTable) -> Iterator[Estimate]:
    """Shares, gap and distances to target of the primary attribute and suite, for each scale that was read."""
    primary = table.plan.primary
    view = suite_shares(table, primary.suite, primary.attribute)
    scope, concepts = scope_of(view), view.concepts
    for arm in table.arms[len(table.plan.arms) :]:
        prompts = tuple(table.arm_shares(primary.attribute, arm, prompt) for prompt in view.prompts)
        shares = ArmShares(prompts=prompts, num_values=len(view.values))
        if not shares.num_read:
            continue
        for index, value in enumerate(view.values):
            yield arm_share(scope, arm, shares, concepts, index, value)
        for name in DOSE_DISTANCES:
            if name == "gap" or view.has_target:
                yield arm_plug_in(scope, arm, shares, concepts, view.targets_JK, name)
        if view.has_target:
            yield from arm_squared(scope, arm, shares, concepts, view.targets_JK)
