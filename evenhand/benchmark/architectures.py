"""Bases of published architectures with random weights: as slow and as large as the real ones, and nothing to download.

The settings are those of the repositories' config files, without what is diffusers' and transformers' own default. The
tokenizer is tinytown's, with CLIP's length: which words there are does not change how long anything takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenhand.bases.checkpoint import quiet_loading
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.bases.sdxl import LoadedStableDiffusionXL
from evenhand.paths import model_path

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 77
CLIP_VOCABULARY = 49408
SD15_UNET: Mapping[str, Any] = {  # Any: JSON
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL_UNET: Mapping[str, Any] = {  # Any: JSON
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
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
SD_VAE: Mapping[str, Any] = {  # Any: JSON
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
CLIP_L: Mapping[str, Any] = {  # Any: JSON
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_BIG_G: Mapping[str, Any] = {  # Any: JSON
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
SCHEDULER: Mapping[str, Any] = {  # Any: JSON
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The settings of a pipeline's networks; with ``clip_2`` it is an SDXL."""

    unet: Mapping[str, Any]  # Any: JSON
    vae: Mapping[str, Any]  # Any: JSON
    clip: Mapping[str, Any]  # Any: JSON
    clip_2: Mapping[str, Any] | None = None  # Any: JSON


NARROW_CLIP = {**CLIP_L, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
NARROW_VAE = {**SD_VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
ARCHITECTURES = {
    "sd15": Architecture(unet=SD15_UNET, vae=SD_VAE, clip=CLIP_L),
    "sdxl": Architecture(
        unet=SDXL_UNET, vae={**SD_VAE, "sample_size": 1024, "scaling_factor": 0.13025}, clip=CLIP_L, clip_2=CLIP_BIG_G
    ),
    # The graph of SD 1.5 with a hundredth of its width: as many operations, next to no time.
    "sd15_narrow": Architecture(
        unet={**SD15_UNET, "block_out_channels": [32, 32, 32, 32], "cross_attention_dim": 32},
        vae=NARROW_VAE,
        clip=NARROW_CLIP,
    ),
}


def meta_unet(architecture: str) -> torch.nn.Module:
    """A UNet without values, frozen: for counting."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: torch.nn.Module = UNet2DConditionModel(**_architecture(architecture).unet)
    return unet.requires_grad_(False).eval()


def random_base(
    architecture: str, *, device: torch.device, dtype: torch.dtype, seed: int
) -> LoadedStableDiffusion | LoadedStableDiffusionXL:
    """A base whose weights are drawn; the numbers that it gives mean nothing."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    settings = _architecture(architecture)
    folder = model_path("evenhand:tinytown/base")
    # Any: the three libraries have no types
    tokenizer: Any = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", model_max_length=MAX_TOKENS)
    pipeline_class: Any = StableDiffusionPipeline if settings.clip_2 is None else StableDiffusionXLPipeline
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(seed)
        parts: dict[str, Any] = {  # Any: as above
            "unet": UNet2DConditionModel(**settings.unet),
            "vae": AutoencoderKL(**settings.vae),
            "text_encoder": CLIPTextModel(_clip_config(settings.clip, tokenizer)),
            "tokenizer": tokenizer,
            "scheduler": DDIMScheduler(**SCHEDULER),
        }
        if settings.clip_2 is not None:
            encoder_2 = CLIPTextModelWithProjection(_clip_config(settings.clip_2, tokenizer))
            pipeline = pipeline_class(**parts, text_encoder_2=encoder_2, tokenizer_2=tokenizer, add_watermarker=False)
            return LoadedStableDiffusionXL(architecture, pipeline, device=device, dtype=dtype)
        pipeline = pipeline_class(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return LoadedStableDiffusion(architecture, pipeline, device=device, dtype=dtype)


def _architecture(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _clip_config(settings: Mapping[str, Any], tokenizer: Any) -> Any:  # Any: transformers has no types
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
