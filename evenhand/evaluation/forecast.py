"""What an evaluation will cost and what it can find, said before its first image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evenhand.evaluation.plan import Plan
from evenhand.stats.power import suite_mde, suite_sd

POWER = 0.8
SECONDS_PER_MINUTE, SECONDS_PER_HOUR = 60, 3600
# A share of one half varies most between images, so an effect that is found there is found at any share.
WORST_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The smallest change of a share in the headline's suite that is found with ``power``, and what it rests on.

    ``sigma_between`` is how much the shifts of concepts differ. ``prompts`` are independent ones: concepts, where a
    concept has several wordings; ``images`` are those of all of them together, in an arm.
    """

    value: float
    sigma_between: float
    power: float
    prompts: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """``num_pairs`` are images of an arm, ``num_images`` those of all arms, of which ``num_new`` are not there yet."""

    num_prompts: int
    num_pairs: int
    num_dose: int
    num_images: int
    num_new: int
    seconds: float | None
    tier: str | None
    effect: Effect | None

    def lines(self) -> list[str]:
        """What a program prints of it."""
        dose = f", {self.num_dose} at other scales" if self.num_dose else ""
        tier = f"tier {self.tier}" if self.tier is not None else "the whole suite"
        cached = f" ({self.num_images - self.num_new} are there already)" if self.num_new < self.num_images else ""
        time = "" if self.seconds is None else f", about {duration(self.seconds)}"
        lines = [
            f"plan: {tier}, {self.num_prompts} prompts, {self.num_pairs} pairs of images{dose}: "
            f"{self.num_images} images{cached}{time}"
        ]
        if self.effect is None:
            return [*lines, "plan: too few independent headline prompts to find any change in prompts like them"]
        points = 100 * self.effect.value
        return [
            *lines,
            f"plan: a change of a share by {points:.0f} points or more is found with {self.effect.power:.0%} power "
            f"({self.effect.prompts} independent headline prompts, {self.effect.images} pairs, prompts' shifts "
            f"differing by {100 * self.effect.sigma_between:.0f} points). "
            f"That is for shares of {WORST_SHARE:.0%}, the worst case: nearer to 0 or 100% smaller changes are found",
        ]


def forecast(plan: Plan, *, images_per_second: float | None = None, num_cached: int = 0) -> Forecast:
    """What a plan will make. ``images_per_second`` is measured or given; ``num_cached`` images are there already."""
    assert plan.generation is not None
    seeds = plan.generation.seeds
    num_pairs = sum(map(len, seeds.values()))
    headline = [len(seeds[prompt.id]) for prompt in plan.in_suite(plan.primary.suite)]
    num_dose = 0
    if plan.dose is not None:
        num_dose = len(plan.dose_arms) * sum(min(plan.dose.num_seeds, count) for count in headline)
    num_images = len(plan.arms) * num_pairs + num_dose
    num_new = max(0, num_images - num_cached)
    return Forecast(
        num_prompts=len(plan.prompts),
        num_pairs=num_pairs,
        num_dose=num_dose,
        num_images=num_images,
        num_new=num_new,
        seconds=None if images_per_second is None else num_new / images_per_second,
        tier=plan.tier,
        effect=_planned_effect(plan),
    )


def _planned_effect(plan: Plan) -> Effect | None:
    found = plan.extra.get("mde")
    return Effect(**found) if isinstance(found, Mapping) else None


def expected_effect(plan: Plan, *, sigma_between: float, base_share: float = WORST_SHARE) -> Effect | None:
    """The smallest effect that a plan's headline can find; None where it can find none, as with one independent prompt.

    Pairs are taken as if the two images of a seed had nothing in common, so pairing can only make it smaller.
    """
    assert plan.generation is not None
    prompts = plan.in_suite(plan.primary.suite)
    count = len({prompt.concept for prompt in prompts})
    if count == 1:
        count = len(prompts)
    images = sum(len(plan.generation.seeds[prompt.id]) for prompt in prompts)
    if count < 2:
        return None
    spread = suite_sd(np.array([base_share]), images // count, between_sd=sigma_between)
    value = None if spread is None else suite_mde(count, spread, alpha=plan.alpha, power=POWER)
    if value is None or value > 1:
        return None
    return Effect(value=round(value, 4), sigma_between=sigma_between, power=POWER, prompts=count, images=images)


def duration(seconds: float) -> str:
    """A time in the unit that one would say it in."""
    if seconds < SECONDS_PER_MINUTE:
        return f"{seconds:.0f} s"
    if seconds < SECONDS_PER_HOUR:
        return f"{seconds / SECONDS_PER_MINUTE:.0f} min"
    return f"{seconds / SECONDS_PER_HOUR:.1f} h"
