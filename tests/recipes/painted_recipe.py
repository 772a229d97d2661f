"""A recipe of the painted base, what it builds, and the truth about a picture from its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evenhand.evaluation.targets import Uniform
from evenhand.interfaces import SamplingSettings
from evenhand.processes import OneProcess
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.preserve import Preserve
from evenhand.recipes.self_generated import SelfGenerated
from evenhand.records import Attribute, Example
from tests.painted import PRESENTATIONS, SIZE_PX, PaintedBase, PaintedReader

CPU = torch.device("cpu")

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)

PRESERVE = Preserve(captions=("a car", "a female person"), images_per_caption=3, explicit=True, empty=2)


def recipe(base: PaintedBase, reader: Any = None, **changes: Any) -> SelfGenerated:
    arguments: dict[str, Any] = {
        "plan": CuratedPlan(
            attributes={"first": PRESENTATION},
            targets={"*": Uniform()},
            concepts=["mechanic", "nurse", "judge"],
            heldout=["pilot"],
            templates=["a portrait of {a_concept}", "{a_concept} at work", "a photo of {a_concept}"],
            images_per_concept=8,
            seed=3,
        ),
        "base": base,
        "reader": reader or PaintedReader(),
        "second_readers": {},
        "confirm": "all",
        "concept_attribute": "occupation",
        "filters": {},
        "sampling": SamplingSettings(steps=1, guidance=1.0, height_px=SIZE_PX, width_px=SIZE_PX),
        "batch_size": 7,
        "dtype": "float32",
        "max_attempts_factor": 20,
        "license": "cc0-1.0",
        "preserve": PRESERVE,
    }
    return SelfGenerated(**{**arguments, **changes})


def build(folder: Path, maker: SelfGenerated) -> list[Example]:
    rows = list(maker.build(folder, device=CPU, ranks=OneProcess()))
    write_metadata(folder, rows)
    return rows


def painted_presentation(path: Path) -> str:
    """The truth, from the pixels."""
    seen = Image.open(path).getpixel((SIZE_PX - 1, 0))
    return next(name for name, color in PRESENTATIONS.items() if color == seen)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
