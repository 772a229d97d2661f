"""A base whose pictures tilt by a known law and answer to the weights of a calibration, some looks later.

It stands for a base with an adapter that learns: the shares of its pictures are known exactly, so what a calibration
makes of them can be compared with what it should. Pictures are squares in their value's colour, which the package's own
planted reader reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from evenhand.interfaces import GeneratedImage, SamplingSettings
from evenhand.readers.planted import Planted
from evenhand.records import Example
from evenhand.training.calibration import Calibration, Cell, LoadedCalibration, cell_of

COLORS: dict[str, dict[str, tuple[int, int, int]]] = {
    "presentation": {"woman": (240, 128, 128), "man": (16, 128, 128)},
    "skin": {"light": (128, 240, 128), "medium": (128, 128, 128), "dark": (128, 16, 128)},
}
NOBODY = (128, 128, 255)
FAR = 125.0  # from every colour to NOBODY, and farther than from a joint colour to either of its values

Shown = Callable[[str, int], Cell | None]


def cell(**labels: str) -> Cell:
    """A cell of values by their attributes."""
    return cell_of(labels)


def rows(concept: str, counts: Mapping[Cell, int]) -> list[Example]:
    """So many rows of a concept in each cell."""
    made = [labels for labels, count in counts.items() for _ in range(count)]
    return [
        Example(
            file_name=f"{concept}-{number}.png",
            text=concept,
            concept=concept,
            labels=dict(labels),
            template="{}",
            source="none",
            seed=number,
            license="CC0-1.0",
        )
        for number, labels in enumerate(made)
    ]


@dataclass
class World:
    """A base that shows, for a caption and a seed, what ``shows`` says. Its modules are two, in training mode."""

    shows: Shown
    made: list[tuple[str, int]] = field(default_factory=list)
    resolution_px: int = 8

    def __post_init__(self) -> None:
        self.unet = torch.nn.Dropout(0.5)
        self.text_encoders = {"one": torch.nn.Dropout(0.5).eval()}

    def generate(
        self, captions: Sequence[str], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[GeneratedImage]:
        assert not self.unet.training, "pictures are made in evaluation mode"
        torch.rand(7)  # as a sampler might
        self.made += list(zip(captions, seeds, strict=True))
        return [
            GeneratedImage(image=square(self.shows(caption, seed), self.resolution_px), noise_sha256="")
            for caption, seed in zip(captions, seeds, strict=True)
        ]


def square(shown: Cell | None, side_px: int) -> Image.Image:
    """A square that the planted reader reads as these values, or as nobody."""
    colors = [COLORS[name][value] for name, value in shown or ()]
    furthest = [max((color[at] for color in colors), key=lambda level: abs(level - 128)) for at in range(3) if colors]
    return Image.new("RGB", (side_px, side_px), tuple(furthest) or NOBODY)


class Tilted:
    """Shares pi_v w_v exp(tilt_v) for each concept, in which the weights w of before fade by ``answer`` a look."""

    def __init__(self, examples: Sequence[Example], tilt: Mapping[Cell, float], *, answer: float) -> None:
        self.cells = sorted({cell_of(example.labels) for example in examples})
        self.tilt_K = np.array([tilt.get(each, 0.0) for each in self.cells])
        self.answer = answer
        self.log_weights_K = np.zeros(len(self.cells))
        self.own: dict[str, np.ndarray] = {}
        for concept in sorted({example.concept for example in examples}):
            of = [cell_of(example.labels) for example in examples if example.concept == concept]
            self.own[concept] = np.array([of.count(each) / len(of) for each in self.cells])

    def learn(self, weights_K: np.ndarray) -> None:
        """Train on rows of these weights until the next look."""
        self.log_weights_K += self.answer * (np.log(weights_K) - self.log_weights_K)

    def shares(self, concept: str) -> np.ndarray:
        """The shares of the cells among pictures of a concept, as the training stands."""
        raw_K = self.own[concept] * np.exp(self.log_weights_K + self.tilt_K)
        return raw_K / raw_K.sum()

    def __call__(self, caption: str, seed: int) -> Cell:
        at = np.random.default_rng(seed).choice(len(self.cells), p=self.shares(caption))
        return self.cells[int(at)]


class Lines:
    """A tracker that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.lines.append((step, dict(metrics)))

    def close(self) -> None:
        pass


@dataclass
class Alone:
    """As much of an Accelerator as a calibration in one process uses."""

    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def planted(name: str = "colors", **changes: Any) -> Planted:
    """Reads what a square was painted as, and only the attributes that are in ``only``."""
    only = changes.pop("only", tuple(COLORS))
    good: dict[str, Any] = {"max_distance": FAR, "confusion": 0.0, "abstain": 0.0, "seed": 0}
    return Planted(name=name, colors={key: COLORS[key] for key in only}, **{**good, **changes})


def choice(**changes: Any) -> Calibration:
    """The choice, as a YAML would make it."""
    good: dict[str, Any] = {
        "reader": planted(),
        "evaluated_by": "another",
        "first_step": 2,
        "every_steps": 2,
        "num_images": 96,
        "batch_size": 8,
        "steps": 2,
        "guidance": 1.0,
        "size_px": None,
    }
    return Calibration(**{**good, **changes})


def loaded(
    shows: Shown,
    examples: Sequence[Example],
    tracker: Lines | None = None,
    *,
    accelerator: Any = None,
    seed: int = 0,
    **changes: Any,
) -> tuple[LoadedCalibration, World]:
    """A calibration of a training on these rows, and the world that it looks at."""
    world = World(shows)
    made = choice(**changes).load(
        world, examples, seed=seed, accelerator=accelerator or Alone(), tracker=tracker or Lines()
    )
    return made, world
