"""A curated set on disk: ``train/`` and ``preserve/``, each an image folder with its ``metadata.jsonl``.

Images are numbered, not named: plain ``datasets`` takes words such as "test" in a file name for a split.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evenhand.files import atomic_path, write_jsonl_atomic
from evenhand.interfaces import Recipe
from evenhand.recipes.curated_plan import CuratedPlan, Slot
from evenhand.recipes.preserve import Request
from evenhand.recipes.report import BuildAccount
from evenhand.records import Example

if TYPE_CHECKING:
    from PIL import Image

TRAIN = "train"
PRESERVE = "preserve"
METADATA = "metadata.jsonl"
HALF_WRITTEN = ".*.tmp.*"  # the temporary names of `evenhand.files.atomic_path`


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a set's images come from. ``confirmed_by`` names the reader whose word the labels are, None for a truth."""

    source: str
    confirmed_by: str | None
    license: str

    def __post_init__(self) -> None:
        if not self.license.strip():
            raise ValueError("license is empty; name the licence of the set's images (recipe.license)")


class CuratedRecipe(Recipe, Protocol):
    """A recipe whose set is planned beforehand, so that it can be certified.

    ``inputs`` are the files and folders on this machine that decide the images.
    """

    plan: CuratedPlan
    origin: Origin
    inputs: Mapping[str, Path]

    def check(self, folder: Path) -> None:
        """Raise ValueError for what can be known to be wrong before a model is loaded or anything written.

        Sources that are not there, captions that the base would cut off, a disk without room. Every rank calls it.
        """

    def account(self, folder: Path) -> BuildAccount:
        """What the finished build in ``folder`` tries, leaves out and notes, read from its files."""


def image_name(folder: str, index: int) -> str:
    """An image's place in the set: ``train/000007.png``."""
    return f"{folder}/{index:06d}.png"


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG so that a kill leaves the whole file or none."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def train_row(slot: Slot, origin: Origin, *, seed: int) -> Example:
    """The row of a slot's image: its neutral caption, the labels that it does not name, and the caption that does."""
    return Example(
        file_name=image_name(TRAIN, slot.index),
        text=slot.neutral,
        concept=slot.concept,
        labels=dict(slot.labels),
        template=slot.template,
        source=origin.source,
        seed=seed,
        license=origin.license,
        explicit=slot.explicit,
    )


def explicit_row(row: Example, slot: Slot) -> Example:
    """The row of the same image in ``preserve/``, under the caption that names its labels."""
    return replace(row, file_name=image_name(PRESERVE, slot.index), text=slot.explicit, explicit="")


def request_row(request: Request, origin: Origin, *, index: int, seed: int) -> Example:
    """The row of an image of ``preserve/`` that no reader has labelled."""
    return Example(
        file_name=image_name(PRESERVE, index),
        text=request.caption,
        concept=request.concept,
        labels={},
        template=request.template or request.caption,
        source=origin.source,
        seed=seed,
        license=origin.license,
    )


def place_again(folder: Path, existing: str, name: str) -> None:
    """Give an image of the set a second place: a hard link where the file system has them, else a copy."""
    path = folder / name
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(folder / existing, path)
        return
    with atomic_path(path) as temporary:
        shutil.copyfile(folder / existing, temporary)


def write_metadata(folder: Path, rows: Iterable[Example]) -> None:
    """Write each part's ``metadata.jsonl``, sorted by file name, atomically; nobody may still be writing images.

    Files that a kill left half written are removed: they are no part of the set.
    """
    for place in (folder, folder / TRAIN, folder / PRESERVE):
        for leftover in place.glob(HALF_WRITTEN):
            leftover.unlink()
    parts: dict[str, list[Example]] = {}
    for row in rows:
        part, _, name = row.file_name.partition("/")
        parts.setdefault(part, []).append(replace(row, file_name=name))
    for part, members in parts.items():
        write_jsonl_atomic(folder / part / METADATA, sorted(members, key=attrgetter("file_name")))


def explicit_rows(folder: Path, plan: CuratedPlan, rows: Mapping[int, Example]) -> Iterator[Example]:
    """Place training images again under their explicit captions; ``rows`` are the training rows by slot index."""
    for index, train in rows.items():
        row = explicit_row(train, plan.slots[index])
        place_again(folder, train.file_name, row.file_name)
        yield row
