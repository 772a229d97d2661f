"""A curated set of noise images with both parts, its certificate and its card, made without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evenhand.evaluation.targets import Uniform
from evenhand.files import read_jsonl, write_json_atomic, write_jsonl_atomic, write_text_atomic
from evenhand.recipes.card import CARD, dataset_card
from evenhand.recipes.certificate import CERTIFICATE, certify
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import Origin, explicit_row, request_row, train_row, write_metadata
from evenhand.recipes.preserve import Request
from evenhand.recipes.report import BuildAccount
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
ORIGIN = Origin(source="self:painted", confirmed_by="painted_reader", license="cc0-1.0")


def plan(target: Any = None, **changes: Any) -> CuratedPlan:
    """Two concepts with five images each."""
    choices: dict[str, Any] = {
        "attributes": {"first": PRESENTATION},
        "targets": {"*": target or Uniform()},
        "concepts": ["mechanic", "nurse"],
        "heldout": ["pilot"],
        "templates": ["a portrait of {a_concept}"],
        "images_per_concept": 5,
        "seed": 0,
    }
    return CuratedPlan(**{**choices, **changes})


def noise(path: Path, seed: int) -> None:
    """An image that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def make_set(folder: Path, *, wanted: CuratedPlan | None = None, origin: Origin = ORIGIN) -> CuratedPlan:
    """Images and rows of ten training images, the same with explicit captions, and three that nobody labelled."""
    chosen = wanted or plan()
    train = [train_row(slot, origin, seed=slot.index) for slot in chosen.slots]
    explicit = [explicit_row(row, slot) for row, slot in zip(train, chosen.slots, strict=True)]
    asked = [Request(caption=caption, number=0) for caption in ("a car", "a cup", "")]
    others = [
        request_row(request, origin, index=number, seed=number)
        for number, request in enumerate(asked, start=len(explicit))
    ]
    rows = [*train, *explicit, *others]
    for row in rows:
        noise(folder / row.file_name, row.seed)
    write_metadata(folder, rows)
    return chosen


def certified_set(
    folder: Path, *, wanted: CuratedPlan | None = None, origin: Origin = ORIGIN, account: BuildAccount | None = None
) -> dict[str, Any]:
    """A set as ``data_recipes/build.py`` leaves it; gives its certificate."""
    chosen = make_set(folder, wanted=wanted, origin=origin)
    certificate = certify(folder, chosen, origin, account)
    write_json_atomic(folder / CERTIFICATE, certificate)
    write_text_atomic(folder / CARD, dataset_card(certificate))
    return certificate


def change_row(folder: Path, index: int, **changes: Any) -> None:
    """Change a row of ``train/``."""
    path = folder / "train" / "metadata.jsonl"
    rows = read_jsonl(path)
    rows[index].update(changes)
    write_jsonl_atomic(path, rows)
