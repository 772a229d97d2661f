"""The six seams of evenhand. Read this file first.

A *program* composes a config, builds these parts and hands them to each other. A part is made by a constructor that
only stores and checks its arguments; ``load`` touches disk, network and device and gives the working object.

Letters of tensor shapes: B batch, C channels, H height, W width, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from evenhand.processes import Ranks
from evenhand.records import Example, SubjectReading

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbedding:
    """Encoded captions: ``hidden_BLD``, and for SDXL ``pooled_BD`` as well."""

    hidden_BLD: torch.Tensor
    pooled_BD: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPosterior:
    """The VAE's posterior in the UNet's scale: a latent is ``mean_BCHW + std_BCHW * noise``."""

    mean_BCHW: torch.Tensor
    std_BCHW: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How images are made; part of what identifies an image."""

    steps: int
    guidance: float
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling steps must be >= 1, got {self.steps}")
        if self.guidance < 1.0:
            raise ValueError(f"guidance must be >= 1 (1 is off), got {self.guidance}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """An RGB image and the sha256 of the noise that it started from."""

    image: Image.Image
    noise_sha256: str


class VirtualWords(Protocol):
    """Captions with a virtual word for their concept: an input embedding that no word of the vocabulary has."""

    def stands_in(self, concept: str, caption: str) -> bool:
        """Whether the caption has the concept's tokens one after the other, so that others can take their place."""

    def embed(self, captions: Sequence[str], concepts: Sequence[str], seeds: Sequence[int]) -> TextEmbedding:
        """Embed captions without gradients, each with the virtual word of its seed wherever its concept stands.

        Equal seeds give equal words, in whatever caption. ValueError where a concept does not stand in its caption.
        """


class LoadedBase(Protocol):
    """A frozen diffusion model on a device, ready to encode, denoise and sample.

    ``unet`` is the module that an adapter is attached to; so are, where the adapter's settings say so, the
    ``text_encoders``, by their names in the pipeline (``text_encoder``, and for SDXL ``text_encoder_2``; none after
    ``release_encoders``). ``fingerprint`` is the sha256 of the UNet's weights without any adapter: an adapter is bound
    to it. ``encoders_fingerprint`` is that of the VAE and the text encoders, to which cached latents and text
    embeddings are bound. ``num_train_timesteps`` bounds the timesteps, ``resolution_px`` is the side of the images that
    the base was trained on, ``size_step_px`` the step in which an image's sides may grow, ``prediction_type`` is
    ``epsilon`` or ``v_prediction``. ``zero_terminal_snr`` tells whether its schedule and its sampler were changed so
    that the last timestep is noise alone; a base whose own files say so is not changed.
    """

    name: str
    unet: torch.nn.Module
    text_encoders: Mapping[str, torch.nn.Module]
    fingerprint: str
    encoders_fingerprint: str
    num_train_timesteps: int
    resolution_px: int
    size_step_px: int
    prediction_type: str
    zero_terminal_snr: bool

    def encode_text(self, captions: Sequence[str]) -> TextEmbedding:
        """Embed captions without gradients, with whatever adapter is active on the text encoders.

        ValueError names a caption that is longer than the encoder reads, with its token count.
        """

    def embed_text(self, captions: Sequence[str]) -> TextEmbedding:
        """As ``encode_text``, with gradients for the adapter on the text encoders."""

    def virtual_words(self, known: Sequence[str]) -> VirtualWords:
        """Virtual words that are drawn between those of known concepts; ValueError where these have a single token."""

    def token_ids(self, captions: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each caption as the (first) text encoder reads them, start and end included, padding not."""

    def encode_images(self, pixels_BCHW: torch.Tensor) -> LatentPosterior:
        """Posterior of pixels in [-1, 1]."""

    def decode_latents(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels, about in [-1, 1], of latents in the UNet's scale, with gradients for the latents."""

    def add_noise(
        self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor
    ) -> torch.Tensor:
        """The forward process of the base's own schedule."""

    def target(self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """What the UNet is asked to predict: noise, or v."""

    def snr(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio of the forward process, ``(signal / sigma)^2``; it may be 0."""

    def denoise(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text: TextEmbedding,
        *,
        size_B6: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The UNet's prediction in float32, with whatever adapter is active.

        ``size_B6`` is what SDXL is told of each image, in pixels: original height and width, top and left of the crop,
        target height and width (None: whole images of the latents' own size). Other bases have no use for it.
        """

    def without_adapter(self) -> AbstractContextManager[None]:
        """Inside, text is embedded and ``denoise`` predicts as the base does, whatever is attached."""

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass, which saves memory: of all parts that an adapter trains."""

    def release_encoders(self) -> None:
        """Let the VAE and the text encoders leave memory; what needs them raises ValueError from then on."""

    def networks(self) -> Mapping[str, torch.nn.Module]:
        """The networks in memory by their names in the pipeline, unet, vae and so on; released ones are gone."""

    def lora_targets(self, preset: str) -> list[str]:
        """Full names of the UNet modules of a preset; ValueError offers the presets."""

    def text_lora_targets(self, preset: str) -> dict[str, list[str]]:
        """For each text encoder, the full names of its modules of a preset; ValueError offers the presets."""

    def sampler(self) -> Mapping[str, Any]:  # Any: JSON
        """What decides images beside weights, captions, seeds and settings: scheduler and each part's config."""

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


class Base(Protocol):
    """Where a base model comes from. ``load`` gives fp32 weights on CPU and ``dtype`` frozen weights elsewhere.

    ``model`` is a hub id, a folder, or the name of a packaged model. ``license`` is that of the weights: what is made
    from them may have to keep to it.
    """

    name: str
    model: str
    license: str

    def check_captions(self, captions: Sequence[str], *, where: str) -> None:
        """ValueError for a caption of the file ``where`` that would be cut off, with its tokens counted.

        Only what counts tokens is loaded.
        """

    def load(self, *, device: torch.device, dtype: torch.dtype) -> LoadedBase:
        """Load the frozen model; ValueError when the folder or hub id is not there."""


class LoadedReader(Protocol):
    """A reader on a device."""

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """For each image, its subject readings: every declared attribute for every subject, in subject order.

        An image in which no subject is found has one reading of subject 0, with the reason, for every attribute.
        """


class Reader(Protocol):
    """Looks at images. ``attributes`` maps each attribute that it reads to the declared values, in order.

    ``revision`` pins the weights (a commit of the hub, or a sha256; None where a folder is what it is), ``license`` is
    theirs, and ``validated_on`` says in words on what the reader was found to read right, and what nobody has checked.
    What is read of people is how a picture looks, perceived by the reader, never who or what anybody is.
    """

    name: str
    attributes: Mapping[str, tuple[str, ...]]
    revision: str | None
    license: str
    validated_on: str

    def load(self, *, device: torch.device) -> LoadedReader:
        """Load the reader; ValueError when its folder or hub id is not there."""


class LoadedScorer(Protocol):
    """A scorer on a device. ``fingerprint`` is the sha256 of its weights: scores are bound to it."""

    fingerprint: str

    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Features of length 1, shape (N, D)."""

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of length 1 in the same space, shape (P, D): their product with an image's is its score."""

    def num_cut(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the scorer reads, and so judged by their beginning."""


class Scorer(Protocol):
    """Says how well an image fits a text, and how alike two images are.

    ``revision`` pins the weights (a commit of the hub; None where a folder is what it is), ``license`` is theirs.
    """

    name: str
    revision: str | None
    license: str

    def load(self, *, device: torch.device) -> LoadedScorer:
        """Load the scorer; ValueError when its folder or hub id is not there."""


class Recipe(Protocol):
    """Makes a curated set, example by example. ``num_images`` is how many rows ``build`` yields on all ranks together.

    What is made may not depend on the number of ranks: a batch, a picture, a row is given to one of them as it is.
    """

    num_images: int

    def build(self, folder: Path, *, device: torch.device, ranks: Ranks) -> Iterator[Example]:
        """Write images under ``folder`` and yield their rows; what an earlier, killed call wrote is kept and reused.

        A rank yields the rows of the images that it made. ``file_name`` of these rows is relative to ``folder``:
        ``train/000000.png``, ``preserve/000000.png``.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a method sees in one step: latents drawn from cached posteriors, their text, and the step's own noise.

    ``preserve_*`` hold the captions on which the adapted prediction is held to the base's (None without ``preserve``).
    ``preserve_teacher_text`` is their embedding by the base itself, where a trained text encoder gives another one than
    ``preserve_text``. ``explicit_text`` is the base's own embedding of the captions that name the rows' values (None
    for a method that does not use them). ``size_B6`` is what ``LoadedBase.denoise`` takes. ``files`` are the image
    files of the rows, the preserve rows last, to be named in messages. ``captions``, ``concepts``, ``row_seeds``,
    ``labels`` and ``weights_B`` (None: all alike) are of the rows without the preserve rows; a row's seed, from which a
    method may draw what it needs, is a function of the training's seed, the step and the row's place.
    """

    latents_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    text: TextEmbedding
    preserve_latents_BCHW: torch.Tensor | None = None
    preserve_noise_BCHW: torch.Tensor | None = None
    preserve_timesteps_B: torch.Tensor | None = None
    preserve_text: TextEmbedding | None = None
    preserve_teacher_text: TextEmbedding | None = None
    explicit_text: TextEmbedding | None = None
    size_B6: torch.Tensor | None = None
    preserve_size_B6: torch.Tensor | None = None
    files: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    concepts: tuple[str, ...] = ()
    row_seeds: tuple[int, ...] = ()
    labels: tuple[Mapping[str, str], ...] = ()
    weights_B: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """``total`` is a scalar with a gradient; ``parts`` are detached scalars for the tracker."""

    total: torch.Tensor
    parts: Mapping[str, torch.Tensor]


class Method(Protocol):
    """A debias objective.

    ``uses_preserve`` tells whether its batches need preserve rows, ``uses_explicit`` whether its rows need captions
    that name their values, ``needs_encoders`` whether the VAE and the text encoders must stay in memory.
    ``training_readers`` are the names of readers in its loss: none of them can judge the adapter. ``max_rows`` is how
    many rows of a batch a process may take at once, None for as many as fit. ``rows_per_noise`` rows of one concept
    share their noise and timestep, whatever their values; with ``coupled_noise`` their values say in which part of the
    noise each is (`data/noise_coupling.py`). ``virtual_concepts`` is the share of rows whose concept is
    replaced by one that nobody knows, in both captions, at the first step; it falls to 0 (`training/batches.py`).
    """

    name: str
    uses_preserve: bool
    needs_encoders: bool
    training_readers: tuple[str, ...]
    uses_explicit: bool
    max_rows: int | None
    rows_per_noise: int
    coupled_noise: bool
    virtual_concepts: float

    def loss(self, base: LoadedBase, batch: Batch) -> LossTerms:
        """The objective on one batch, with the adapter active on ``base.unet``."""


@runtime_checkable
class SamplingMethod(Method, Protocol):
    """A method that makes pictures of its own in every step: of a set's rows it uses captions and concepts alone."""

    def check(self, rows: Mapping[str, Sequence[Example]]) -> None:
        """Raise ValueError for rows that it cannot use, before a base is loaded."""

    def prepare(self, base: LoadedBase) -> None:
        """Load what judges the pictures; ValueError where that and the base do not fit, before anything is encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What a direct method adds to the weight of each module, ``up_OR @ down_RI`` in float32 on CPU, as (down, up).

    ``figures`` say how well it fits; ``loss`` is one of them.
    """

    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    figures: Mapping[str, float]


@runtime_checkable
class DirectMethod(Protocol):
    """A debias method that solves for the adapter at once, without images, steps and optimizer.

    ``targets`` is the preset of UNet modules that it changes, and the adapter must have. ``rows`` are a curated set's,
    ``train`` and, where ``uses_preserve`` says so, ``preserve``.
    """

    name: str
    uses_preserve: bool
    uses_explicit: bool
    training_readers: tuple[str, ...]
    targets: str

    def check(self, rows: Mapping[str, Sequence[Example]]) -> None:
        """Raise ValueError for rows that it cannot use, before a base is loaded."""

    def solve(self, base: LoadedBase, rows: Mapping[str, Sequence[Example]], *, ranks: Mapping[str, int]) -> Solution:
        """The addition to each module in ``ranks``, of that rank; no adapter is attached to ``base`` yet.

        It depends on nothing else, so that every process finds the same.
        """


class Tracker(Protocol):
    """Receives metrics, on rank 0 only. A tracker never stops a run."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics at an optimizer step; steps never go back."""

    def close(self) -> None:
        """Flush and end."""
