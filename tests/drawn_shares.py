"""Suites with known truth, drawn straight into arrays: a thousand folders in seconds, without readings to parse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenhand.analysis.suite_shares import ArmShares, SuiteShares
from evenhand.analysis.tables import Shares
from evenhand.evaluation.plan import Plan, parse_plan
from tests.folders import plan_row, prompt_row

Floats = NDArray[np.float64]


def plan_of(num_prompts: int, num_values: int = 2, **changes: object) -> Plan:
    prompts = [prompt_row("heldout", f"c{index}") for index in range(num_prompts)]
    values = ["woman", "man"] if num_values == 2 else [f"v{index}" for index in range(num_values)]
    target = {"attribute": "presentation", "concept": "*", "shares": [1 / num_values] * num_values}
    content = plan_row(prompts, attributes=[{"name": "presentation", "values": values}], targets=[target], **changes)
    return parse_plan(content, "test")


def draw(shares_JK: Floats, counts: Sequence[int], rng: np.random.Generator) -> ArmShares:
    """Independent images of one subject each: ``counts`` for each prompt."""
    k = shares_JK.shape[1]
    prompts = tuple(
        Shares(images_NK=np.eye(k)[rng.choice(k, size=n, p=share_K)], n_unread=0)
        for share_K, n in zip(shares_JK, counts, strict=True)
    )
    return ArmShares(prompts=prompts, num_values=k)


def draw_pairs(
    base_JK: Floats, adapted_JK: Floats, n: int, rng: np.random.Generator, *, same: float
) -> tuple[ArmShares, ArmShares]:
    """Pairs of images that share their random number with chance ``same``."""
    k, arms = base_JK.shape[1], ([], [])  # type: tuple[int, tuple[list[Shares], list[Shares]]]
    for shares in zip(base_JK, adapted_JK, strict=True):
        numbers = rng.random((2, n))
        numbers[1] = np.where(rng.random(n) < same, numbers[0], numbers[1])
        for arm, share_K, number_N in zip(arms, shares, numbers, strict=True):
            codes = np.minimum(np.searchsorted(np.cumsum(share_K), number_N, side="right"), k - 1)
            arm.append(Shares(images_NK=np.eye(k)[codes], n_unread=0))
    return tuple(ArmShares(prompts=tuple(arm), num_values=k) for arm in arms)  # type: ignore[return-value]  # two arms


def view_of(plan: Plan, base: ArmShares, adapted: ArmShares, *, paired: bool = True) -> SuiteShares:
    k = base.num_values
    return SuiteShares(
        plan=plan,
        suite="heldout",
        attribute="presentation",
        values=plan.attributes["presentation"],
        prompts=plan.prompts,
        targets_JK=np.full((len(plan.prompts), k), 1 / k),
        base=base,
        adapted=adapted,
        compared_base=base,
        compared_adapted=adapted,
        paired=paired,
    )


def two(first_J: Floats) -> Floats:
    """Shares of two values from those of the first."""
    return np.stack([first_J, 1 - first_J], axis=1)


def spread_shares(mean: float, sd: float, count: int, rng: np.random.Generator) -> Floats:
    """Prompts' shares of the first value from a beta distribution; all alike where ``sd`` is 0."""
    if sd == 0:
        return np.full(count, mean)
    size = mean * (1 - mean) / sd**2 - 1
    return rng.beta(mean * size, (1 - mean) * size, size=count)
