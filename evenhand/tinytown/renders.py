"""Renders the training pictures of tinytown once: pixels as one uint8 array, captions and answers as jsonl."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evenhand.tinytown.world import tinytown

# Held-out pictures have seeds that training never sees.
HELDOUT_SEED = 10_000_000
ROWS_PER_JOB = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRow:
    """The caption of a picture, what it shows, and the answers of the reader heads that apply to it."""

    text: str
    concept: str
    answers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renders:
    """``pixels_BHWC`` is uint8, memory-mapped; ``rows`` are in the same order."""

    pixels_BHWC: npt.NDArray[np.uint8]
    rows: tuple[RenderRow, ...]


def _render_job(job: tuple[bool, Sequence[int]]) -> tuple[npt.NDArray[np.uint8], list[dict[str, object]]]:
    balanced, seeds = job
    world = tinytown()
    samples = [world.sample_balanced(seed) if balanced else world.sample(seed) for seed in seeds]
    pixels = np.stack([np.asarray(world.render(sample.scene)) for sample in samples])
    rows: list[dict[str, object]] = [
        {"text": sample.text, "concept": sample.scene.concept, "answers": world.head_labels(sample.scene)}
        for sample in samples
    ]
    return pixels, rows


def render_samples(
    folder: Path, *, num_images: int, balanced: bool, first_seed: int = 0, num_workers: int = 2
) -> Renders:
    """The pictures of seeds ``first_seed ...``, rendered into ``folder`` unless they are there already.

    ``balanced`` chooses :meth:`World.sample_balanced` (for readers) instead of :meth:`World.sample` (for the base).
    """
    size = tinytown().size_px
    pixels_path, rows_path = folder / "pixels.npy", folder / "rows.jsonl"
    if not rows_path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.lib.format.open_memmap(pixels_path, mode="w+", dtype=np.uint8, shape=(num_images, size, size, 3))
        seeds = range(first_seed, first_seed + num_images)
        jobs = [(balanced, seeds[start : start + ROWS_PER_JOB]) for start in range(0, num_images, ROWS_PER_JOB)]
        lines: list[str] = []
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            for index, (chunk, chunk_rows) in enumerate(pool.imap(_render_job, jobs)):
                pixels[index * ROWS_PER_JOB : index * ROWS_PER_JOB + len(chunk)] = chunk
                lines += [json.dumps(row) for row in chunk_rows]
        pixels.flush()
        # The rows are written last: their file says that the pixels are complete.
        temporary = rows_path.with_suffix(".tmp")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(rows_path)
    rows = tuple(RenderRow(**json.loads(line)) for line in rows_path.read_text(encoding="utf-8").splitlines())
    if len(rows) != num_images:
        raise ValueError(
            f"{rows_path} holds {len(rows)} pictures, not {num_images}; delete {folder} to render them again"
        )
    return Renders(pixels_BHWC=np.load(pixels_path, mmap_mode="r"), rows=rows)
