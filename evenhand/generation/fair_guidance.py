"""Fair Diffusion as an arm: guidance towards a value drawn from the target, away from the others, in every step.

Friedrich et al., 2023 (arXiv 2302.10893), by semantic guidance (Brack et al., NeurIPS 2023, arXiv 2301.12247, equations
6 to 10). With e_u, e_p the base's predictions for the empty prompt and the prompt, and e_k those for the edit prompts
("female person", "male person"), one for each value:

    g_k  = s_k * edit_guidance * (e_k - e_u)              s_k = +1 for the drawn value, -1 for the others
    g_k -> 0 where |g_k| is below its ``threshold`` quantile over its channel
    g    = sum_k g_k + momentum_scale * m                 m <- beta * m + (1 - beta) * g
    e    = e_u + guidance * (e_p - e_u) + g               g only after ``warmup`` of all steps

The parameters are those of the paper's own script for professions (5 of 50 steps as ``warmup`` 0.1). Where the base
predicts v, v takes the place of the noise: at equal x_t differences of the two are proportional. The stock sampler runs
unchanged: g / guidance is added to e_p inside the UNet's call, which guidance multiplies again. With guidance 1, where
it asks for e_p alone, e_u is one pass more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evenhand.evaluation.plan import Plan
from evenhand.generation.drawn import drawn_cells
from evenhand.generation.second_arm import Asked, Maker, instruction, sampling_of
from evenhand.interfaces import GeneratedImage, LoadedBase, TextEmbedding
from evenhand.records import Attribute, Prompt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """The strength of semantic guidance; see the head of this file."""

    guidance: float
    warmup: float
    threshold: float
    momentum_scale: float
    momentum_beta: float

    def __post_init__(self) -> None:
        if self.guidance <= 0:
            raise ValueError(f"edit.guidance must be > 0, got {self.guidance}")
        for name in ("warmup", "threshold", "momentum_beta"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"edit.{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.momentum_scale < 0:
            raise ValueError(f"edit.momentum_scale must be >= 0, got {self.momentum_scale}")


class FairGuidance:
    """``suites`` are those whose images are guided; ``attributes`` are drawn beside the evaluation's own.

    ``noun`` is what edit prompts say of a value ("female person"). Its scale multiplies the edit guidance.
    """

    name = "fair_guidance"

    def __init__(self, *, suites: Sequence[str], attributes: Mapping[str, Attribute], noun: str, edit: Edit) -> None:
        self._suites = tuple(suites)
        self._attributes = dict(attributes)
        self._noun = noun
        self._edit = edit

    def facts(self, asked: Asked) -> dict[str, Any]:  # Any: JSON
        """The drawn values of each image."""
        attributes = [asked.attribute, *self._attributes.values()]
        drawn = drawn_cells(asked, self._attributes, suites=self._suites, arm=self.name)
        edit = self._edit
        return {
            "settings": {
                "suites": list(self._suites),
                "attributes": [each.name for each in attributes],
                "edit_prompts": {
                    each.name: {value: form.replace("{}", self._noun) for value, form in each.forms.items()}
                    for each in attributes
                },
                "edit_guidance": edit.guidance,
                "warmup": edit.warmup,
                "threshold": edit.threshold,
                "momentum_scale": edit.momentum_scale,
                "momentum_beta": edit.momentum_beta,
            },
            "instructions": {prompt_id: [list(cell) for cell in cells] for prompt_id, cells in drawn.items()},
        }

    @contextmanager
    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> Iterator[Maker]:
        """The base with the guidance in every call of its UNet."""
        assert plan.generation is not None
        sampling, settings = sampling_of(plan), plan.generation.arm["settings"]
        edits = [
            (place, value, text)
            for place, texts in enumerate(settings["edit_prompts"].values())
            for value, text in texts.items()
        ]

        def make(images: Sequence[tuple[Prompt, int]]) -> list[GeneratedImage]:
            import torch

            texts, seeds = [prompt.text for prompt, _ in images], [seed for _, seed in images]
            told = [instruction(plan, prompt, seed) for prompt, seed in images]
            if scale == 0 or not any(told):
                return base.generate(texts, seeds, sampling)
            signs_KB = torch.tensor([[sign(cell, place, value) for cell in told] for place, value, _ in edits])
            with torch.no_grad():
                text = base.encode_text([*(text for _, _, text in edits), ""])
            guide = _Guide(
                text=text,
                signs_KB=signs_KB,
                edit=self._edit,
                strength=scale * self._edit.guidance,
                guidance=sampling.guidance,
                warmup_steps=round(self._edit.warmup * sampling.steps),
            )
            handle = base.unet.register_forward_hook(guide.after_unet, with_kwargs=True)
            try:
                return base.generate(texts, seeds, sampling)
            finally:
                handle.remove()

        yield make


def sign(cell: Sequence[str] | None, place: int, value: str) -> float:
    """Towards the drawn value of the attribute at ``place``, away from others, nowhere for images left alone."""
    if cell is None:
        return 0.0
    return 1.0 if cell[place] == value else -1.0


@dataclass(slots=True, kw_only=True)
class _Guide:
    """The guidance of one batch of B images by K edit prompts, from its first step to its last.

    ``text`` are the edit prompts and the empty one, ``signs_KB`` is 0 for images that are left alone.
    """

    text: TextEmbedding
    signs_KB: torch.Tensor
    edit: Edit
    strength: float
    guidance: float
    warmup_steps: int
    step: int = 0
    momentum_BCHW: torch.Tensor | None = field(default=None)

    def after_unet(
        self,
        unet: torch.nn.Module,
        args: tuple[Any, ...],  # Any: what the pipeline gives its UNet
        kwargs: Mapping[str, Any],
        output: tuple[torch.Tensor],
    ) -> tuple[torch.Tensor]:
        """The UNet's output for the prompt, and for the empty one before it, with the guidance added to the former."""
        import torch

        size = self.signs_KB.shape[1]
        prompt_BCHW = output[0][-size:]
        with_empty = len(output[0]) > size
        empty_BCHW = output[0][:size] if with_empty else self._predict(unet, args, kwargs, len(self.signs_KB))
        total_BCHW = torch.zeros_like(empty_BCHW, dtype=torch.float32)
        for index, signs_B in enumerate(self.signs_KB.to(empty_BCHW.device)):
            edited_BCHW = self._predict(unet, args, kwargs, index)
            pull_BCHW = self.strength * signs_B[:, None, None, None] * (edited_BCHW - empty_BCHW).float()
            limit_BC = torch.quantile(pull_BCHW.abs().flatten(start_dim=2), self.edit.threshold, dim=2)
            total_BCHW += torch.where(pull_BCHW.abs() >= limit_BC[:, :, None, None], pull_BCHW, 0.0)
        if self.momentum_BCHW is None:
            self.momentum_BCHW = torch.zeros_like(total_BCHW)
        total_BCHW = total_BCHW + self.edit.momentum_scale * self.momentum_BCHW
        beta = self.edit.momentum_beta
        self.momentum_BCHW = beta * self.momentum_BCHW + (1 - beta) * total_BCHW
        self.step += 1
        if self.step <= self.warmup_steps:
            return output
        guided_BCHW = prompt_BCHW + (total_BCHW / self.guidance).to(prompt_BCHW.dtype)
        return (torch.cat([empty_BCHW, guided_BCHW]) if with_empty else guided_BCHW,)

    def _predict(
        self,
        unet: torch.nn.Module,
        args: tuple[Any, ...],  # Any: as above
        kwargs: Mapping[str, Any],
        index: int,
    ) -> torch.Tensor:
        """What the UNet predicts with one of the texts in place of every prompt."""
        size, hidden_LD = self.signs_KB.shape[1], self.text.hidden_BLD[index]
        inputs = {**kwargs, "encoder_hidden_states": hidden_LD.expand(size, -1, -1)}
        conditions = kwargs.get("added_cond_kwargs")
        if conditions:
            assert self.text.pooled_BD is not None
            inputs["added_cond_kwargs"] = {
                **{name: value[:size] for name, value in conditions.items()},
                "text_embeds": self.text.pooled_BD[index].expand(size, -1),
            }
        prediction_BCHW: torch.Tensor = unet.forward(args[0][:size], *args[1:], **inputs)[0]
        return prediction_BCHW
