"""The files that the stages of an evaluation hand to each other: images, readings, similarities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.evaluation.plan import Plan
from evenhand.files import read_jsonl
from evenhand.records import ImageRecord, Prompt, Reading

IMAGES_FILE = "images.jsonl"
READINGS_FILE = "readings.jsonl"
SIMILARITIES_FILE = "similarities.jsonl"

ImageKey = tuple[str, str, int]  # arm, prompt id, seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """How alike the two arms' images of one (prompt, seed) are, 1 when identical.

    ``yardstick`` is the same for the base's images of two seeds: what different pictures of a prompt have in common.
    """

    prompt_id: str
    seed: int
    measure: str
    value: float
    yardstick: float | None


def image_path(arm: str, prompt_id: str, seed: int) -> str:
    """Where an image lies in its evaluation folder."""
    return f"images/{arm}/{prompt_id}/{seed}.png"


def image_key(record: ImageRecord) -> ImageKey:
    """What a record is told apart by."""
    return record.arm, record.prompt_id, record.seed


def planned_images(plan: Plan, arm: str) -> list[tuple[Prompt, int]]:
    """Every (prompt, seed) of an arm, in the order that batches are cut from."""
    assert plan.generation is not None
    return [(prompt, seed) for prompt in plan.prompts for seed in plan.generation.seeds[prompt.id]]


def load_images(folder: Path) -> dict[ImageKey, ImageRecord]:
    """The image records of a folder, those of unfinished ranks included; a later row replaces an earlier one."""
    records = (ImageRecord(**row) for path in sorted(folder.glob("images*.jsonl")) for row in read_jsonl(path))
    return {image_key(record): record for record in records}


def load_readings(folder: Path) -> list[Reading]:
    """The readings of a folder; ValueError when there is none, or a row is not a reading."""
    path = folder / READINGS_FILE
    rows = read_jsonl(path)
    if not rows:
        raise ValueError(f"{path}: no readings; run evaluate/read.py first, or put another tool's readings there")
    return list(_readings(rows, path))


def _readings(rows: list[dict[str, Any]], path: Path) -> Iterator[Reading]:  # Any: JSON
    for number, row in enumerate(rows, start=1):
        try:
            probs = row.get("probs")
            yield Reading(**{**row, "probs": None if probs is None else tuple(probs)})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} line {number}: {error}") from error


def load_similarities(folder: Path) -> list[Similarity]:
    """The pair similarities of a folder; none where the images were not compared."""
    return [Similarity(**row) for row in read_jsonl(folder / SIMILARITIES_FILE)]


def reading_probs(probs: tuple[float, ...] | None) -> Mapping[str, Any]:  # Any: JSON
    """The ``probs`` field of a reading's row, rounded: the seventh digit depends on the batch and on the machine."""
    return {"probs": None if probs is None else [round(value, 6) for value in probs]}
