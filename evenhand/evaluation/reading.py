"""Reads the images of an evaluation folder: readings.jsonl, and how alike the unrelated pairs are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    all_arms,
    image_key,
    known_images,
    load_images,
    planned_images,
    reading_probs,
    rounds,
)
from evenhand.evaluation.plan import Plan
from evenhand.files import append_jsonl, read_jsonl, sha256_file, write_jsonl_atomic
from evenhand.interfaces import LoadedReader
from evenhand.records import ImageRecord

log = logging.getLogger(__name__)

PARTIAL_FILE = "readings.partial.{reader}.jsonl"
UNRELATED_SUITE = "unrelated"
PIXEL_MEASURE = "1 - RMS pixel difference"
PIXEL_MAX = 255.0


def read_images(
    plan: Plan,
    folder: Path,
    reader: LoadedReader,
    *,
    reader_name: str,
    batch_size: int,
    arms: Sequence[str] | None = None,
    num_rounds: int | None = None,
) -> int:
    """Add a reader's lines to ``readings.jsonl``, once every image is read; how many images this call read.

    ValueError when an image of the first ``num_rounds`` rounds (None: all) of ``arms`` (None: all) is missing. What a
    killed call has read lies in a partial file of the reader. Whole batches of a fixed list are read, so that a resumed
    reading writes the same bytes as one that was not killed. Lines of other readers stay as they are.
    """
    records = known_images(plan, folder, arms=arms, num_rounds=num_rounds)
    path, partial_path = folder / READINGS_FILE, folder / PARTIAL_FILE.format(reader=reader_name)
    written = read_jsonl(path)
    rows_of = _by_image(row for row in written if row["reader"] == reader_name)
    partial = read_jsonl(partial_path)
    # A kill can tear the last batch that was written, so its last image is read again.
    torn = _row_key(partial[-1]) if partial and _row_key(partial[-1]) not in rows_of else None
    rows_of = {**_by_image(partial), **rows_of}
    todo = [chunk for chunk in _chunks(plan, records, batch_size) if not _is_done(chunk, rows_of, torn)]
    for chunk in tqdm(todo, desc=f"readings of {reader_name}", unit="batch", disable=not todo):
        new = list(_read_chunk(chunk, folder, reader, reader_name))
        append_jsonl(partial_path, new)
        rows_of.update(_by_image(new))
    if todo or partial:
        own = [row for record in records for row in rows_of[image_key(record)]]
        write_jsonl_atomic(path, _ordered(plan, [*own, *(row for row in written if row["reader"] != reader_name)]))
    partial_path.unlink(missing_ok=True)
    return sum(len(chunk) for chunk in todo)


def _by_image(rows: Iterable[dict[str, Any]]) -> dict[ImageKey, list[dict[str, Any]]]:  # Any: rows of readings.jsonl
    """The rows of each image, one for each subject and attribute also where a kill had it read twice."""
    found: dict[ImageKey, dict[tuple[int, str], dict[str, Any]]] = {}  # Any: rows of readings.jsonl
    for row in rows:
        found.setdefault(_row_key(row), {})[row["subject"], row["attribute"]] = row
    return {key: list(entries.values()) for key, entries in found.items()}


def _chunks(plan: Plan, records: Sequence[ImageRecord], batch_size: int) -> list[list[ImageRecord]]:
    """Batches to read, none of which spans two arms or rounds: what was read in an earlier round stays one."""
    if plan.generation is None:
        return [list(records[start : start + batch_size]) for start in range(0, len(records), batch_size)]
    known = {image_key(record): record for record in records}
    parts = [
        [known[arm, prompt.id, seed] for prompt, seed in images if (arm, prompt.id, seed) in known]
        for arm in all_arms(plan)
        for images in rounds(plan, arm)
    ]
    return [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]


def _is_done(chunk: Sequence[ImageRecord], rows_of: Mapping[ImageKey, object], torn: ImageKey | None) -> bool:
    keys = [image_key(record) for record in chunk]
    return all(key in rows_of for key in keys) and torn not in keys


def _row_key(row: dict[str, Any]) -> ImageKey:  # Any: a row of readings.jsonl
    return row["arm"], row["prompt_id"], row["seed"]


def _ordered(plan: Plan, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:  # Any: rows of readings.jsonl
    """Rows by reader: the plan's first, then those it names beside it, then others by name."""
    first = [name for name in (plan.reader, *plan.second_readers) if name is not None]
    names = dict.fromkeys([*first, *sorted({row["reader"] for row in rows})])
    return [row for name in names for row in rows if row["reader"] == name]


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


def compare_unrelated(plan: Plan, folder: Path, *, num_rounds: int | None = None) -> list[Similarity]:
    """Write and return the same-seed similarity of the arms on every prompt of the unrelated suite."""
    known = load_images(folder)
    if plan.generation is None:
        planned = [(prompt_id, seed) for arm, prompt_id, seed in known if arm == plan.arms[0]]
    else:
        planned = [(prompt.id, seed) for prompt, seed in planned_images(plan, plan.arms[0], num_rounds=num_rounds)]
    rows = []
    for prompt in plan.in_suite(UNRELATED_SUITE):
        seeds = [seed for name, seed in planned if name == prompt.id and (plan.arms[1], name, seed) in known]
        base, adapted = ([_open(known[arm, prompt.id, seed], folder) for seed in seeds] for arm in plan.arms)
        for index, seed in enumerate(seeds):
            neighbour = pixel_similarity(base[index], base[index - 1]) if len(seeds) > 1 else None
            value = pixel_similarity(base[index], adapted[index])
            rows.append(
                Similarity(prompt_id=prompt.id, seed=seed, measure=PIXEL_MEASURE, value=value, yardstick=neighbour)
            )
    write_jsonl_atomic(folder / SIMILARITIES_FILE, (asdict(row) for row in rows))
    return rows
