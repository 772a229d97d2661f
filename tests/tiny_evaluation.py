"""A tiny evaluation with a real pipeline: its plan, a saved adapter, and a base that dies or counts its calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evenhand.adapters import lora
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.plan import GenerationPlan, Plan, parse_plan
from evenhand.files import sha256_file
from evenhand.honesty.small_run import untrained_card
from tests.folders import plan_row, prompt_row

PROMPTS = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse"), prompt_row("unrelated", "car")]


def tiny_plan(base: LoadedStableDiffusion, adapter: Path) -> Plan:
    """Three prompts, two seeds, batches of four: the second batch is half full."""
    generation = GenerationPlan(
        seeds={row["id"]: (7 * index + 1, 7 * index + 2) for index, row in enumerate(PROMPTS)},
        batch_size=4,
        steps=2,
        guidance=2.0,
        height_px=32,
        width_px=32,
        dtype="float32",
        device="cpu",
        base=base.name,
        base_fingerprint=base.fingerprint,
        encoders_fingerprint=base.encoders_fingerprint,
        adapter_sha256=sha256_file(adapter),
        adapter_scale=1.0,
    )
    return replace(parse_plan(plan_row(PROMPTS), "test"), generation=generation)


def saved_adapter(base: LoadedStableDiffusion, folder: Path, *, strength: float) -> Path:
    """An adapter whose B is ``strength`` times random numbers; at 0 it changes nothing."""
    settings = LoraSettings(rank=2, alpha=2.0, targets="attention")
    adapter = lora.attach(base, settings, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.copy_(strength * torch.randn(parameter.shape, generator=generator))
    file = adapter.save(folder, untrained_card(base.name, "tiny"))
    lora.detach(base)
    return file


class Dying:
    """A base that is killed at its ``after``-th batch; everything else is the real one."""

    def __init__(self, base: LoadedStableDiffusion, after: int) -> None:
        self._base = base
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def generate(self, *args: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._base.generate(*args)


class Counting:
    """A base that notes the captions of every batch it makes; everything else is the real one."""

    def __init__(self, base: LoadedStableDiffusion) -> None:
        self._base = base
        self.calls: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def generate(self, captions: Any, *args: Any) -> Any:
        self.calls.append(list(captions))
        return self._base.generate(captions, *args)
