"""What every UNet of the family shares: which modules a LoRA preset names, the noise that starts an image, sampling."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evenhand.interfaces import GeneratedImage, SamplingSettings

if TYPE_CHECKING:
    import torch

ATTENTION = r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
FEEDFORWARD = r"\.ff\.net\.(0\.proj|2)"
AROUND_ATTENTION = r"\.attentions\.\d+\.(proj_in|proj_out)"
RESNETS = r"\.resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)"
RESIZERS = r"\.(downsamplers|upsamplers)\.\d+\.conv"
PRESETS = {
    "cross_attention_kv": (r"\.attn2\.(to_k|to_v)",),
    "attention": (ATTENTION,),
    "attention_feedforward": (ATTENTION, FEEDFORWARD),
    "all": (ATTENTION, FEEDFORWARD, AROUND_ATTENTION, RESNETS, RESIZERS),
}


def lora_targets(unet: torch.nn.Module, preset: str) -> list[str]:
    """Full names of the UNet's linear and convolution layers that a preset names, in the UNet's order."""

    if preset not in PRESETS:
        raise ValueError(f"unknown LoRA targets {preset!r}; choose one of {', '.join(PRESETS)} (lora.targets)")
    rule = re.compile("(" + "|".join(PRESETS[preset]) + r")$")
    names = [name.replace(".base_layer", "") for name, module in unet.named_modules() if _is_layer(module)]
    targets = [name for name in names if rule.search(name)]
    if not targets:
        raise ValueError(f"LoRA targets {preset!r} match none of the {len(names)} layers of {type(unet).__name__}")
    return targets


def _is_layer(module: torch.nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear | nn.Conv2d)


@contextmanager
def adapters_off(*parts: torch.nn.Module) -> Iterator[None]:
    """Inside, UNet or text encoders compute as if no adapter were attached; the flags of before come back at the end.

    PEFT's own ``enable_adapters`` also switches ``requires_grad`` of every parameter, twice a step. Its flag alone
    does what is needed; it is private, so it is touched nowhere else.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for part in parts for module in part.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, flag in zip(layers, before, strict=True):
            layer._disable_adapters = flag


def sample(
    pipeline: Any,  # Any: diffusers has no types
    captions: Sequence[str],
    seeds: Sequence[int],
    sampling: SamplingSettings,
    *,
    negatives: Sequence[str] | None = None,
) -> list[GeneratedImage]:
    """Images of one batch, made by the pipeline's own loop and scheduler, and decoded in the VAE's own precision.

    The noise of an image comes from a CPU generator of its own, in float32, as stock diffusers draws it in fp32 from
    ``generator=torch.Generator().manual_seed(seed)``; samplers that add noise go on with that generator.
    """
    import torch

    if len(captions) != len(seeds):
        raise ValueError(f"one seed for each caption is needed, got {len(captions)} captions and {len(seeds)} seeds")
    factor = pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, sampling.height_px // factor, sampling.width_px // factor)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noises = [torch.randn((1, *shape), generator=generator) for generator in generators]
    with torch.no_grad():
        latents_BCHW = pipeline(
            **_prompts(pipeline, captions, negatives),
            height=sampling.height_px,
            width=sampling.width_px,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            latents=torch.cat(noises).to(device=pipeline.device, dtype=pipeline.unet.dtype),
            generator=generators,
            output_type="latent",
        ).images
        vae = pipeline.vae
        pixels_BCHW = vae.decode((latents_BCHW / vae.config.scaling_factor).to(vae.dtype)).sample
        images = pipeline.image_processor.postprocess(pixels_BCHW.float(), output_type="pil")
    hashes = [hashlib.sha256(noise.numpy().tobytes()).hexdigest() for noise in noises]
    return [GeneratedImage(image=image, noise_sha256=text) for image, text in zip(images, hashes, strict=True)]


def _prompts(
    pipeline: Any,  # Any: diffusers has no types
    captions: Sequence[str],
    negatives: Sequence[str] | None,
) -> dict[str, Any]:  # Any: a pipeline's arguments
    """What a pipeline is told of its prompts; an image whose negative is "" comes out as without any."""
    if negatives is None:
        return {"prompt": list(captions)}
    if len(negatives) != len(captions):
        raise ValueError(f"one negative for each caption is needed, got {len(negatives)} and {len(captions)}")
    if not getattr(pipeline.config, "force_zeros_for_empty_prompt", False):
        return {"prompt": list(captions), "negative_prompt": list(negatives)}
    # SDXL guides away from zeros where there is no negative prompt, and from the text "" where there is one.
    hidden_BLD, away_BLD, pooled_BD, away_BD = pipeline.encode_prompt(
        list(captions),
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=list(negatives),
    )
    without = [index for index, negative in enumerate(negatives) if not negative]
    away_BLD[without], away_BD[without] = 0.0, 0.0
    return {
        "prompt_embeds": hidden_BLD,
        "negative_prompt_embeds": away_BLD,
        "pooled_prompt_embeds": pooled_BD,
        "negative_pooled_prompt_embeds": away_BD,
    }
