"""Adapter folders and a reader for the tests of the playground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evenhand.adapters.card import AdapterCard
from evenhand.adapters.lora import attach, detach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion, StableDiffusion
from evenhand.playground.pairs import Choices, Playground
from evenhand.records import SubjectReading
from tests.tiny import PLAIN, load_sd, randomize, sampling

CARD = AdapterCard(
    name="even-handed mechanics",
    base="tiny",
    base_model="somewhere/tiny",
    base_license="openrail++",
    method="curated",
    steps=3,
    seed=5,
    concepts=("mechanic",),
    prompts=("a portrait of a mechanic",),
    data_sha256="d" * 64,
    config_sha256="c" * 64,
    training_readers=(),
    version="0.1.0",
)
HALF = 127.5


def save_adapter(tiny_folder: Path, folder: Path, *, seed: int, name: str = CARD.name, std: float = 0.2) -> Path:
    """An adapter of random weights that changes the tiny base's images, saved as a training does it."""
    base: LoadedStableDiffusion = load_sd(tiny_folder)
    adapter = attach(base, LoraSettings(rank=4, alpha=8.0, targets="attention"), seed=seed)
    randomize(adapter, seed=seed, std=std)
    adapter.save(folder, replace(CARD, name=name))
    detach(base)
    return folder


@dataclass(kw_only=True)
class Brightness:
    """Reads whether the left and the right half of an image are bright or dark; ``num_read`` counts the images."""

    name: str = "halves"
    revision: str | None = None
    license: str = "none"
    validated_on: str = "nothing"
    num_read: int = 0

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return {"light": ("bright", "dark"), "season": ("winter", "summer")}

    def load(self, *, device: torch.device) -> Brightness:
        return self

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        self.num_read += len(images)
        return [[reading for subject in (0, 1) for reading in self._half(image, subject)] for image in images]

    def _half(self, image: Image.Image, subject: int) -> list[SubjectReading]:
        pixels = np.asarray(image)
        half = pixels[:, : pixels.shape[1] // 2] if subject == 0 else pixels[:, pixels.shape[1] // 2 :]
        bright = float(half.mean()) / (2 * HALF)
        value, probs = ("bright" if bright > 0.5 else "dark"), (bright, 1 - bright)
        return [
            SubjectReading(subject=subject, attribute="light", value=value, probs=probs, unread=None),
            SubjectReading(subject=subject, attribute="season", value=None, probs=None, unread="no <sky> in it"),
        ]


def choices(tiny_folder: Path, adapters: Sequence[Path], **changed: Any) -> Choices:
    """The playground's choices on the tiny base."""
    settings: dict[str, Any] = {
        "base": StableDiffusion(name="tiny", model=str(tiny_folder), **PLAIN),
        "sampling": sampling(),
        "adapters": tuple(str(path) for path in adapters),
        "check_base": True,
        "readers": {"one": Brightness()},
        "device": "cpu",
        "dtype": "float32",
        "num_threads": 1,
    }
    return Choices(**{**settings, **changed})


def playground(tiny_folder: Path, adapters: Sequence[Path], **changed: Any) -> Playground:
    return choices(tiny_folder, adapters, **changed).load()
