"""How many operations a LoRA adds to the graph of a UNet, by itself and as PEFT computes it. No time passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evenhand.adapters.lowrank import lean_layers
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.unet import lora_targets
from evenhand.benchmark.architectures import MAX_TOKENS, meta_unet
from evenhand.benchmark.operations import graph_operations

LATENT_PX = 32  # how many operations there are does not depend on it


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCounts:
    """Operations of one forward and backward: of the frozen UNet, and with a LoRA of ``num_modules`` modules."""

    architecture: str
    targets: str
    num_modules: int
    bare: int
    peft: int
    ours: int


def count_graph(architecture: str, lora: LoraSettings) -> GraphCounts:
    """Count on the meta device; the UNet must take text alone, as SD 1.5's and 2.1's do."""
    from peft import LoraConfig

    unet: Any = meta_unet(architecture)  # Any: diffusers has no types
    targets = lora_targets(unet, lora.targets)
    bare = graph_operations(unet, latent_px=LATENT_PX, num_tokens=MAX_TOKENS, input_gradient=True)
    unet.add_adapter(
        LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, use_dora=lora.variant == "dora")
    )
    peft = graph_operations(unet, latent_px=LATENT_PX, num_tokens=MAX_TOKENS, input_gradient=False)
    lean_layers(unet)
    ours = graph_operations(unet, latent_px=LATENT_PX, num_tokens=MAX_TOKENS, input_gradient=False)
    return GraphCounts(
        architecture=architecture, targets=lora.targets, num_modules=len(targets), bare=bare, peft=peft, ours=ours
    )
