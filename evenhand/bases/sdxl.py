"""Stable Diffusion XL: two text encoders, a pooled embedding and the image's size as further conditions."""

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


class StableDiffusionXL:
    """A base given by a pipeline folder or a hub id."""

    def __init__(self, *, name: str, model: str, revision: str | None, variant: str | None) -> None:
        self.name = name
        self.model = model
        self.revision = revision
        self.variant = variant

    def load(self, *, device: torch.device, dtype: torch.dtype) -> LoadedStableDiffusionXL:
        """The frozen base on ``device``; ValueError when it is not there. On CPU the weights are float32."""
        import torch

        dtype = torch.float32 if device.type == "cpu" else dtype
        pipeline = load_pipeline(
            "StableDiffusionXLPipeline",
            name=self.name,
            model=self.model,
            revision=self.revision,
            variant=self.variant,
            dtype=torch.float16 if dtype == torch.float16 else torch.float32,
            components={"add_watermarker": False},
        )
        return LoadedStableDiffusionXL(self.name, pipeline, device=device, dtype=dtype)


class LoadedStableDiffusionXL:
    """See ``evenhand.interfaces.LoadedBase``. ``pipeline`` is the stock pipeline that holds the modules.

    A VAE that asks for it (``force_upcast``: the published one overflows in fp16) stays in float32. The empty caption
    is embedded as zeros where the pipeline's guidance does so.
    """

    def __init__(
        self,
        name: str,
        pipeline: Any,  # Any: diffusers has no types
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        import torch

        self.name = name
        self.fingerprint = weights_fingerprint(pipeline.unet)
        self.encoders_fingerprint = weights_fingerprint(pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
        vae_dtype = torch.float32 if pipeline.vae.config.force_upcast else dtype
        freeze(pipeline.vae, device=device, dtype=vae_dtype)
        for module in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
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
        """Embed captions; ValueError names a caption that is longer than the encoders read, with its token count."""
        import torch

        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            check_lengths(tokenizer, captions)
        with torch.no_grad():
            hidden_BLD, _, pooled_BD, _ = self.pipeline.encode_prompt(
                list(captions), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        if self.pipeline.config.force_zeros_for_empty_prompt:
            kept_B = torch.tensor([caption != "" for caption in captions], device=self.device)
            hidden_BLD = hidden_BLD * kept_B[:, None, None]
            pooled_BD = pooled_BD * kept_B[:, None]
        return TextEmbedding(hidden_BLD=hidden_BLD, pooled_BD=pooled_BD)

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
        """The UNet's prediction in float32, with whatever adapter is active, for an uncropped image of this size."""
        import torch

        if text.pooled_BD is None:
            raise ValueError("SDXL needs the pooled text embedding, got none (encode the captions with this base)")
        height_px, width_px = (side * self.pipeline.vae_scale_factor for side in noisy_BCHW.shape[2:])
        # original size, top left corner of the crop, target size: section 2.2 of the SDXL paper
        size_6 = torch.tensor([height_px, width_px, 0, 0, height_px, width_px], dtype=self.dtype, device=self.device)
        conditions = {
            "text_embeds": text.pooled_BD.to(self.dtype),
            "time_ids": size_6.expand(len(noisy_BCHW), -1),
        }
        prediction_BCHW: torch.Tensor = self.unet(
            noisy_BCHW.to(self.dtype),
            timesteps_B,
            text.hidden_BLD.to(self.dtype),
            added_cond_kwargs=conditions,
            return_dict=False,
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
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            check_lengths(tokenizer, captions)
        return sample(self.pipeline, captions, seeds, sampling)
