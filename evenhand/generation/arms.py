"""Images for the arms of a plan, resumable after a kill at any moment, the same whatever the number of processes.

Batches are cut once from the plan's list of (prompt, seed), for both arms alike: the last bits of an image depend on
the others of its batch. So an image that is missing has its whole batch made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from evenhand.evaluation.folder import (
    IMAGES_FILE,
    all_arms,
    image_key,
    image_path,
    known_images,
    load_images,
    rounds,
)
from evenhand.evaluation.plan import Plan
from evenhand.files import append_jsonl, atomic_path, sha256_file, write_jsonl_atomic
from evenhand.generation import base_arms
from evenhand.generation.adapter_arm import AdapterArm
from evenhand.generation.second_arm import Maker, SecondArm, plain_maker
from evenhand.interfaces import GeneratedImage, LoadedBase
from evenhand.records import ImageRecord, Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """One call of the sampler."""

    index: int
    images: tuple[tuple[Prompt, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be made, and where; the same for every process.

    ``cache`` is the cache folder, which keeps the images of the unmodified base for the evaluation of other adapters.
    ``arm`` is what the second arm is made with; None: the ``adapter`` of a file.
    """

    plan: Plan
    folder: Path
    adapter: Path | None = None
    check_base: bool = True
    cache: Path | None = None
    arm: SecondArm | None = None

    @property
    def second_arm(self) -> SecondArm:
        """What the second arm is made with."""
        if self.arm is not None:
            return self.arm
        assert self.adapter is not None, "work needs an arm or an adapter"
        return AdapterArm(path=self.adapter, check_base=self.check_base)


def batches(plan: Plan, arm: str, *, num_rounds: int | None = None) -> list[ImageBatch]:
    """The batches of an arm's first ``num_rounds`` rounds, or of all; both arms of the pair have the same."""
    assert plan.generation is not None
    size = plan.generation.batch_size
    cut = [
        tuple(images[start : start + size])
        for images in rounds(plan, arm)[:num_rounds]
        for start in range(0, len(images), size)
    ]
    return [ImageBatch(index=index, images=images) for index, images in enumerate(cut)]


def unfinished_batches(plan: Plan, folder: Path, arm: str, *, num_rounds: int | None = None) -> list[ImageBatch]:
    """The batches of which an image is missing, or is not the one that was recorded."""
    known = load_images(folder)

    def is_there(prompt: Prompt, seed: int) -> bool:
        record = known.get((arm, prompt.id, seed))
        path = folder / image_path(arm, prompt.id, seed)
        return record is not None and path.is_file() and sha256_file(path) == record.sha256

    return [
        batch
        for batch in batches(plan, arm, num_rounds=num_rounds)
        if not all(is_there(*image) for image in batch.images)
    ]


def adapter_scale(plan: Plan, arm: str) -> float:
    """The scale of the adapter in an arm, 0 in the base's; ValueError for an arm that is not in the plan."""
    assert plan.generation is not None
    base_arm, adapted_arm = plan.arms
    scales = {base_arm: 0.0, adapted_arm: plan.generation.adapter_scale, **plan.dose_arms}
    if arm not in scales:
        raise ValueError(f"arm {arm!r} is not in the plan, which has {', '.join(scales)}")
    return scales[arm]


