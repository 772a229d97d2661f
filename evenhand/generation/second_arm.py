"""What the second arm of a plan is made with: an adapter, a stack of them, or something done while images are made.

The first arm is the unmodified base. Whatever the second one is, its images start from the same noise, in the same
batches, and at scale 0 they are the base's bit for bit; so it is measured as every other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from evenhand.evaluation.plan import Plan
from evenhand.evaluation.suites import Suites
from evenhand.interfaces import GeneratedImage, LoadedBase, SamplingSettings
from evenhand.records import Attribute, Prompt
from evenhand.seeds import MAX_SEED, derive

# The images of some (prompt, seed) as one batch, in order.
Maker = Callable[[Sequence[tuple[Prompt, int]]], list[GeneratedImage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an arm may know before its first image: the plan so far, and what its prompts were made of."""

    plan: Plan
    suites: Suites
    attribute: Attribute


class SecondArm(Protocol):
    """``name`` is the arm's in the plan."""

    @property
    def name(self) -> str:
        """What images of this arm are called."""

    def facts(self, asked: Asked) -> Mapping[str, Any]:  # Any: JSON
        """What the plan says of the arm beside its name: ``settings``, and ``instructions`` for each image."""

    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> AbstractContextManager[Maker]:
        """Inside, the maker makes images as this arm does, at ``scale``; outside, ``base`` is as it was.

        ValueError when something of the arm does not fit the base.
        """


def sampling_of(plan: Plan) -> SamplingSettings:
    """How the plan makes images."""
    assert plan.generation is not None
    generation = plan.generation
    return SamplingSettings(
        steps=generation.steps,
        guidance=generation.guidance,
        height_px=generation.height_px,
        width_px=generation.width_px,
    )


def plain_maker(base: LoadedBase, plan: Plan) -> Maker:
    """Images as the base makes them, with whatever adapter is active on it."""

    def make(images: Sequence[tuple[Prompt, int]]) -> list[GeneratedImage]:
        return base.generate([prompt.text for prompt, _ in images], [seed for _, seed in images], sampling_of(plan))

    return make


def uniform_draw(seed: int, *names: str) -> float:
    """A number in [0, 1) that depends on an image's seed and on what it is for, and on nothing else."""
    return derive(seed, *names) / (MAX_SEED + 1)


def is_treated(seed: int, *, scale: float) -> bool:
    """Whether an image is among the share ``scale`` that an arm treats: those of a smaller share are all among it."""
    return uniform_draw(seed, "treated") < scale


def check_share(plan: Plan, name: str) -> None:
    """Raise ValueError unless every scale of the plan can be the share of images that an arm treats."""
    assert plan.generation is not None
    scales = (plan.generation.adapter_scale, *(plan.dose.scales if plan.dose is not None else ()))
    for scale in scales:
        if not 0 <= scale <= 1:
            raise ValueError(
                f"arm {name}: its scale is the share of images that it treats, between 0 and 1, got {scale:g} "
                "(evaluation.adapter_scale, evaluation.dose_scales)"
            )


def instruction(plan: Plan, prompt: Prompt, seed: int) -> Any:  # Any: JSON, as the arm wrote it
    """What the plan tells the arm to do for an image; None where it leaves it alone."""
    assert plan.generation is not None
    told = plan.generation.arm["instructions"].get(prompt.id)
    return None if told is None else told[plan.generation.seeds[prompt.id].index(seed)]
