"""The published UNets of SD 1.5, SD 2.1 and SDXL with random weights: the LoRA touches the right modules and trains.

The dicts are the ``unet/config.json`` of the three repositories, without the keys that hold the constructor's default.
Numbers of parameters are those that the model cards and diffusers' documentation give for the published weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.unet import PRESETS, adapters_off, lora_targets

SD15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21: dict[str, Any] = {
    **SD15,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": True,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
CONFIGS = {"sd15": SD15, "sd21": SD21, "sdxl": SDXL}
NUM_PARAMETERS = {"sd15": 859_520_964, "sd21": 865_910_724, "sdxl": 2_567_463_684}
# Counted from the block lists: attention blocks x transformer layers, each with two attentions and one feed-forward.
# SD: 6 down + 1 middle + 9 up. SDXL: (2 x 2 + 2 x 10) down + 10 middle + (3 x 10 + 3 x 2) up.
NUM_LAYERS = {"sd15": 16, "sd21": 16, "sdxl": 70}
NUM_BLOCKS = {"sd15": 16, "sd21": 16, "sdxl": 11}


@dataclass
class Shell:
    """As much of a loaded base as ``attach`` looks at."""

    unet: torch.nn.Module
    name: str = "shell"
    fingerprint: str = ""
    text_encoders: dict[str, torch.nn.Module] = field(default_factory=dict)

    def lora_targets(self, preset: str) -> list[str]:
        return lora_targets(self.unet, preset)


def unet_of(name: str, device: str) -> torch.nn.Module:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIGS[name])
    if device != "meta":
        unet.to_empty(device=device)
        generator = torch.Generator().manual_seed(0)
        for parameter in unet.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            torch.nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return unet.requires_grad_(False)


def attached(name: str, targets: str, device: str) -> Adapter:
    base = Shell(unet_of(name, device))
    return attach(base, LoraSettings(rank=4, alpha=4.0, targets=targets), seed=0)  # type: ignore[arg-type]


def step(adapter: Adapter, name: str, device: str) -> None:
    """Forward, without and with the adapter, and backward, on latents of 8 x 8."""
    unet, config = adapter.base.unet, CONFIGS[name]
    noisy = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1)).to(device)
    text = torch.randn((1, 77, config["cross_attention_dim"]), generator=torch.Generator().manual_seed(2)).to(device)
    more = None
    if name == "sdxl":
        more = {"text_embeds": torch.ones((1, 1280), device=device), "time_ids": torch.ones((1, 6), device=device)}
    timesteps = torch.tensor([500], device=device)
    with torch.no_grad(), adapters_off(unet):
        teacher = unet(noisy, timesteps, text, added_cond_kwargs=more).sample
    prediction = unet(noisy, timesteps, text, added_cond_kwargs=more).sample
    assert prediction.shape == teacher.shape == noisy.shape
    ((prediction - teacher) ** 2 + prediction**2).mean().backward()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_architecture_has_the_published_number_of_parameters(name) -> None:
    assert sum(parameter.numel() for parameter in unet_of(name, "meta").parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_presets_touch_the_modules_that_the_block_lists_have(name) -> None:
    unet = unet_of(name, "meta")
    counts = {preset: len(lora_targets(unet, preset)) for preset in PRESETS if preset != "all"}
    layers = NUM_LAYERS[name]
    assert counts == {
        "cross_attention_kv": 2 * layers,
        "attention": 8 * layers,
        "attention_feedforward": 10 * layers,
    }
    if name == "sd15":
        assert counts["attention"] == 128
    kinds = Counter(
        target.rpartition(".attentions.")[2].split(".")[1]
        for target in lora_targets(unet, "all")
        if ".attentions." in target
    )
    assert kinds["proj_in"] == kinds["proj_out"] == NUM_BLOCKS[name]
    convolutions = [target for target in lora_targets(unet, "all") if target.endswith((".conv1", ".conv2"))]
    # residual blocks: layers_per_block a level on the way down, one more a level on the way up, two in the middle
    num_resnets = sum(2 + 3 for _ in CONFIGS[name]["block_out_channels"]) + 2
    assert len(convolutions) == 2 * num_resnets


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_gives_every_adapter_weight_a_gradient_of_its_shape(name, targets) -> None:
    adapter = attached(name, targets, "meta")
    step(adapter, name, "meta")
    assert len(adapter.parameters) == 2 * len(lora_targets(adapter.base.unet, targets))
    for parameter in adapter.parameters.values():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
    frozen = [p for p in adapter.base.unet.parameters() if not p.requires_grad]
    assert not [p for p in frozen if p.grad is not None]


@pytest.mark.slow  # 3.4 GB (SD) and 10 GB (SDXL) of random weights
@pytest.mark.parametrize("name", CONFIGS)
def test_a_real_step_moves_the_adapter_at_full_size(name) -> None:
    adapter = attached(name, "attention", "cpu")
    before = adapter.tensors()
    step(adapter, name, "cpu")
    torch.optim.AdamW(adapter.parameters.values(), lr=1e-3, fused=True).step()
    moved = [key for key, value in adapter.tensors().items() if not torch.equal(value, before[key])]
    assert all(value.isfinite().all() for value in adapter.tensors().values())
    assert {key for key in before if ".lora_B." in key} <= set(moved)
