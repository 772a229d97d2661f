"""The stages in which tinytown is made; each reads and writes a folder, and can be called again after a kill."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from evenhand.interfaces import SamplingSettings
from evenhand.tinytown.autoencoder import (
    finetune_decoder,
    reconstruction_psnr_db,
    train_autoencoder,
)
from evenhand.tinytown.classifiers import (
    head_accuracies,
    image_processor,
    new_classifier,
    reconstruct,
    train_classifier,
)
from evenhand.tinytown.contrastive import new_clip, train_clip
from evenhand.tinytown.diffusion import (
    TextToImage,
    encode_renders,
    new_unet,
    save_pipeline,
    train_diffusion,
)
from evenhand.tinytown.engine import EngineSettings, world
from evenhand.tinytown.measure import measure_weights
from evenhand.tinytown.renders import HELDOUT_SEED, Renders, render_samples
from evenhand.tinytown.text import new_text_encoder, train_tokenizer

logger = logging.getLogger(__name__)

STAGES = ("renders", "vae", "tokenizer", "reader_a", "reader_b", "clip", "diffusion", "decoder", "export")
# These run on several processes; the others are quick, or spread over processes themselves.
PARALLEL = ("vae", "reader_a", "reader_b", "clip", "diffusion", "decoder")
ARCHITECTURES = {"reader_a": "resnet", "reader_b": "convnextv2"}
WEIGHTS_FOLDER = Path(__file__).with_name("weights")


class Stages:
    """Stages over one work folder; see ``conf/tinytown.yaml`` for the numbers."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, EngineSettings],
        *,
        num_renders: int,
        num_balanced: int,
        num_reconstructed: int,
        num_heldout: int,
        latent_channels: int,
        weights_folder: Path = WEIGHTS_FOLDER,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.num_renders = num_renders
        self.num_balanced = num_balanced
        self.num_reconstructed = num_reconstructed
        self.num_heldout = num_heldout
        self.latent_channels = latent_channels
        self.weights_folder = weights_folder

    def run(self, stage: str) -> None:
        """Run one stage."""
        logger.info("stage %s in %s", stage, self.folder)
        if stage in ARCHITECTURES:
            self._reader(stage)
        else:
            getattr(self, f"_{stage}")()

    def _renders(self) -> None:
        self.renders()
        self.balanced()
        self.heldout(balanced=False)
        self.heldout(balanced=True)

    def renders(self) -> Renders:
        """What the base is trained on."""
        return render_samples(self.folder / "renders", num_images=self.num_renders, balanced=False)

    def balanced(self) -> Renders:
        """What the readers are trained on."""
        return render_samples(self.folder / "balanced", num_images=self.num_balanced, balanced=True)

    def heldout(self, *, balanced: bool) -> Renders:
        """What nothing is trained on."""
        name = "heldout_balanced" if balanced else "heldout"
        return render_samples(
            self.folder / name, num_images=self.num_heldout, first_seed=HELDOUT_SEED, balanced=balanced
        )

    def vae(self, name: str = "vae") -> AutoencoderKL:
        """The VAE of a stage: ``vae``, or with its finer ``decoder``."""
        return AutoencoderKL.from_pretrained(self.folder / name / "model").eval()

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of the base and of CLIP."""
        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer")

    def _stage_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _vae(self) -> None:
        folder = self._stage_folder("vae")
        vae = train_autoencoder(self.renders(), self.settings["vae"], folder, latent_channels=self.latent_channels)
        if world()[0] == 0:
            vae.save_pretrained(folder / "model")
            logger.info("held-out reconstruction: %.2f dB", reconstruction_psnr_db(vae, self.heldout(balanced=False)))

    def _decoder(self) -> None:
        folder = self._stage_folder("decoder")
        vae = finetune_decoder(self.vae(), self.renders(), self.settings["decoder"], folder)
        if world()[0] == 0:
            vae.save_pretrained(folder / "model")
            logger.info("held-out reconstruction: %.2f dB", reconstruction_psnr_db(vae, self.heldout(balanced=False)))

    def _tokenizer(self) -> None:
        train_tokenizer(row.text for row in self.renders().rows).save_pretrained(self.folder / "tokenizer")

    def _reader(self, name: str) -> None:
        folder = self._stage_folder(name)
        model = new_classifier(ARCHITECTURES[name], seed=self.settings[name].seed)
        decoded = self.folder / "reconstructed.npy"
        if world()[0] == 0:
            reconstruct(self.vae(), self.balanced(), decoded, num_images=self.num_reconstructed)
        if world()[1] > 1:
            torch.distributed.barrier()
        reconstructed = reconstruct(self.vae(), self.balanced(), decoded, num_images=self.num_reconstructed)
        train_classifier(model, self.balanced(), reconstructed, self.settings[name], folder)
        if world()[0] == 0:
            model.save_pretrained(folder / "model")
            image_processor().save_pretrained(folder / "model")
            heldout = self.heldout(balanced=True)
            accuracies = head_accuracies(model, heldout.pixels_BHWC, heldout.rows)
            logger.info("held-out accuracy: %s", {head: round(value, 4) for head, value in accuracies.items()})

    def _clip(self) -> None:
        folder = self._stage_folder("clip")
        model = new_clip(self.tokenizer(), seed=self.settings["clip"].seed)
        decoded = self.folder / "reconstructed.npy"
        reconstructed = reconstruct(self.vae(), self.balanced(), decoded, num_images=self.num_reconstructed)
        train_clip(model, self.tokenizer(), self.balanced(), reconstructed, self.settings["clip"], folder)
        if world()[0] == 0:
            model.save_pretrained(folder / "model")
            self.tokenizer().save_pretrained(folder / "model")
            image_processor().save_pretrained(folder / "model")

    def new_text_to_image(self) -> TextToImage:
        """The UNet and the text encoder before training."""
        settings = self.settings["diffusion"]
        return TextToImage(
            new_unet(latent_channels=self.latent_channels, seed=settings.seed),
            new_text_encoder(self.tokenizer(), seed=settings.seed),
        )

    def _diffusion(self) -> None:
        folder = self._stage_folder("diffusion")
        renders = self.renders()
        if world()[0] == 0:
            encode_renders(self.vae(), renders, folder / "latents.npy")
        if world()[1] > 1:
            torch.distributed.barrier()
        latents = encode_renders(self.vae(), renders, folder / "latents.npy")
        model = self.new_text_to_image()
        captions = [row.text for row in renders.rows]
        train_diffusion(model, self.tokenizer(), latents, captions, self.settings["diffusion"], folder)
        if world()[0] == 0:
            save_file(model.state_dict(), folder / "model.safetensors")

    def _export(self) -> None:
        """Put the trained networks together and write what is shipped, fp16."""
        model = self.new_text_to_image()
        trained, checkpoint = (
            self.folder / "diffusion" / "model.safetensors",
            self.folder / "diffusion" / "checkpoint.safetensors",
        )
        if trained.is_file():
            model.load_state_dict(load_file(trained))
        else:  # a base that is still in training is exported with its moving average
            logger.warning(
                "stage diffusion has not ended; exporting its last checkpoint. Run stage=diffusion to the end."
            )
            average = {
                key.removeprefix("ema/"): value
                for key, value in load_file(checkpoint).items()
                if key.startswith("ema/")
            }
            model.load_state_dict(average, strict=False)
        name = "decoder" if (self.folder / "decoder" / "model").is_dir() else "vae"
        save_pipeline(model, self.tokenizer(), self.vae(name), self.weights_folder / "base")
        for reader in ("reader_a", "reader_b", "clip"):
            self._export_model(self.folder / reader / "model", self.weights_folder / reader)

    @staticmethod
    def _export_model(source: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.suffix != ".safetensors":
                (folder / path.name).write_bytes(path.read_bytes())
        weights = {
            key: value.half().contiguous() if value.is_floating_point() else value
            for key, value in load_file(source / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def measure(self, sampling: SamplingSettings, *, fewer: int) -> dict[str, Any]:  # Any: JSON
        """The quality table of the shipped weights."""
        return measure_weights(
            self.weights_folder,
            heldout=self.heldout(balanced=False),
            balanced=self.heldout(balanced=True),
            sampling=sampling,
            fewer=fewer,
        )
