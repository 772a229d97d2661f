"""The files that the stages of an evaluation hand to each other: images, readings, similarities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.evaluation.plan import Plan
from evenhand.files import read_jsonl
from evenhand.records import ImageRecord, Prompt, Reading

IMAGES_FILE = "images.jsonl"
READINGS_FILE = "readings.jsonl"
SIMILARITIES_FILE = "similarities.jsonl"
SEQUENTIAL_FILE = "sequential.jsonl"

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


def rounds(plan: Plan, arm: str) -> list[list[tuple[Prompt, int]]]:
    """Every (prompt, seed) of an arm in rounds, in the order that batches are cut from; no batch spans two rounds.

    A plan that is not sequential has one round, prompt by prompt. In a sequential one, round i has the seed of index i
    of every prompt that has one. A dose arm has the first seeds of the primary prompts only.
    """
    assert plan.generation is not None
    prompts, most = plan.prompts, None
    if arm not in plan.arms:
        assert plan.dose is not None
        prompts, most = plan.in_suite(plan.primary.suite), plan.dose.num_seeds
    seeds = {prompt.id: plan.generation.seeds[prompt.id][:most] for prompt in prompts}
    if plan.sequential is None:
        return [[(prompt, seed) for prompt in prompts for seed in seeds[prompt.id]]]
    return [
        [(prompt, seeds[prompt.id][index]) for prompt in prompts if index < len(seeds[prompt.id])]
        for index in range(max(map(len, seeds.values())))
    ]


def planned_images(plan: Plan, arm: str, *, num_rounds: int | None = None) -> list[tuple[Prompt, int]]:
    """Every (prompt, seed) of an arm in its first ``num_rounds`` rounds, or in all."""
    return [image for images in rounds(plan, arm)[:num_rounds] for image in images]


def all_arms(plan: Plan) -> tuple[str, ...]:
    """The pair of arms, then those of the dose."""
    return (*plan.arms, *plan.dose_arms)


def rounds_made(plan: Plan, folder: Path) -> int | None:
    """After how many rounds a sequential run has stopped, or stands; None for all rounds of a plan that is not one."""
    if plan.sequential is None:
        return None
    return max((row["round"] for row in read_jsonl(folder / SEQUENTIAL_FILE)), default=0)


def known_images(
    plan: Plan, folder: Path, *, arms: Sequence[str] | None = None, num_rounds: int | None = None
) -> list[ImageRecord]:
    """The images of a folder in plan order; those of another tool, whose plan says nothing of generation, in their own.

    Raises ValueError when one of the first ``num_rounds`` rounds (None: all) of these ``arms`` (None: all) is missing.
    """
    known = load_images(folder)
    if plan.generation is None:
        return list(known.values())
    needed = [
        (arm, prompt.id, seed)
        for arm in (all_arms(plan) if arms is None else arms)
        for prompt, seed in planned_images(plan, arm, num_rounds=num_rounds)
    ]
    missing = [key for key in needed if key not in known]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} images are missing, the first is {missing[0]}; generate them first")
    keys = [(arm, prompt.id, seed) for arm in all_arms(plan) for prompt, seed in planned_images(plan, arm)]
    return [known[key] for key in keys if key in known]


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


def refuse_copied_images(folder: Path) -> None:
    """Raise ValueError where one image is counted twice: same file and starting noise, but recorded under two seeds."""
    seen: dict[tuple[str, str, str, str], int] = {}
    for record in load_images(folder).values():
        if not record.noise_sha256:
            continue  # another tool's: without it, equal images may be what an adapter makes of all noise
        seed = seen.setdefault((record.arm, record.prompt_id, record.sha256, record.noise_sha256), record.seed)
        if seed != record.seed:
            raise ValueError(
                f"{folder / IMAGES_FILE}: arm {record.arm}, prompt {record.prompt_id}: seeds {seed} and {record.seed} "
                "are the same image from the same noise; keep one, a copy is no second observation"
            )


def load_similarities(folder: Path) -> list[Similarity]:
    """The pair similarities of a folder; none where the images were not compared."""
    return [Similarity(**row) for row in read_jsonl(folder / SIMILARITIES_FILE)]


def reading_probs(probs: tuple[float, ...] | None) -> Mapping[str, Any]:  # Any: JSON
    """The ``probs`` field of a reading's row, rounded: the seventh digit depends on the batch and on the machine."""
    return {"probs": None if probs is None else [round(value, 6) for value in probs]}
