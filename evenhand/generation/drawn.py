"""Values drawn from the target for the images of an arm that states or steers them: which prompts, and which value.

An image's draw depends on its seed alone, so arms that draw for the same plan draw the same values.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, product

from evenhand.captions.leaks import attribute_leaks
from evenhand.evaluation.plan import JOINT, Plan
from evenhand.generation.second_arm import Asked, uniform_draw
from evenhand.records import Attribute, Prompt

Cell = tuple[str, ...]


def drawn_cells(
    asked: Asked, more: Mapping[str, Attribute], *, suites: Sequence[str], arm: str
) -> dict[str, list[Cell]]:
    """For each prompt that is treated, by id, a value of each attribute for each of its seeds.

    Treated are prompts of the named ``suites`` whose concept has a target and whose text states no value. With ``more``
    attributes than the evaluation's own, the target is that of their combinations. ValueError when the headline has no
    such prompt.
    """
    plan, attributes = asked.plan, [asked.attribute, *more.values()]
    check_suites(plan, suites, arm=arm)
    key = JOINT.join(attribute.name for attribute in attributes)
    if not any(target.attribute == key for target in plan.targets):
        raise ValueError(
            f"arm {arm}: there is no target for {key!r} to draw from (evaluation.joints=[[...]] and joint_target= give "
            "one for combinations)"
        )
    cells = list(product(*(attribute.values for attribute in attributes)))
    assert plan.generation is not None
    drawn = {}
    for prompt in plan.prompts:
        shares = plan.target(key, prompt.concept)
        if prompt.suite in suites and shares is not None and not states_value(prompt, attributes):
            drawn[prompt.id] = [draw(cells, shares, seed) for seed in plan.generation.seeds[prompt.id]]
    if not any(prompt.id in drawn for prompt in plan.in_suite(plan.primary.suite)):
        raise ValueError(
            f"arm {arm}: no prompt of the headline's suite {plan.primary.suite} has a target and states no value, so "
            "there is nothing to treat"
        )
    return drawn


def check_suites(plan: Plan, suites: Sequence[str], *, arm: str) -> None:
    """Raise ValueError when the headline's suite is not among those that an arm treats."""
    if plan.primary.suite not in suites:
        raise ValueError(
            f"arm {arm}: it treats the suites {', '.join(suites)}, but the headline is about {plan.primary.suite} "
            f"(arm.suites=[{plan.primary.suite}])"
        )


def states_value(prompt: Prompt, attributes: Sequence[Attribute]) -> bool:
    """Whether a prompt names a value itself: then it is left as it is, as a person who asks for it would expect."""
    expected = prompt.suite == "explicit" and set(prompt.expects or {}) & {each.name for each in attributes}
    return bool(expected) or bool(attribute_leaks([prompt.text], attributes))


def draw(cells: Sequence[Cell], shares: Sequence[float], seed: int) -> Cell:
    """A cell drawn by its share."""
    bounds = list(accumulate(shares))
    place = bisect_right(bounds, uniform_draw(seed, "value") * bounds[-1])
    return cells[min(place, len(cells) - 1)]
