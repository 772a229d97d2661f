"""Reads the images of an evaluation folder: readings.jsonl, and how alike the unrelated pairs are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from evenhand.evaluation.folder import (
    READINGS_FILE,
    SIMILARITIES_FILE,
    ImageKey,
    Similarity,
    image_key,
    load_images,
    planned_images,
    reading_probs,
)
from evenhand.evaluation.plan import Plan
from evenhand.files import append_jsonl, read_jsonl, sha256_file, write_jsonl_atomic
from evenhand.interfaces import LoadedReader
from evenhand.records import ImageRecord

log = logging.getLogger(__name__)

PARTIAL_FILE = "readings.partial.jsonl"
UNRELATED_SUITE = "unrelated"
PIXEL_MEASURE = "1 - RMS pixel difference"
PIXEL_MAX = 255.0


def read_images(plan: Plan, folder: Path, reader: LoadedReader, *, reader_name: str, batch_size: int) -> int:
    """Write ``readings.jsonl``, once every planned image is read; how many images this call read.

    What a killed call has read lies in ``readings.partial.jsonl``. Whole batches of a fixed list are read, so that a
    resumed reading writes the same bytes as one that was not killed.
    """
    records = _records(plan, folder)
    path = folder / READINGS_FILE
    if {_row_key(row) for row in read_jsonl(path) if row["reader"] == reader_name} == set(map(image_key, records)):
        return 0
    chunks = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    partial_path = folder / PARTIAL_FILE
    rows_of: dict[ImageKey, list[dict[str, Any]]] = {}  # Any: rows of readings.jsonl
    rows = [row for row in read_jsonl(partial_path) if row["reader"] == reader_name]
    for row in rows:
        rows_of.setdefault(_row_key(row), []).append(row)
    # A kill can tear the last batch that was written, so that one is read again.
    torn = _row_key(rows[-1]) if rows else None
    todo = [chunk for chunk in chunks if not _is_done(chunk, rows_of, torn)]
    for chunk in tqdm(todo, desc="readings", unit="batch", disable=not todo):
        new = list(_read_chunk(chunk, folder, reader, reader_name))
        append_jsonl(partial_path, new)
        for record in chunk:
            rows_of[image_key(record)] = [row for row in new if _row_key(row) == image_key(record)]
    write_jsonl_atomic(path, (row for record in records for row in rows_of[image_key(record)]))
    partial_path.unlink(missing_ok=True)
    return sum(len(chunk) for chunk in todo)


def _is_done(chunk: Sequence[ImageRecord], rows_of: Mapping[ImageKey, object], torn: ImageKey | None) -> bool:
    keys = [image_key(record) for record in chunk]
    return all(key in rows_of for key in keys) and torn not in keys


def _row_key(row: dict[str, Any]) -> ImageKey:  # Any: a row of readings.jsonl
    return row["arm"], row["prompt_id"], row["seed"]


def _records(plan: Plan, folder: Path) -> list[ImageRecord]:
    known = load_images(folder)
    keys = [(arm, prompt.id, seed) for arm in plan.arms for prompt, seed in planned_images(plan, arm)]
    missing = [key for key in keys if key not in known]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} images are missing, the first is {missing[0]}; generate them first")
    return [known[key] for key in keys]


def _open(record: ImageRecord, folder: Path) -> Image.Image:
    path = folder / record.path
    if sha256_file(path) != record.sha256:
        raise ValueError(f"{path} is not the image that was generated; delete it and generate again")
    with Image.open(path) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb


def _read_chunk(
    chunk: Sequence[ImageRecord], folder: Path, reader: LoadedReader, reader_name: str
) -> Iterator[dict[str, Any]]:  # Any: rows of readings.jsonl
    images = [_open(record, folder) for record in chunk]
    for record, subjects in zip(chunk, reader.read(images), strict=True):
        for subject in subjects:
            yield {
                "prompt_id": record.prompt_id,
                "seed": record.seed,
                "arm": record.arm,
                "subject": subject.subject,
                "reader": reader_name,
                "attribute": subject.attribute,
                "value": subject.value,
                **reading_probs(subject.probs),
                "unread": subject.unread,
            }


def pixel_similarity(one: Image.Image, other: Image.Image) -> float:
    """One minus the root mean squared difference of the pixels on a scale of 0 to 1."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return 1.0 - float(np.sqrt(np.mean((difference / PIXEL_MAX) ** 2)))


def compare_unrelated(plan: Plan, folder: Path) -> list[Similarity]:
    """Write and return the same-seed similarity of the arms on every prompt of the unrelated suite."""
    known = load_images(folder)
    assert plan.generation is not None
    rows = []
    for prompt in plan.in_suite(UNRELATED_SUITE):
        seeds = plan.generation.seeds[prompt.id]
        base, adapted = ([_open(known[arm, prompt.id, seed], folder) for seed in seeds] for arm in plan.arms)
        for index, seed in enumerate(seeds):
            neighbour = pixel_similarity(base[index], base[index - 1]) if len(seeds) > 1 else None
            value = pixel_similarity(base[index], adapted[index])
            rows.append(
                Similarity(prompt_id=prompt.id, seed=seed, measure=PIXEL_MEASURE, value=value, yardstick=neighbour)
            )
    write_jsonl_atomic(folder / SIMILARITIES_FILE, (asdict(row) for row in rows))
    return rows
