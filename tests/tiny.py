"""Tiny pipeline folders of the real classes with random weights, built offline: the fixture of all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from evenhand.adapters.lora import Adapter
from evenhand.bases.sd import LoadedStableDiffusion, StableDiffusion
from evenhand.bases.sdxl import LoadedStableDiffusionXL, StableDiffusionXL
from evenhand.interfaces import SamplingSettings

MAX_TOKENS = 77
HIDDEN = 32
LATENT_PX = 16
IMAGE_PX = 64
# What a base's constructor needs beside name and model.
PLAIN: dict[str, Any] = {"revision": None, "variant": None, "zero_terminal_snr": False, "license": "apache-2.0"}
WORDS = ("portrait", "mechanic", "female", "male", "of", "a", "doctor", "nurse", "with", "glasses")


def byte_letters() -> list[str]:
    """The 256 letters that stand for the bytes in GPT-2's and CLIP's byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def word_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """BPE merges that build each word, left to right, as one token."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return list(merges)


def tiny_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that reads any text: bytes, and a few whole words."""
    letters = byte_letters()
    merges = word_merges(WORDS)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _text_config(tokenizer: CLIPTokenizer, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=HIDDEN,
        **more,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE_PX,
        scaling_factor=0.18215,
    )


def _unet(cross_attention_dim: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_PX,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=8,
        **more,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type=prediction_type,
    )


def tiny_pipeline(folder: Path, *, prediction_type: str = "v_prediction", seed: int = 0) -> Path:
    """Save a StableDiffusionPipeline (64 px images, 16x16x4 latents) into ``folder`` and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)),
            tokenizer=tokenizer,
            unet=_unet(HIDDEN, attention_head_dim=2),
            scheduler=_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_sdxl_pipeline(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Save a StableDiffusionXLPipeline of the same size into ``folder`` and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, hidden_act="gelu")),
            tokenizer=tokenizer,
            tokenizer_2=tiny_tokenizer(),
            unet=_unet(
                2 * HIDDEN,
                attention_head_dim=(2, 4),
                transformer_layers_per_block=(1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + HIDDEN,
            ),
            scheduler=_scheduler(prediction_type),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def load_sd(folder: Path, *, name: str = "tiny") -> LoadedStableDiffusion:
    """The base of such a folder, on CPU."""
    choice = StableDiffusion(name=name, model=str(folder), **PLAIN)
    return choice.load(device=torch.device("cpu"), dtype=torch.float32)


def load_sdxl(folder: Path, *, name: str = "tiny_sdxl") -> LoadedStableDiffusionXL:
    """The SDXL base of such a folder, on CPU."""
    choice = StableDiffusionXL(name=name, model=str(folder), **PLAIN)
    return choice.load(device=torch.device("cpu"), dtype=torch.float32)


def randomize(adapter: Adapter, *, seed: int = 0, std: float = 0.1) -> None:
    """Give an adapter weights that change what its base predicts."""
    generator = torch.Generator().manual_seed(seed)
    adapter.set_tensors(
        {name: torch.randn(p.shape, generator=generator) * std for name, p in adapter.parameters.items()}
    )


def sampling(*, steps: int = 2, guidance: float = 3.0) -> SamplingSettings:
    """Few steps at the tiny base's size."""
    return SamplingSettings(steps=steps, guidance=guidance, height_px=IMAGE_PX, width_px=IMAGE_PX)


def alike(made: np.ndarray | torch.Tensor, wanted: np.ndarray | torch.Tensor) -> bool:
    """Equal up to float32's rounding: on some CPUs the same sums round differently when tensors are made anew."""
    difference = np.abs(np.asarray(made) - np.asarray(wanted)).max()
    return bool(difference <= 1e-5 * max(1.0, np.abs(np.asarray(wanted)).max()))