def generate_arm(
    work: Work,
    base: LoadedBase,
    *,
    arm: str,
    make: Maker | None = None,
    num_rounds: int | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> int:
    """Make this rank's missing images of an arm with ``make``; how many were made.

    Without it they are made with the base and the adapter as it stands there. Images of the base arm come from the
    cache where they are there, and go to it where they are not.
    """
    adapter_scale(work.plan, arm)
    unfinished = unfinished_batches(work.plan, work.folder, arm, num_rounds=num_rounds)
    todo = [batch for batch in unfinished if batch.index % num_ranks == rank]
    cache = work.cache if arm == work.plan.arms[0] else None
    records_path = work.folder / (IMAGES_FILE if rank == 0 else f"images.rank{rank}.jsonl")
    log.info("arm %s: %d batches to make", arm, len(todo))
    make = plain_maker(base, work.plan) if make is None else make
    num_made = 0
    for batch in tqdm(todo, desc=f"images of {arm}", unit="batch", disable=rank != 0 or not todo):
        records = None if cache is None else _cached(work, cache, arm, batch)
        if records is None:
            made = make(batch.images)
            num_made += len(made)
            pairs = zip(made, batch.images, strict=True)
            records = [_save(image, work.folder, arm, *key) for image, key in pairs]
            if cache is not None:
                key = base_arms.batch_key(work.plan, batch.images)
                base_arms.store(cache, key, [(work.folder / record.path, record.noise_sha256) for record in records])
        append_jsonl(records_path, records)
    return num_made


def _cached(work: Work, cache: Path, arm: str, batch: ImageBatch) -> list[ImageRecord] | None:
    """The records of a batch that the cache had, with its images in the folder; None when it had not."""
    targets = [image_path(arm, prompt.id, seed) for prompt, seed in batch.images]
    found = base_arms.fetch(
        cache, base_arms.batch_key(work.plan, batch.images), [work.folder / target for target in targets]
    )
    if found is None:
        return None
    return [
        ImageRecord(
            prompt_id=prompt.id,
            seed=seed,
            arm=arm,
            path=target,
            sha256=image.sha256,
            noise_sha256=image.noise_sha256,
        )
        for (prompt, seed), target, image in zip(batch.images, targets, found, strict=True)
    ]


def _save(made: GeneratedImage, folder: Path, arm: str, prompt: Prompt, seed: int) -> ImageRecord:
    """Write the PNG under its final name only when it is whole; its record."""
    relative = image_path(arm, prompt.id, seed)
    with atomic_path(folder / relative) as temporary:
        made.image.save(temporary)
    return ImageRecord(
        prompt_id=prompt.id,
        seed=seed,
        arm=arm,
        path=relative,
        sha256=sha256_file(folder / relative),
        noise_sha256=made.noise_sha256,
    )


def generate_arms(
    work: Work,
    base: LoadedBase,
    *,
    arms: Sequence[str] | None = None,
    num_rounds: int | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> int:
    """Make this rank's missing images of some arms (None: of all), the base's first; how many were made.

    ``base`` has no adapter, before and after.
    """
    num_made = 0
    for arm in all_arms(work.plan) if arms is None else arms:
        scale = adapter_scale(work.plan, arm)
        if not unfinished_batches(work.plan, work.folder, arm, num_rounds=num_rounds):
            continue
        if arm == work.plan.arms[0]:
            num_made += generate_arm(work, base, arm=arm, num_rounds=num_rounds, rank=rank, num_ranks=num_ranks)
            continue
        with work.second_arm.applied(base, work.plan, scale=scale) as make:
            num_made += generate_arm(
                work, base, arm=arm, make=make, num_rounds=num_rounds, rank=rank, num_ranks=num_ranks
            )
    return num_made


def finish_images(
    plan: Plan, folder: Path, *, arms: Sequence[str] | None = None, num_rounds: int | None = None
) -> list[ImageRecord]:
    """Join the ranks' records into ``images.jsonl`` in plan order; rank 0, when every rank is done.

    Raises ValueError when an image of these arms and rounds is missing, or the arms of a pair did not start from the
    same noise.
    """
    ordered = known_images(plan, folder, arms=arms, num_rounds=num_rounds)
    noises = {pair_key(record): record.noise_sha256 for record in ordered if record.arm == plan.arms[0]}
    for record in ordered:
        if record.noise_sha256 != noises[pair_key(record)]:
            raise ValueError(f"{folder}: {image_key(record)} did not start from the noise of arm {plan.arms[0]}")
    write_jsonl_atomic(folder / IMAGES_FILE, ordered)
    for path in folder.glob("images.rank*.jsonl"):
        path.unlink()
    return ordered


def pair_key(record: ImageRecord) -> tuple[str, int]:
    """What the arms of a pair have in common."""
    return record.prompt_id, record.seed
