"""Sets collected from painted pictures: the source, the recipe, and the truth about what was drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evenhand.evaluation.targets import Uniform
from evenhand.hygiene.images import ImageLimits
from evenhand.processes import OneProcess, Ranks
from evenhand.recipes.annotation import Captions
from evenhand.recipes.certificate import certify
from evenhand.recipes.collected import Collected
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.preserve import Preserve
from evenhand.records import Attribute, Example, SubjectReading
from evenhand.sources.columns import Columns
from evenhand.sources.folders import ImageFolder
from evenhand.sources.records import Source
from tests.painted import PaintedReader
from tests.pictures import painted, png

CPU = torch.device("cpu")

ALONE = OneProcess()

JOBS = ("mechanic", "nurse", "judge")

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)

LIMITS = ImageLimits(min_side_px=8, max_pixels=10_000, max_aspect=2.0, max_bytes=1 << 20)

COLUMNS = Columns(text="text", concept="job", labels={"presentation": "shown"}, license="license")


class OtherReader(PaintedReader):
    """A second reader, which sees a man wherever the number in the picture's corner is of one kind."""

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        found = super().read(images)
        for image, readings in zip(images, found, strict=True):
            red = image.getpixel((0, 0))[0]
            if red < 64 and readings[0].value == "woman":
                readings[0] = replace(readings[0], value="man")
        return found


def rows_of(number: int, *, women: float = 0.5) -> Iterator[tuple[dict[str, object], bytes]]:
    """Painted pictures of all jobs with their rows; the first of ten are women."""
    for each in range(number):
        job, shown = JOBS[each % 3], "woman" if each // 3 % 10 < women * 10 else "man"
        row = {"file_name": f"{job}/{each:03d}.png", "job": job, "shown": shown, "text": f"a {job} at a desk"}
        yield {**row, "license": "cc0-1.0"}, png(painted(job, shown, each))


def source_of(folder: Path, **changes: Any) -> ImageFolder:
    given = {"columns": COLUMNS, "concept": None, "license": "cc-by-4.0", "depicts": "other", "consent": None}
    return ImageFolder(folder=folder, **{"name": "photos", **given, **changes})


def plan_of(**changes: Any) -> CuratedPlan:
    given: dict[str, Any] = {
        "attributes": {"first": PRESENTATION},
        "targets": {"*": Uniform()},
        "concepts": list(JOBS),
        "heldout": ["electrician"],
        "templates": ["a portrait of {a_concept}", "{a_concept}"],
        "images_per_concept": 6,
        "seed": 0,
    }
    return CuratedPlan(**{**given, **changes})


def collected(*sources: Source, plan: CuratedPlan | None = None, **changes: Any) -> Collected:
    given: dict[str, Any] = {
        "reader": PaintedReader(),
        "second_readers": {},
        "labels_from": "readers",
        "concept_attribute": None,
        "filters": {},
        "captions": Captions(origin="templates", max_characters=100),
        "limits": LIMITS,
        "near_distance": None,
        "mode": "resample",
        "max_repeats": 1,
        "max_side_px": None,
        "block_size": 8,
        "preserve": Preserve(captions=(), images_per_caption=0, explicit=True, empty=2),
    }
    named = {str(number): source for number, source in enumerate(sources)}
    return Collected(plan=plan or plan_of(), sources=named, **{**given, **changes})


def build(folder: Path, recipe: Collected, ranks: Ranks = ALONE) -> list[Example]:
    return list(recipe.build(folder, device=CPU, ranks=ranks))


def certified(folder: Path, recipe: Collected) -> dict[str, Any]:
    write_metadata(folder, build(folder, recipe))
    return certify(folder, recipe.plan, recipe.origin, recipe.account(folder))


def contents(folder: Path) -> dict[str, bytes]:
    """The set's own files."""
    files = sorted(path for part in ("train", "preserve") for path in (folder / part).glob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def truth(folder: Path, photos: Path) -> dict[str, str]:
    """For each picture of a set what was painted, found by its pixels among those of the source."""
    shown = {}
    for line in (photos / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        with Image.open(photos / row["file_name"]) as image:
            shown[np.asarray(image.convert("RGB")).tobytes()] = f"{row['job']} {row['shown']}"
    found = {}
    for path in sorted((folder / "train").glob("*.png")):
        with Image.open(path) as image:
            found[path.name] = shown[np.asarray(image).tobytes()]
    return found
