"""A test oracle: reads values that were planted in an image as colours, with errors on demand.

An image shows the value whose colour is nearest to its mean colour. Errors are drawn from the image's own bytes, so the
same image is always read the same: in tests they stand for a reader that confuses values, or cannot tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evenhand.readers.deciding import unread
from evenhand.records import SubjectReading
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch
    from PIL import Image


class Planted:
    """``colors`` maps attribute -> value -> RGB; all attributes are read from the same mean colour.

    ``max_distance`` is the largest distance from a planted colour at which there is a subject. ``confusion`` is the
    chance that a value is read as the next one, ``abstain`` that it is unread.
    """

    def __init__(
        self,
        *,
        name: str,
        colors: Mapping[str, Mapping[str, Sequence[int]]],
        max_distance: float,
        confusion: float,
        abstain: float,
        seed: int,
    ) -> None:
        self.name = name
        self.revision: str | None = None
        self.license = "Apache-2.0 (part of evenhand)"
        self.validated_on = "planted colours alone: it reads no real image"
        self.colors = {key: {value: tuple(rgb) for value, rgb in entry.items()} for key, entry in colors.items()}
        self.attributes: Mapping[str, tuple[str, ...]] = {key: tuple(entry) for key, entry in colors.items()}
        self.max_distance = max_distance
        self.confusion = confusion
        self.abstain = abstain
        self.seed = seed
        for label, chance in (("confusion", confusion), ("abstain", abstain)):
            if not 0 <= chance <= 1:
                raise ValueError(f"reader {name}: {label} must be between 0 and 1, got {chance}")

    def load(self, *, device: torch.device) -> LoadedPlanted:
        """The reader; it needs no file."""
        return LoadedPlanted(self)


class LoadedPlanted:
    """See ``evenhand.interfaces.LoadedReader``."""

    def __init__(self, settings: Planted) -> None:
        self._settings = settings

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """One subject for each image, or none where its colour is no planted one."""
        return [
            [self._read(attribute, image.convert("RGB")) for attribute in self._settings.attributes] for image in images
        ]

    def _read(self, attribute: str, image: Image.Image) -> SubjectReading:
        settings = self._settings
        values = settings.attributes[attribute]
        mean = np.asarray(image, dtype=np.float64).reshape(-1, 3).mean(axis=0)
        distances = [float(np.linalg.norm(mean - np.array(rgb))) for rgb in settings.colors[attribute].values()]
        nearest = int(np.argmin(distances))
        if distances[nearest] > settings.max_distance:
            return unread(attribute, f"no planted colour found (nearest is {distances[nearest]:.0f} away)")
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        rng = np.random.default_rng(derive(settings.seed, "planted", attribute, digest))
        wrong, silent = rng.random() < settings.confusion, rng.random() < settings.abstain
        if silent:
            return unread(attribute, "undecided (planted)")
        read = (nearest + wrong) % len(values)
        probs = tuple(float(index == read) for index in range(len(values)))
        return SubjectReading(subject=0, attribute=attribute, value=values[read], probs=probs, unread=None)
