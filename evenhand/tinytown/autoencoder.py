"""Trains the VAE of tinytown: a small AutoencoderKL of factor 4.

Letters of tensor shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from evenhand.tinytown.engine import EngineSettings, fit
from evenhand.tinytown.renders import Renders

# Weight of the KL term, as in latent diffusion (arXiv 2112.10752, appendix G): only keeps the latents' scale bounded.
KL_WEIGHT = 1e-6
# Edges carry what a reader needs (glasses, props); they are few pixels, so they are weighted up.
EDGE_WEIGHT = 0.05
L1_WEIGHT = 0.05
LATENT_NOISE = 0.02
ENCODE_BATCH = 64


def new_autoencoder(*, latent_channels: int, seed: int) -> AutoencoderKL:
    """An untrained VAE; 64 px in, 16 x 16 latents out."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def pixels_BCHW(renders: Renders, indices: Tensor) -> Tensor:
    """Pictures as floats in [-1, 1]."""
    order = np.sort(indices.numpy())
    return torch.from_numpy(renders.pixels_BHWC[order]).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _edges(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    return x_BCHW[..., 1:, :] - x_BCHW[..., :-1, :], x_BCHW[..., 1:] - x_BCHW[..., :-1]


def train_autoencoder(
    renders: Renders, settings: EngineSettings, folder: Path, *, latent_channels: int
) -> AutoencoderKL:
    """Train on squared error, edges and a small KL term; sets ``scaling_factor`` so that latents have unit variance."""
    vae = new_autoencoder(latent_channels=latent_channels, seed=settings.seed)
    vae = vae.to(memory_format=torch.channels_last)

    def loss(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        x = pixels_BCHW(renders, indices).to(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        y = vae.decode(posterior.mean + posterior.std * noise).sample
        squared = F.mse_loss(y, x)
        edges = torch.stack([F.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True)]).mean()
        kl = posterior.kl().mean()
        total = squared + L1_WEIGHT * F.l1_loss(y, x) + EDGE_WEIGHT * edges + KL_WEIGHT * kl
        return total, {"psnr_db": psnr_db(squared.detach()), "kl": kl.detach()}

    fit(vae, loss, len(renders.rows), settings, folder)
    sample = pixels_BCHW(renders, torch.arange(min(512, len(renders.rows))))
    with torch.no_grad():
        scale = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(sample, ENCODE_BATCH)]).std()
    vae.register_to_config(scaling_factor=round(1.0 / float(scale), 5))
    return vae


def finetune_decoder(vae: AutoencoderKL, renders: Renders, settings: EngineSettings, folder: Path) -> AutoencoderKL:
    """Train the decoder alone, on squared error and edges; the latents, and so a UNet trained on them, stay valid."""
    vae = vae.to(memory_format=torch.channels_last).requires_grad_(False)
    decoder = torch.nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    decoder.requires_grad_(True)

    def loss(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        x = pixels_BCHW(renders, indices).to(memory_format=torch.channels_last)
        with torch.no_grad():
            mean = vae.encode(x).latent_dist.mean
        # A generated latent is never exact: a little noise teaches the decoder to be indifferent to it.
        y = vae.decode(mean + LATENT_NOISE * mean.std() * torch.randn(mean.shape, generator=generator)).sample
        squared = F.mse_loss(y, x)
        edges = torch.stack([F.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True)]).mean()
        return squared + EDGE_WEIGHT * edges, {"psnr_db": psnr_db(squared.detach())}

    fit(decoder, loss, len(renders.rows), settings, folder)
    return vae


def psnr_db(squared: Tensor) -> Tensor:
    """Peak signal to noise ratio of pixels in [-1, 1] from their mean squared error, in dB."""
    return 10.0 * torch.log10(4.0 / squared)


def reconstruction_psnr_db(vae: AutoencoderKL, renders: Renders) -> float:
    """Mean over pictures of the PSNR of ``decode(encode(x).mean)``, rounded to 8 bits as a saved image is."""
    values = []
    with torch.no_grad():
        for part in torch.split(torch.arange(len(renders.rows)), ENCODE_BATCH):
            x = pixels_BCHW(renders, part)
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            y = ((y + 1) * 127.5).round() / 127.5 - 1
            values.append(psnr_db((y - x).square().mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
