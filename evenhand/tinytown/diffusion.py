"""Trains the UNet and the text encoder of tinytown together, and puts the base together as a StableDiffusionPipeline.

Letters of tensor shapes: B batch, C channels, H height, W width, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from evenhand.tinytown.autoencoder import ENCODE_BATCH, pixels_BCHW
from evenhand.tinytown.engine import EngineSettings, fit
from evenhand.tinytown.renders import Renders
from evenhand.tinytown.text import token_ids_BL

# As min-SNR (arXiv 2303.09556, gamma 5) does, weights fall where there is little noise. Unlike it they stay 1 where
# there is much: there it is decided who is pictured, which is what tinytown is about.
GAMMA = 5.0
# The least that diffusers' DiagonalGaussianDistribution lets through.
NO_NOISE_LOG_VARIANCE = -30.0


def new_unet(*, latent_channels: int, seed: int) -> UNet2DConditionModel:
    """An untrained UNet: three levels, cross-attention on the lower two, heads of 32."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        # diffusers calls the number of heads attention_head_dim.
        attention_head_dim=(2, 3, 4),
        cross_attention_dim=128,
        norm_num_groups=32,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction, zero terminal SNR and trailing spacing (arXiv 2305.08891).

    Without zero terminal SNR, the mean colour shows through the last step of the noise: pictures sampled from pure
    noise would then not have the shares that training showed.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def encode_renders(vae: AutoencoderKL, renders: Renders, path: Path) -> npt.NDArray[np.float32]:
    """Scaled latents (means of the posteriors) of all pictures, computed once into ``path``; shape (N, C, H, W)."""
    if not path.is_file():
        parts = []
        with torch.no_grad():
            for part in torch.split(torch.arange(len(renders.rows)), ENCODE_BATCH):
                mean = vae.encode(pixels_BCHW(renders, part)).latent_dist.mean
                parts.append((mean * vae.config.scaling_factor).numpy())
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.concatenate(parts))
        temporary.replace(path)
    latents: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return latents


class TextToImage(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder


def stratified_timesteps_B(num: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of ``num`` equal strata: less variance in the loss than independent draws."""
    places = (torch.arange(num) + torch.rand(num, generator=generator)) / num
    return (places * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def train_diffusion(
    model: TextToImage,
    tokenizer: CLIPTokenizer,
    latents: npt.NDArray[np.float32],
    captions: list[str],
    settings: EngineSettings,
    folder: Path,
) -> None:
    """Train on v-prediction; captions are as the world wrote them, a tenth of them empty."""
    scheduler = new_scheduler()
    ids_NL = torch.cat([token_ids_BL(tokenizer, captions[i : i + 4096]) for i in range(0, len(captions), 4096)])
    snr = scheduler.alphas_cumprod / (1.0 - scheduler.alphas_cumprod)
    weights = (snr + 1.0).clamp(max=GAMMA + 1.0) / (snr + 1.0)

    def loss(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        x0 = torch.from_numpy(latents[indices.numpy()])
        noise = torch.randn(x0.shape, generator=generator)
        timesteps = stratified_timesteps_B(len(x0), scheduler.config.num_train_timesteps, generator)
        hidden = model.text_encoder(ids_NL[indices]).last_hidden_state
        predicted = model.unet(scheduler.add_noise(x0, noise, timesteps), timesteps, hidden).sample
        error_B = F.mse_loss(predicted, scheduler.get_velocity(x0, noise, timesteps), reduction="none").mean((1, 2, 3))
        return (error_B * weights[timesteps]).mean(), {"mse": error_B.detach().mean()}

    fit(model, loss, len(captions), settings, folder)


def without_posterior_noise(vae: AutoencoderKL) -> AutoencoderKL:
    """The same VAE, in place, whose posterior is its mean: what the UNet was trained on.

    Five of the eight channels carry nothing: there the KL term has made the posterior the prior, noise of unit variance
    that no decoder looks at. A UNet that never saw that noise would be asked to predict it.
    """
    channels = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[channels:] = 0.0
        vae.quant_conv.bias[channels:] = NO_NOISE_LOG_VARIANCE
    return vae


def save_pipeline(model: TextToImage, tokenizer: CLIPTokenizer, vae: AutoencoderKL, folder: Path) -> None:
    """Write the base in exact StableDiffusionPipeline format, fp16."""
    pipeline = StableDiffusionPipeline(
        vae=without_posterior_noise(vae),
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vae.register_to_config(_name_or_path="")  # the work folder is nobody's business
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder)
    pipeline.to(dtype=torch.float32)
