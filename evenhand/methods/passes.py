"""What methods ask of a base in a step: the rows of a batch made noisy, and one pass over both kinds of them.

Letters: B batch, P preserve rows, C channels, H height, W width; 6 the size conditioning of SDXL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evenhand.interfaces import Batch, LoadedBase, TextEmbedding

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the UNet is given for some rows, and what the base's own training would have it predict."""

    noisy_BCHW: torch.Tensor
    target_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    text: TextEmbedding
    size_B6: torch.Tensor | None

    def under(self, text: TextEmbedding | None) -> Rows:
        """The same rows under other captions, where there are others."""
        return self if text is None else replace(self, text=text)


def train_rows(base: LoadedBase, batch: Batch) -> Rows:
    """The rows to learn from, under their neutral captions."""
    return Rows(
        noisy_BCHW=base.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B),
        target_BCHW=base.target(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B),
        timesteps_B=batch.timesteps_B,
        text=batch.text,
        size_B6=batch.size_B6,
    )


def preserve_rows(base: LoadedBase, batch: Batch) -> Rows:
    """The rows on which the base is to be kept; ValueError where the batch has none."""
    latents, noise = batch.preserve_latents_BCHW, batch.preserve_noise_BCHW
    timesteps, text = batch.preserve_timesteps_B, batch.preserve_text
    if latents is None or noise is None or timesteps is None or text is None:
        raise ValueError("preserve_weight is above 0, but the batch has no preserve rows (train.preserve_batch_size)")
    return Rows(
        noisy_BCHW=base.add_noise(latents, noise, timesteps),
        target_BCHW=base.target(latents, noise, timesteps),
        timesteps_B=timesteps,
        text=text,
        size_B6=batch.preserve_size_B6,
    )


def denoised(base: LoadedBase, rows: Rows) -> torch.Tensor:
    """The prediction for rows, with whatever adapter is active."""
    return base.denoise(rows.noisy_BCHW, rows.timesteps_B, rows.text, size_B6=rows.size_B6)


def both_denoised(base: LoadedBase, rows: Rows, kept: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions for both kinds of rows: in one pass, or in two where their images differ in shape."""
    import torch

    if rows.noisy_BCHW.shape[1:] != kept.noisy_BCHW.shape[1:]:
        return denoised(base, rows), denoised(base, kept)
    prediction_BPCHW = base.denoise(
        torch.cat([rows.noisy_BCHW, kept.noisy_BCHW]),
        torch.cat([rows.timesteps_B, kept.timesteps_B]),
        TextEmbedding(
            hidden_BLD=torch.cat([rows.text.hidden_BLD, kept.text.hidden_BLD]),
            pooled_BD=_joined(rows.text.pooled_BD, kept.text.pooled_BD),
        ),
        size_B6=_joined(rows.size_B6, kept.size_B6),
    )
    adapted_BCHW, kept_adapted_PCHW = torch.split(prediction_BPCHW, [len(rows.noisy_BCHW), len(kept.noisy_BCHW)])
    return adapted_BCHW, kept_adapted_PCHW


def base_denoised(base: LoadedBase, rows: Rows) -> torch.Tensor:
    """What the base itself predicts for rows: a constant."""
    import torch

    with torch.no_grad(), base.without_adapter():
        return denoised(base, rows)


def base_both_denoised(base: LoadedBase, rows: Rows, kept: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """What the base itself predicts for both kinds of rows: constants."""
    import torch

    with torch.no_grad(), base.without_adapter():
        return both_denoised(base, rows, kept)


def mean_square(error_BCHW: torch.Tensor, weights_B: torch.Tensor | None) -> torch.Tensor:
    """The mean of the squared error over rows of these weights; None: all alike."""
    if weights_B is None:
        return error_BCHW.square().mean()
    return (weights_B * error_BCHW.square().mean(dim=(1, 2, 3))).mean()


def _joined(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    import torch

    if first is None or second is None:
        return None
    return torch.cat([first, second])
