"""Prompt rewriting as an arm: the value is drawn from the target and stated in the prompt ("a female mechanic").

What services do behind their users' backs, at its best: this rewriter knows which words are the concept, which prompts
are about people whose value is open, and which state one already. One that has to guess from the text does no better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from evenhand.evaluation.plan import Plan
from evenhand.generation.drawn import drawn_cells
from evenhand.generation.second_arm import Asked, Maker, check_share, instruction, is_treated, sampling_of
from evenhand.interfaces import GeneratedImage, LoadedBase
from evenhand.records import Attribute, Prompt


class PromptRewrite:
    """``suites`` are those whose prompts are rewritten; ``attributes`` are stated beside the evaluation's own.

    Its scale is the share of images whose prompt is rewritten.
    """

    name = "prompt_rewrite"

    def __init__(self, *, suites: Sequence[str], attributes: Mapping[str, Attribute]) -> None:
        self._suites = tuple(suites)
        self._attributes = dict(attributes)

    def facts(self, asked: Asked) -> dict[str, Any]:  # Any: JSON
        """The rewritten text of each image, where there is one."""
        check_share(asked.plan, self.name)
        attributes = [asked.attribute, *self._attributes.values()]
        drawn = drawn_cells(asked, self._attributes, suites=self._suites, arm=self.name)
        texts = asked.suites.explicit_texts(attributes)
        return {
            "settings": {"suites": list(self._suites), "attributes": [each.name for each in attributes]},
            "instructions": {
                prompt_id: [texts[prompt_id][cell] for cell in cells]
                for prompt_id, cells in drawn.items()
                if prompt_id in texts
            },
        }

    @contextmanager
    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> Iterator[Maker]:
        """The base with the rewritten prompts."""

        def make(images: Sequence[tuple[Prompt, int]]) -> list[GeneratedImage]:
            texts = [rewritten(plan, prompt, seed, scale=scale) for prompt, seed in images]
            return base.generate(texts, [seed for _, seed in images], sampling_of(plan))

        yield make


def rewritten(plan: Plan, prompt: Prompt, seed: int, *, scale: float) -> str:
    """The text that an image is made from."""
    told = instruction(plan, prompt, seed) if is_treated(seed, scale=scale) else None
    return prompt.text if told is None else str(told)
