"""One attribute in one suite, as arrays over prompts: what estimates, tests and verdicts are computed from.

Letters: J prompts, N images, K values (of a joint: its declared cells).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evenhand.analysis.tables import Floats, PromptShares, ReadingTable, Shares
from evenhand.evaluation.plan import JOINT, Plan
from evenhand.records import Prompt

# The arm of an estimate that is a difference: it changes its sign when the arms are swapped. What compares the arms
# without being a difference (which part of the gap is gone, which part of the pairs changed) has the arm ``both``.
SHIFT = "shift"
BOTH = "both"
# What these prompts show is decided by their text, so their shares say nothing about the model's habits.
DIRECTED_SUITES = ("explicit", "fixed", "unrelated")


@dataclass(frozen=True, kw_only=True)
class ArmShares:
    """One arm's images of J prompts, by prompt; shares are NaN where a prompt has no image that was read."""

    prompts: tuple[Shares, ...]
    num_values: int

    @cached_property
    def read_J(self) -> Floats:
        """How many images were read."""
        return np.array([len(entry.images_NK) for entry in self.prompts], dtype=np.float64)

    @cached_property
    def unread_J(self) -> Floats:
        """How many images were not."""
        return np.array([entry.n_unread for entry in self.prompts], dtype=np.float64)

    @cached_property
    def shares_JK(self) -> Floats:
        """Each prompt's shares."""
        none = np.full(self.num_values, np.nan)
        return np.array([entry.share_K if len(entry.images_NK) else none for entry in self.prompts]).reshape(
            len(self.prompts), self.num_values
        )

    @cached_property
    def noise_J(self) -> Floats:
        """The unbiased variance of each prompt's shares, summed over values; NaN for fewer than two images."""
        return np.array(
            [
                entry.images_NK.var(axis=0, ddof=1).sum() / len(entry.images_NK) if len(entry.images_NK) > 1 else np.nan
                for entry in self.prompts
            ]
        )

    @property
    def num_read(self) -> int:
        """How many images were read, of all prompts."""
        return int(self.read_J.sum())

    @property
    def num_unread(self) -> int:
        """How many were not."""
        return int(self.unread_J.sum())

    def column(self, index: int) -> list[Floats]:
        """One value's share in each image, by prompt."""
        return [entry.images_NK[:, index] for entry in self.prompts]

    def chosen(self, places: Sequence[int]) -> ArmShares:
        """The arm with these of its prompts only."""
        return ArmShares(prompts=tuple(self.prompts[place] for place in places), num_values=self.num_values)


@dataclass(frozen=True, kw_only=True)
class SuiteShares:
    """An attribute or joint in a suite: both arms with all their images, and with those that a shift compares.

    ``targets_JK`` is NaN for prompts without a target.
    """

    plan: Plan
    suite: str
    attribute: str
    values: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    targets_JK: Floats
    base: ArmShares
    adapted: ArmShares
    compared_base: ArmShares
    compared_adapted: ArmShares
    paired: bool

    @property
    def concepts(self) -> list[str]:
        """The concept of each prompt: wordings of one concept move together."""
        return [prompt.concept for prompt in self.prompts]

    @property
    def has_target(self) -> bool:
        """Whether any prompt has a target."""
        return bool(np.any(~np.isnan(self.targets_JK)))

    @property
    def even_target(self) -> bool:
        """Whether every target there is asks for equal shares."""
        given = self.targets_JK[~np.isnan(self.targets_JK[:, 0])]
        return bool(len(given)) and bool(np.allclose(given, 1 / len(self.values)))

    @property
    def arms(self) -> tuple[tuple[str, ArmShares], tuple[str, ArmShares]]:
        """Both arms by name."""
        return (self.plan.arms[0], self.base), (self.plan.arms[1], self.adapted)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Where the prompts of each concept are."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(self.prompts):
            places.setdefault(prompt.concept, []).append(place)
        return places

    @cached_property
    def phi(self) -> float | None:
        """Correlation of same-seed pairs within prompts, over all values; None unpaired, or if an arm is constant."""
        if not self.paired:
            return None
        covariance = variance_base = variance_adapted = 0.0
        for one, other in zip(self.compared_base.prompts, self.compared_adapted.prompts, strict=True):
            if len(one.images_NK):
                base, adapted = one.images_NK - one.share_K, other.images_NK - other.share_K
                covariance += float((base * adapted).sum())
                variance_base += float((base**2).sum())
                variance_adapted += float((adapted**2).sum())
        if variance_base <= 1e-12 or variance_adapted <= 1e-12:
            return None
        return float(np.clip(covariance / (variance_base * variance_adapted) ** 0.5, -1.0, 1.0))

    def of_concept(self, concept: str) -> SuiteShares:
        """The prompts of one concept only."""
        places = self._places[concept]
        return SuiteShares(
            plan=self.plan,
            suite=self.suite,
            attribute=self.attribute,
            values=self.values,
            prompts=tuple(self.prompts[place] for place in places),
            targets_JK=self.targets_JK[places],
            base=self.base.chosen(places),
            adapted=self.adapted.chosen(places),
            compared_base=self.compared_base.chosen(places),
            compared_adapted=self.compared_adapted.chosen(places),
            paired=self.paired,
        )


def target_of(plan: Plan, attribute: str, concept: str) -> tuple[float, ...] | None:
    """The target of an attribute; of a joint its own, else the product of its parts' (each even in the others)."""
    target = plan.target(attribute, concept)
    parts = next((names for names in plan.joints if JOINT.join(names) == attribute), None)
    if target is not None or parts is None or plan.leaves_alone(attribute, concept):
        return target
    cells = np.ones(1)
    for name in parts:
        wanted = plan.target(name, concept)
        if wanted is None:
            return None
        cells = np.outer(cells, wanted).reshape(-1)
    return tuple(float(share) for share in cells)


def suite_shares(table: ReadingTable, suite: str, attribute: str) -> SuiteShares:
    """An attribute or joint in a suite, whether or not it was read there."""
    plan, values = table.plan, table.values[attribute]
    rows: list[PromptShares] = [table.prompt_shares(attribute, prompt) for prompt in plan.in_suite(suite)]
    none = (float("nan"),) * len(values)
    targets = [target_of(plan, attribute, row.prompt.concept) or none for row in rows]
    base, adapted = (tuple(row.base for row in rows), tuple(row.adapted for row in rows))
    compared = [row.compared() for row in rows]
    k = len(values)
    return SuiteShares(
        plan=plan,
        suite=suite,
        attribute=attribute,
        values=values,
        prompts=tuple(row.prompt for row in rows),
        targets_JK=np.array(targets, dtype=np.float64).reshape(len(rows), k),
        base=ArmShares(prompts=base, num_values=k),
        adapted=ArmShares(prompts=adapted, num_values=k),
        compared_base=ArmShares(prompts=tuple(pair[0] for pair in compared), num_values=k),
        compared_adapted=ArmShares(prompts=tuple(pair[1] for pair in compared), num_values=k),
        paired=table.paired,
    )


def open_suites(table: ReadingTable) -> list[SuiteShares]:
    """Every attribute and joint in every suite whose prompts leave it open, where it was read or has a target."""
    plan = table.plan
    names = [name for name in plan.attributes if name not in plan.guard_attributes]
    found = []
    for suite in plan.suites:
        if suite in DIRECTED_SUITES:
            continue
        for attribute in (*names, *plan.joint_attributes):
            view = suite_shares(table, suite, attribute)
            read = view.base.num_read + view.adapted.num_read
            if read or (attribute in names and view.has_target):
                found.append(view)
    return found
