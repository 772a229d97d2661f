"""Stable Diffusion 1.x and 2.x, and everything of the same architecture: one text encoder, epsilon or v prediction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from evenhand.bases.checkpoint import freeze, load_pipeline, sampler_facts, weights_fingerprint
from evenhand.bases.schedule import noise_schedule
from evenhand.bases.text import check_lengths
from evenhand.bases.unet import adapters_off, lora_targets, sample
from evenhand.interfaces import GeneratedImage, LatentPosterior, SamplingSettings, TextEmbedding

if TYPE_CHECKING:
    import torch


class StableDiffusion:
    """A base given by a pipeline folder, a packaged model or a hub id."""

    def __init__(self, *, name: str, model: str, revision: str | None, variant: str | None) -> None:
        self.name = name
        self.model = model
        self.revision = revision
        self.variant = variant

    def load(self, *, device: torch.device, dtype: torch.dtype) -> LoadedStableDiffusion:
        """The frozen base on ``device``; ValueError when it is not there. On CPU the weights are float32."""
        import torch

        dtype = torch.float32 if device.type == "cpu" else dtype
        pipeline = load_pipeline(
            "StableDiffusionPipeline",
            name=self.name,
            model=self.model,
            revision=self.revision,
            variant=self.variant,
            dtype=torch.float16 if dtype == torch.float16 else torch.float32,
            components={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        )
        return LoadedStableDiffusion(self.name, pipeline, device=device, dtype=dtype)


class LoadedStableDiffusion:
    """See ``evenhand.interfaces.LoadedBase``. ``pipeline`` is the stock pipeline that holds the modules."""

    def __init__(
        self,
        name: str,
        pipeline: Any,  # Any: diffusers has no types
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.name = name
        self.fingerprint = weights_fingerprint(pipeline.unet)
        self.encoders_fingerprint = weights_fingerprint(pipeline.vae, pipeline.text_encoder)
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            freeze(module, device=device, dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self.unet: torch.nn.Module = pipeline.unet
        self.device = device
        self.dtype = dtype
        self.schedule = noise_schedule(pipeline.scheduler.config, device=device)
        self.prediction_type = self.schedule.prediction_type
        self.num_train_timesteps = self.schedule.num_timesteps
        self.resolution_px = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    def encode_text(self, captions: Sequence[str]) -> TextEmbedding:
        """Embed captions; ValueError names a caption that is longer than the encoder reads, with its token count."""
        import torch

        check_lengths(self.pipeline.tokenizer, captions)
        with torch.no_grad():
            hidden_BLD, _ = self.pipeline.encode_prompt(
                list(captions), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return TextEmbedding(hidden_BLD=hidden_BLD)

    def encode_images(self, pixels_BCHW: torch.Tensor) -> LatentPosterior:
        """Posterior of pixels in [-1, 1], in float32 and in the UNet's scale."""
        import torch

        vae = self.pipeline.vae
        with torch.no_grad():
            posterior = vae.encode(pixels_BCHW.to(device=self.device, dtype=vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return LatentPosterior(mean_BCHW=posterior.mean.float() * scale, std_BCHW=posterior.std.float() * scale)

    def add_noise(
        self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor
    ) -> torch.Tensor:
        """The forward process of the base's own schedule."""
        return self.schedule.add_noise(latents_BCHW, noise_BCHW, timesteps_B)

    def target(self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """What the UNet is asked to predict: noise, or v."""
        return self.schedule.target(latents_BCHW, noise_BCHW, timesteps_B)

    def snr(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio of the forward process."""
        return self.schedule.snr(timesteps_B)

    def denoise(self, noisy_BCHW: torch.Tensor, timesteps_B: torch.Tensor, text: TextEmbedding) -> torch.Tensor:
        """The UNet's prediction in float32, with whatever adapter is active."""
        prediction_BCHW: torch.Tensor = self.unet(
            noisy_BCHW.to(self.dtype), timesteps_B, text.hidden_BLD.to(self.dtype), return_dict=False
        )[0]
        return prediction_BCHW.float()

    def without_adapter(self) -> AbstractContextManager[None]:
        """Inside, ``denoise`` predicts as the base does."""
        return adapters_off(self.unet)

    def lora_targets(self, preset: str) -> list[str]:
        """Full names of the UNet modules of a preset; ValueError offers the presets."""
        return lora_targets(self.unet, preset)

    def sampler(self) -> dict[str, Any]:  # Any: JSON
        """What decides images beside weights, captions, seeds and settings: scheduler and each part's config."""
        return sampler_facts(self.pipeline)

    def generate(
        self, captions: Sequence[str], seeds: Sequence[int], sampling: SamplingSettings
    ) -> list[GeneratedImage]:
        """One image for each (caption, seed), whose noise depends on its seed alone; one batch, in order."""
        check_lengths(self.pipeline.tokenizer, captions)
        return sample(self.pipeline, captions, seeds, sampling)
