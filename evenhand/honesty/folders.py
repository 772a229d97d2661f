"""Evaluations with known truth: a plan, and readings drawn from shares that are chosen here. No image, no model.

Letters: J prompts, N images of a prompt, K values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand.analysis.results import Results, analyse
from evenhand.evaluation.plan import Plan, Primary
from evenhand.records import Prompt, Reading, Target

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ARMS = ("base", "adapted")
SHIFT, BOTH = "shift", "both"  # what an estimate is of that is of no single arm
READER = "simulated"
UNREAD = -1
MARGINS = {"target": 0.10, "explicit": 0.05, "fixed": 0.02, "unread": 0.05}
TWO, FOUR = ("a", "b"), ("a", "b", "c", "d")


def prompts(count: int, *, suite: str = "heldout", expects: Sequence[Mapping[str, str] | None] = ()) -> list[Prompt]:
    """Prompts of different concepts; ``expects`` goes round."""
    return [
        Prompt(
            id=f"{suite}-{index:03d}",
            text=f"a portrait of the {suite} concept {index}",
            concept=f"concept {index}",
            suite=suite,
            expects=expects[index % len(expects)] if expects else None,
        )
        for index in range(count)
    ]


def plan_of(
    plan_prompts: Sequence[Prompt],
    *,
    attributes: Mapping[str, tuple[str, ...]],
    targets: Mapping[str, tuple[float, ...]] | None = None,
    margins: Mapping[str, float] = MARGINS,
    **more: Any,  # Any: further fields of a plan
) -> Plan:
    """A plan about the first attribute on the first prompt's suite; targets are even unless given."""
    if targets is None:
        targets = {name: (1 / len(values),) * len(values) for name, values in attributes.items()}
    fields: dict[str, Any] = {  # Any: fields of a plan
        "alpha": 0.05,
        "paired": True,
        "arms": ARMS,
        "primary": Primary(attribute=next(iter(attributes)), suite=plan_prompts[0].suite),
        "attributes": dict(attributes),
        "targets": tuple(Target(attribute=name, shares=shares) for name, shares in targets.items()),
        "prompts": tuple(plan_prompts),
        "margins": dict(margins),
        "reader": READER,
    }
    return Plan(**{**fields, **more})


def readings_of(
    plan_prompts: Sequence[Prompt],
    labels: Mapping[str, Labels],
    *,
    attribute: str,
    values: Sequence[str],
    reader: str = READER,
) -> list[Reading]:
    """Readings of one person an image. ``labels[arm]`` is (J, N): the index of the value, or UNREAD."""
    return [
        reading(prompt.id, seed, arm, attribute, None if label == UNREAD else values[label], reader=reader)
        for arm, labels_JN in labels.items()
        for prompt, labels_N in zip(plan_prompts, labels_JN.tolist(), strict=True)
        for seed, label in enumerate(labels_N)
    ]


def reading(
    prompt_id: str, seed: int, arm: str, attribute: str, value: str | None, *, subject: int = 0, reader: str = READER
) -> Reading:
    """One line of readings."""
    return Reading(
        prompt_id=prompt_id,
        seed=seed,
        arm=arm,
        subject=subject,
        reader=reader,
        attribute=attribute,
        value=value,
        probs=None,
        unread=None if value is not None else "no person found",
    )


def drawn(rng: np.random.Generator, shares_JK: Floats, *, num_seeds: int) -> Labels:
    """Labels (J, N) of independent images of each prompt."""
    edges_JK = np.cumsum(shares_JK, axis=1)[:, :-1]
    draws_JN = rng.random((len(shares_JK), num_seeds))
    labels_JN: Labels = (draws_JN[:, :, None] > edges_JK[:, None, :]).sum(axis=2)
    return labels_JN


def two_shares(first_J: Floats) -> Floats:
    """Shares (J, 2) from those of the first value."""
    return np.stack([first_J, 1 - first_J], axis=1)


def spread_shares(
    rng: np.random.Generator, means: tuple[float, float], spread: float, *, count: int, likeness: float = 0.8
) -> tuple[Floats, Floats]:
    """Shares (J,) of a value in both arms, over a population of prompts whose mean shift is known exactly.

    Each arm's shares are beta with its mean and standard deviation ``spread``; the arms are coupled by a normal copula,
    so that a prompt that is high in one is high in the other, yet every prompt shifts by something else.
    """
    normal_2J = rng.standard_normal((2, count))
    normal_2J[1] = likeness * normal_2J[0] + np.sqrt(1 - likeness**2) * normal_2J[1]
    uniform_2J = stats.norm.cdf(normal_2J)
    shares = []
    for mean, uniform_J in zip(means, uniform_2J, strict=True):
        total = mean * (1 - mean) / spread**2 - 1
        shares.append(stats.beta.ppf(uniform_J, mean * total, (1 - mean) * total))
    return shares[0], shares[1]


def dirichlet_shares(rng: np.random.Generator, count: int, num_values: int, *, concentration: float = 2.0) -> Floats:
    """Shares (J, K) of prompts that differ."""
    shares_JK: Floats = rng.dirichlet([concentration] * num_values, size=count)
    return shares_JK


def analysed(plan: Plan, readings: Sequence[Reading]) -> Results:
    """What the real analysis makes of it."""
    return analyse(plan, readings, (), plan_digest="0" * 64)


def other_reader(readings: Sequence[Reading], name: str) -> list[Reading]:
    """The same readings by another reader."""
    return [replace(entry, reader=name) for entry in readings]
