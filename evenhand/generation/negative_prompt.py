"""Negative prompts as an arm: of a value drawn from the target, the other values are what guidance leads away from.

What a user can do in any program without touching a model: for the woman that was drawn, guidance starts from "a
portrait of a male mechanic" (``says: prompt``) or from "male" (``says: value``) instead of from the empty prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from evenhand.evaluation.plan import Plan
from evenhand.generation.drawn import Cell, drawn_cells
from evenhand.generation.second_arm import Asked, Maker, check_share, instruction, is_treated, sampling_of
from evenhand.interfaces import GeneratedImage, LoadedBase
from evenhand.records import Attribute, Prompt

SAYS = ("prompt", "value")
BETWEEN = ", "


class NegativePrompt:
    """``suites`` are those whose images get a negative prompt; ``attributes`` are drawn beside the evaluation's own.

    Its scale is the share of images that get one.
    """

    name = "negative_prompt"

    def __init__(
        self, *, suites: Sequence[str], attributes: Mapping[str, Attribute], says: Literal["prompt", "value"]
    ) -> None:
        self._suites = tuple(suites)
        self._attributes = dict(attributes)
        self._says = says

    def facts(self, asked: Asked) -> dict[str, Any]:  # Any: JSON
        """The negative prompt of each image, where there is one; ValueError where guidance is off."""
        check_share(asked.plan, self.name)
        assert asked.plan.generation is not None
        if asked.plan.generation.guidance == 1:
            raise ValueError(f"arm {self.name}: sampling.guidance=1 is no guidance, so a negative prompt does nothing")
        attributes = [asked.attribute, *self._attributes.values()]
        drawn = drawn_cells(asked, self._attributes, suites=self._suites, arm=self.name)
        texts = asked.suites.explicit_texts(attributes)
        return {
            "settings": {
                "suites": list(self._suites),
                "attributes": [each.name for each in attributes],
                "says": self._says,
            },
            "instructions": {
                prompt_id: [self._negative(attributes, cell, texts[prompt_id]) for cell in cells]
                for prompt_id, cells in drawn.items()
                if prompt_id in texts
            },
        }

    def _negative(self, attributes: Sequence[Attribute], cell: Cell, texts: Mapping[Cell, str]) -> str:
        """What must not be shown: each attribute's other values, with the drawn ones of the other attributes."""
        others = [
            (*cell[:place], value, *cell[place + 1 :])
            for place, attribute in enumerate(attributes)
            for value in attribute.values
            if value != cell[place]
        ]
        if self._says == "prompt":
            return BETWEEN.join(texts[other] for other in others)
        changed = [
            (attribute, other[place])
            for other in others
            for place, attribute in enumerate(attributes)
            if other[place] != cell[place]
        ]
        return BETWEEN.join(attribute.forms[value].replace("{}", "").strip() for attribute, value in changed)

    @contextmanager
    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> Iterator[Maker]:
        """The base with the negative prompts."""

        def make(images: Sequence[tuple[Prompt, int]]) -> list[GeneratedImage]:
            told = [
                instruction(plan, prompt, seed) if is_treated(seed, scale=scale) else None for prompt, seed in images
            ]
            texts, seeds = [prompt.text for prompt, _ in images], [seed for _, seed in images]
            if not any(told):
                return base.generate(texts, seeds, sampling_of(plan))
            return base.generate(texts, seeds, sampling_of(plan), negatives=[negative or "" for negative in told])

        yield make
