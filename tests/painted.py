"""A base and a reader with known truth: the base paints what a caption asks for, with a chance to disobey.

The upper half of a picture is coloured by presentation, the lower half by occupation, and a corner holds noise of the
seed, so that no two pictures are equal. The reader looks at the colours, as it would at any picture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from evenhand.interfaces import GeneratedImage, SamplingSettings
from evenhand.records import SubjectReading

OCCUPATIONS = ("mechanic", "nurse", "judge", "electrician")
PRESENTATIONS = {"woman": (200, 40, 40), "man": (40, 40, 200)}
WORDS = {"female": "woman", "male": "man"}
SIZE_PX = 16


@dataclass
class PaintedBase:
    """``disobeys`` maps (occupation, presentation) to the chance that the other presentation is painted.

    ``batches`` records what was generated; ``die_after`` batches it raises, as a stand-in for a kill.
    """

    name: str = "painted"
    disobeys: Mapping[tuple[str, str], float] = field(default_factory=dict)
    wrong_occupation: float = 0.0
    batches: list[list[tuple[str, int]]] = field(default_factory=list)
    num_loads: int = 0
    die_after: int | None = None

    def check_captions(self, captions: Sequence[str], *, where: str) -> None:
        """It reads captions of any length."""

    def load(self, *, device: torch.device, dtype: torch.dtype) -> PaintedBase:
        self.num_loads += 1
        return self

    def generate(
        self, captions: Sequence[str], seeds: Sequence[int], sampling: SamplingSettings
    ) -> list[GeneratedImage]:
        if self.die_after is not None and len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append(list(zip(captions, seeds, strict=True)))
        return [self._paint(caption, seed) for caption, seed in self.batches[-1]]

    def _paint(self, caption: str, seed: int) -> GeneratedImage:
        rng = np.random.default_rng(seed)
        pixels = np.full((SIZE_PX, SIZE_PX, 3), 90, dtype=np.uint8)
        asked = [value for word, value in WORDS.items() if re.search(rf"\b{word}\b", caption)]
        named = [name for name in OCCUPATIONS if name in caption]
        occupation = named[0] if named else None
        presentation = asked[0] if asked else ("woman", "man")[int(rng.integers(2))]
        if occupation is not None:
            if rng.random() < self.disobeys.get((occupation, presentation), 0.0):
                presentation = {"woman": "man", "man": "woman"}[presentation]
            number = OCCUPATIONS.index(occupation)
            if rng.random() < self.wrong_occupation:
                number = (number + 1) % len(OCCUPATIONS)
            pixels[: SIZE_PX // 2] = PRESENTATIONS[presentation]
            pixels[SIZE_PX // 2 :] = 20 + 50 * number
        pixels[:4, :4] = rng.integers(0, 256, (4, 4, 3))
        return GeneratedImage(
            image=Image.fromarray(pixels), noise_sha256=hashlib.sha256(str(seed).encode()).hexdigest()
        )


@dataclass
class PaintedReader:
    """Reads presentation and occupation from the colours; a picture without a person is unread."""

    name: str = "painted_reader"
    attributes: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"presentation": tuple(PRESENTATIONS), "occupation": OCCUPATIONS}
    )
    num_loads: int = 0

    def load(self, *, device: torch.device) -> PaintedReader:
        self.num_loads += 1
        return self

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        return [[self._presentation(image), self._occupation(image)] for image in images]

    def _presentation(self, image: Image.Image) -> SubjectReading:
        seen = image.getpixel((SIZE_PX - 1, 0))
        value = next((name for name, color in PRESENTATIONS.items() if color == seen), None)
        return _reading("presentation", value)

    def _occupation(self, image: Image.Image) -> SubjectReading:
        red, green, _ = image.getpixel((SIZE_PX - 1, SIZE_PX - 1))
        number, rest = divmod(red - 20, 50)
        return _reading("occupation", OCCUPATIONS[number] if rest == 0 and red == green else None)


def _reading(attribute: str, value: str | None) -> SubjectReading:
    unread = "no person found" if value is None else None
    return SubjectReading(subject=0, attribute=attribute, value=value, probs=None, unread=unread)
