"""Trains the two readers of tinytown: image classifiers of different architecture, each with its logits in heads.

Letters of tensor shapes: B batch, C channels, H height, W width, K logits, N pictures, T heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import (
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from evenhand.tinytown.engine import EngineSettings, fit
from evenhand.tinytown.renders import RenderRow, Renders
from evenhand.tinytown.world import tinytown

# Cross-entropy ignores the heads that do not apply to a picture.
NOT_APPLICABLE = -100
Heads = Mapping[str, tuple[str, ...]]


def label_names(heads: Heads) -> list[str]:
    """``head=value`` for every logit, in order."""
    return [f"{head}={value}" for head, values in heads.items() for value in values]


def new_classifier(architecture: str, *, seed: int) -> PreTrainedModel:
    """An untrained classifier for all heads of the world: ``resnet`` or ``convnextv2``."""
    torch.manual_seed(seed)
    names = label_names(tinytown().heads)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if architecture == "resnet":
        return ResNetForImageClassification(
            ResNetConfig(
                embedding_size=32, hidden_sizes=[32, 64, 96, 160], depths=[1, 2, 2, 1], layer_type="basic", **labels
            )
        )
    if architecture == "convnextv2":
        return ConvNextV2ForImageClassification(
            ConvNextV2Config(
                patch_size=4,
                hidden_sizes=[40, 80, 120, 160],
                depths=[2, 2, 2, 1],
                drop_path_rate=0.0,
                image_size=64,
                **labels,
            )
        )
    raise ValueError(f"unknown architecture {architecture!r}; choose one of resnet, convnextv2")


def image_processor() -> ViTImageProcessorPil:
    """Pixels to [-1, 1] at 64 px."""
    size = tinytown().size_px
    return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def answers_NT(rows: Sequence[RenderRow], heads: Heads) -> Tensor:
    """Index of the right value of each head, or ``NOT_APPLICABLE``."""
    index = {head: {value: number for number, value in enumerate(values)} for head, values in heads.items()}
    table = [
        [index[head][row.answers[head]] if head in row.answers else NOT_APPLICABLE for head in heads] for row in rows
    ]
    return torch.tensor(table)


def reconstruct_pixels(vae: AutoencoderKL, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pictures after encoding and decoding; (N, H, W, C), uint8."""
    parts = []
    with torch.no_grad():
        for part in np.array_split(pixels_BHWC, max(1, len(pixels_BHWC) // 128)):
            x = torch.from_numpy(np.array(part)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            decoded = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            parts.append(((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def reconstruct(vae: AutoencoderKL, renders: Renders, path: Path, *, num_images: int) -> npt.NDArray[np.uint8]:
    """:func:`reconstruct_pixels` of the first pictures, computed once into ``path``."""
    if not path.is_file():
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, reconstruct_pixels(vae, renders.pixels_BHWC[:num_images]))
        temporary.replace(path)
    pixels: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def augment(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, blur, contrast and noise as generated pictures have them, different for each picture."""
    num = len(x_BCHW)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, 1, 1, 1, generator=generator)

    shifts = torch.randint(-2, 3, (num, 2), generator=generator).tolist()
    x = torch.stack([picture.roll(shift, dims=(1, 2)) for picture, shift in zip(x_BCHW, shifts, strict=True)])
    x = torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1), uniform(-0.3, 0.8))
    x = x * uniform(0.85, 1.15) + uniform(-0.08, 0.08)
    return (x + torch.randn(x.shape, generator=generator) * uniform(0.0, 0.12)).clamp(-1, 1)


def train_classifier(
    model: PreTrainedModel,
    renders: Renders,
    reconstructed: npt.NDArray[np.uint8],
    settings: EngineSettings,
    folder: Path,
) -> None:
    """Train on balanced renders, half of the seen ones as the VAE reconstructs them."""
    heads = tinytown().heads
    table_NT = answers_NT(renders.rows, heads)
    sizes = [len(values) for values in heads.values()]

    def loss(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        pixels = renders.pixels_BHWC[indices.numpy()]
        decoded = (indices < len(reconstructed)).numpy() & (torch.rand(len(indices), generator=generator) < 0.6).numpy()
        pixels[decoded] = reconstructed[indices.numpy()[decoded]]
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        logits = model(pixel_values=augment(x, generator)).logits.split(sizes, dim=1)
        answers = table_NT[indices]
        terms = [
            F.cross_entropy(part, answers[:, number], ignore_index=NOT_APPLICABLE, reduction="sum")
            for number, part in enumerate(logits)
        ]
        return torch.stack(terms).sum() / len(indices), {}

    fit(model, loss, len(renders.rows), settings, folder)


def head_accuracies(
    model: PreTrainedModel, pixels_BHWC: npt.NDArray[np.uint8], rows: Sequence[RenderRow]
) -> dict[str, float]:
    """Share of right answers for every head, over the pictures to which it applies."""
    heads = tinytown().heads
    sizes = [len(values) for values in heads.values()]
    picks = []
    with torch.no_grad():
        for part in np.array_split(pixels_BHWC, max(1, len(pixels_BHWC) // 128)):
            x = torch.from_numpy(np.array(part)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            logits = model(pixel_values=x).logits.split(sizes, dim=1)
            picks.append(torch.stack([head.argmax(dim=1) for head in logits], dim=1))
    right_NT = torch.cat(picks) == (table := answers_NT(rows, heads))
    applies_NT = table != NOT_APPLICABLE
    return {
        head: float(right_NT[applies_NT[:, number], number].float().mean())
        for number, head in enumerate(heads)
        if applies_NT[:, number].any()
    }
