"""Stable Diffusion XL: two text encoders, a pooled embedding and the image's size as further conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from evenhand.bases.checkpoint import RELEASED, freeze, load_pipeline, networks, sampler_facts, weights_fingerprint
from evenhand.bases.schedule import has_zero_terminal_snr, noise_schedule, with_zero_terminal_snr
from evenhand.bases.text import (
    check_lengths,
    check_stored_lengths,
    checkpoint_gradients,
    refuse_adapted,
    text_lora_targets,
    token_ids,
)
from evenhand.bases.unet import adapters_off, lora_targets, sample
from evenhand.bases.virtual_words import VirtualWords
from evenhand.interfaces import GeneratedImage, LatentPosterior, SamplingSettings, TextEmbedding

if TYPE_CHECKING:
    import torch


class StableDiffusionXL:
    """A base given by a pipeline folder or a hub id. ``license`` is that of its weights.

    ``zero_terminal_snr`` rescales its schedule, in training and in sampling, so that it ends in noise alone.
    """

    def __init__(
        self, *, name: str, model: str, revision: str | None, variant: str | None, license: str, zero_terminal_snr: bool
    ) -> None:
        self.name = name
        self.model = model
        self.revision = revision
        self.variant = variant
        self.license = license
        self.zero_terminal_snr = zero_terminal_snr

    def check_captions(self, captions: Sequence[str], *, where: str) -> None:
        """ValueError for a caption of the file ``where`` that would be cut off, with its tokens counted.

        Only what counts tokens is loaded.
        """
        check_stored_lengths(
            captions,
            where=where,
            tokenizers=("tokenizer", "tokenizer_2"),
            name=self.name,
            model=self.model,
            revision=self.revision,
        )

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
        rescaled = self.zero_terminal_snr and not has_zero_terminal_snr(pipeline.scheduler)
        if rescaled:
            pipeline.scheduler = with_zero_terminal_snr(pipeline.scheduler, name=self.name)
        return LoadedStableDiffusionXL(self.name, pipeline, device=device, dtype=dtype, rescaled=rescaled)


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
        rescaled: bool = False,
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
        self.text_encoders: Mapping[str, torch.nn.Module] = {
            "text_encoder": pipeline.text_encoder,
            "text_encoder_2": pipeline.text_encoder_2,
        }
        self.device = device
        self.dtype = dtype
        self.schedule = noise_schedule(pipeline.scheduler.config, device=device)
        self.prediction_type = self.schedule.prediction_type
        self.zero_terminal_snr = rescaled
        self.num_train_timesteps = self.schedule.num_timesteps
        self.resolution_px = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        self.size_step_px = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)

    def encode_text(self, captions: Sequence[str]) -> TextEmbedding:
        """Embed captions without gradients, with whatever adapter is active on the text encoders.

        ValueError names a caption that is longer than the encoders read, with its token count.
        """
        import torch

        with torch.no_grad():
            return self.embed_text(captions)

    def embed_text(self, captions: Sequence[str]) -> TextEmbedding:
        """As ``encode_text``, with gradients for the adapter on the text encoders."""
        import torch

        self._check_encoders()
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            check_lengths(tokenizer, captions)
        hidden_BLD, _, pooled_BD, _ = self.pipeline.encode_prompt(
            list(captions), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:
            kept_B = torch.tensor([caption != "" for caption in captions], device=self.device)
            hidden_BLD = hidden_BLD * kept_B[:, None, None]
            pooled_BD = pooled_BD * kept_B[:, None]
        return TextEmbedding(hidden_BLD=hidden_BLD, pooled_BD=pooled_BD)

    def virtual_words(self, known: Sequence[str]) -> VirtualWords:
        """Virtual words that are drawn between those of known concepts, for both encoders."""
        self._check_encoders()
        first = (self.pipeline.tokenizer, self.pipeline.text_encoder)
        second = (self.pipeline.tokenizer_2, self.pipeline.text_encoder_2)
        return VirtualWords([first, second], self.encode_text, known)

    def token_ids(self, captions: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each caption, start and end included and padding not."""
        self._check_encoders()
        return token_ids(self.pipeline.tokenizer, captions)

    def encode_images(self, pixels_BCHW: torch.Tensor) -> LatentPosterior:
        """Posterior of pixels in [-1, 1], in float32 and in the UNet's scale."""
        import torch

        self._check_encoders()
        vae = self.pipeline.vae
        with torch.no_grad():
            posterior = vae.encode(pixels_BCHW.to(device=self.device, dtype=vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return LatentPosterior(mean_BCHW=posterior.mean.float() * scale, std_BCHW=posterior.std.float() * scale)

    def decode_latents(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels, about in [-1, 1] and in float32, of latents in the UNet's scale, with gradients for the latents."""
        self._check_encoders()
        vae = self.pipeline.vae
        pixels_BCHW: torch.Tensor = vae.decode((latents_BCHW / vae.config.scaling_factor).to(vae.dtype)).sample
        return pixels_BCHW.float()

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

    def denoise(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text: TextEmbedding,
        *,
        size_B6: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The UNet's prediction in float32, with whatever adapter is active.

        ``size_B6`` is section 2.2 of the SDXL paper (arXiv 2307.01952), in pixels: original height and width, top and
        left of the crop, target height and width; None says that the images are whole and of the latents' own size.
        """
        if text.pooled_BD is None:
            raise ValueError("SDXL needs the pooled text embedding, got none (encode the captions with this base)")
        if size_B6 is None:
            size_B6 = self._whole(noisy_BCHW)
        elif size_B6.shape != (len(noisy_BCHW), 6):
            raise ValueError(f"SDXL needs six sizes for each of {len(noisy_BCHW)} images, got {tuple(size_B6.shape)}")
        conditions = {
            "text_embeds": text.pooled_BD.to(self.dtype),
            "time_ids": size_B6.to(self.device).float(),  # bf16 would round 1023 to 1024
        }
        prediction_BCHW: torch.Tensor = self.unet(
            noisy_BCHW.to(self.dtype),
            timesteps_B,
            text.hidden_BLD.to(self.dtype),
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return prediction_BCHW.float()

    def _whole(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """The sizes of images that were not cropped."""
        import torch

        height_px, width_px = (side * self.pipeline.vae_scale_factor for side in latents_BCHW.shape[2:])
        size_6 = torch.tensor([height_px, width_px, 0, 0, height_px, width_px], device=self.device)
        return size_6.expand(len(latents_BCHW), -1)

    def without_adapter(self) -> AbstractContextManager[None]:
        """Inside, text is embedded and ``denoise`` predicts as the base does."""
        return adapters_off(self.unet, *self.text_encoders.values())

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass: of the UNet, and of text encoders that are trained."""
        self.pipeline.unet.enable_gradient_checkpointing()
        for encoder in self.text_encoders.values():
            if any(parameter.requires_grad for parameter in encoder.parameters()):
                checkpoint_gradients(encoder)

    def release_encoders(self) -> None:
        """Let the VAE and the text encoders leave memory; what needs them raises ValueError from then on."""
        refuse_adapted(self.text_encoders, name=self.name)
        self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.text_encoder_2 = None, None, None
        self.text_encoders = {}

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks in memory, by their names in the pipeline."""
        return networks(self.pipeline)

    def _check_encoders(self) -> None:
        if not self.text_encoders:
            raise ValueError(RELEASED.format(name=self.name))

    def lora_targets(self, preset: str) -> list[str]:
        """Full names of the UNet modules of a preset; ValueError offers the presets."""
        return lora_targets(self.unet, preset)

    def text_lora_targets(self, preset: str) -> dict[str, list[str]]:
        """Full names of each text encoder's modules of a preset; ValueError offers the presets.

        SDXL reads both encoders one layer before the end, and the pooled embedding at the end of the second: the last
        layer of the first one changes nothing, and is left out.
        """
        self._check_encoders()
        found = text_lora_targets(self.text_encoders, preset)
        unread = f"layers.{self.pipeline.text_encoder.config.num_hidden_layers - 1}."
        return {
            name: [module for module in modules if name != "text_encoder" or unread not in module]
            for name, modules in found.items()
        }

    def sampler(self) -> dict[str, Any]:  # Any: JSON
        """What decides images beside weights, captions, seeds and settings: scheduler and each part's config."""
        return sampler_facts(self.pipeline)

    def generate(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        sampling: SamplingSettings,
        *,
        negatives: Sequence[str] | None = None,
    ) -> list[GeneratedImage]:
        """One image for each (caption, seed), whose noise depends on its seed alone; one batch, in order.

        ``negatives`` are captions that guidance leads away from, "" for images that have none.
        """
        self._check_encoders()
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            check_lengths(tokenizer, [*captions, *(negatives or ())])
        return sample(self.pipeline, captions, seeds, sampling, negatives=negatives)
