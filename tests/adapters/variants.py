"""Every kind of adapter that settings can ask for, at a small rank."""

from __future__ import annotations

from typing import Any

import torch

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.lowrank import plain_layers
from evenhand.adapters.placement import parts_of
from evenhand.adapters.settings import LoraSettings
from evenhand.interfaces import LoadedBase

PATTERNS: dict[str, Any] = {
    "rank_pattern": {"to_v": 2, r"attn2\.to_k": 6, "fc1": 3},
    "alpha_pattern": {r"to_out\.0": 3.0, "to_v": 5.0, "q_proj": 7.0},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all_layers": {"targets": "all"},
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora"},
    "dora_all_layers": {"variant": "dora", "targets": "all"},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "text": {"text_encoder": "attention"},
    "text_feedforward_patterns": {"text_encoder": "attention_feedforward", **PATTERNS},
    "text_rslora_patterns": {"text_encoder": "attention_feedforward", "variant": "rslora", **PATTERNS},
    "text_dora": {"text_encoder": "attention_feedforward", "variant": "dora"},
}


def settings(name: str) -> LoraSettings:
    """Alpha differs from the rank, so that a loader that takes one for the other is seen."""
    return LoraSettings(**{"rank": 4, "alpha": 6.0, "targets": "attention", **VARIANTS[name]})


def trained(base: LoadedBase, name: str, *, std: float = 0.1) -> Adapter:
    """An adapter that went some way from where it started, and computes in PEFT's own order of operations."""
    adapter = attach(base, settings(name), seed=0)
    generator = torch.Generator().manual_seed(0)
    adapter.set_tensors(
        {key: value + std * torch.randn(value.shape, generator=generator) for key, value in adapter.tensors().items()}
    )
    for part in parts_of(base).values():
        plain_layers(part)
    return adapter
