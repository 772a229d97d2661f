"""The rows of a curated set on disk, and what can be wrong with them, found before a model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evenhand.data.images import ImageFile, open_images
from evenhand.files import read_jsonl
from evenhand.interfaces import Base
from evenhand.records import Example

METADATA_NAME = "metadata.jsonl"
TRAIN = "train"
COLUMNS = tuple(field.name for field in dataclasses.fields(Example))
OPTIONAL = ("explicit",)
TEXT_COLUMNS = ("file_name", "text", "concept", "explicit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of a curated set, ``train`` or ``preserve``, whose images were opened: row i has image i."""

    name: str
    folder: Path
    examples: tuple[Example, ...]
    images: tuple[ImageFile, ...]

    def __len__(self) -> int:
        return len(self.examples)


def read_split(data: Path, split: str) -> Split:
    """A part of a curated set; ValueError names the row or the image that cannot be used."""
    examples = read_examples(data, split)
    folder = data / split
    images = open_images([folder / example.file_name for example in examples])
    return Split(name=split, folder=folder, examples=examples, images=images)


def read_examples(data: Path, split: str) -> tuple[Example, ...]:
    """The rows of ``<data>/<split>/metadata.jsonl``.

    ValueError names the line that lacks a column or an image, has a column that nothing reads, or, among the rows to be
    trained on, no caption.
    """
    path = data / split / METADATA_NAME
    if (path.parent / "captions.jsonl").is_file() and not path.is_file():
        raise ValueError(
            f"curated set {data} holds captions without images (recipe=captions_only), and training needs images: "
            "build it with another recipe of conf/recipe"
        )
    if not path.is_file():
        raise ValueError(f"curated set {data} has no {split}/{METADATA_NAME} (data=<folder that build.py wrote>)")
    examples = []
    for number, row in enumerate(read_jsonl(path), start=1):
        where = f"{path} line {number}"
        _check_columns(row, where)
        example = Example(**{column: row[column] for column in COLUMNS if column in row})
        if not (path.parent / example.file_name).is_file():
            raise ValueError(f"{where}: image {example.file_name} does not exist (restore it, or remove the row)")
        if split == TRAIN and not example.text.strip():
            raise ValueError(
                f"{where}: the caption (text) of {example.file_name} is empty; write one, or remove the row "
                "(train.caption_dropout shows empty captions)"
            )
        examples.append(example)
    if not examples:
        raise ValueError(f"{path} holds no rows (build the set again with data_recipes/build.py)")
    return tuple(examples)


def _check_columns(row: Mapping[str, object], where: str) -> None:
    missing = [column for column in COLUMNS if column not in row and column not in OPTIONAL]
    unknown = [column for column in row if column not in COLUMNS]
    if missing:
        has = f"; it has {', '.join(unknown)}, which nothing reads: rename it?" if unknown else ""
        raise ValueError(f"{where} lacks {', '.join(missing)}{has}")
    if unknown:
        raise ValueError(
            f"{where} has {', '.join(unknown)}, which nothing reads; remove it (columns are {', '.join(COLUMNS)})"
        )
    for column in TEXT_COLUMNS:
        if not isinstance(row.get(column, ""), str):
            raise ValueError(f"{where}: {column} must be text, got {row[column]!r}")


def check_split(split: Split, *, base: Base, num_processes: int) -> None:
    """Raise ValueError for captions that the base would cut off, and for more processes than rows to share.

    Of the base only its tokenizers are loaded.
    """
    path = split.folder / METADATA_NAME
    if num_processes > len(split):
        raise ValueError(
            f"{path} has {len(split)} rows, fewer than the {num_processes} processes that would share them: "
            f"start at most {len(split)} processes, or build a larger set"
        )
    base.check_captions(sorted({example.text for example in split.examples}), where=str(path))


def check_labels(split: Split) -> None:
    """Raise ValueError unless all rows have labels of the same attributes, with whose values noise is coupled."""
    path, first = split.folder / METADATA_NAME, split.examples[0]
    for example in split.examples:
        if not example.labels or sorted(example.labels) != sorted(first.labels):
            raise ValueError(
                f"{path}: row {example.file_name} has labels of {', '.join(sorted(example.labels)) or 'nothing'}, and "
                f"{first.file_name} of {', '.join(sorted(first.labels)) or 'nothing'}: noise is coupled with values, "
                "which all rows then need; write them, or set method.coupled_noise=false"
            )


def check_explicit(split: Split, *, base: Base, method: str) -> None:
    """Raise ValueError unless each row has an explicit caption, and the base reads it whole.

    Of the base only its tokenizers are loaded.
    """
    path = split.folder / METADATA_NAME
    without = [example.file_name for example in split.examples if not example.explicit.strip()]
    if without:
        raise ValueError(
            f"{path}: {len(without)} of {len(split)} rows lack explicit, the caption that names what the image shows "
            f"(first {without[0]}), and method={method} needs it: build the set again with data_recipes/build.py, "
            "write the column, or train with method=curated"
        )
    base.check_captions(sorted({example.explicit for example in split.examples}), where=str(path))
