"""Images for the arms of a plan, resumable after a kill at any moment, the same whatever the number of processes.

Batches are cut once from the plan's list of (prompt, seed), for both arms alike: the last bits of an image depend on
the others of its batch. So an image that is missing has its whole batch made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from evenhand import adapters
from evenhand.evaluation.folder import IMAGES_FILE, image_key, image_path, load_images, planned_images
from evenhand.evaluation.plan import Plan
from evenhand.files import append_jsonl, atomic_path, sha256_file, write_jsonl_atomic
from evenhand.interfaces import GeneratedImage, LoadedBase, SamplingSettings
from evenhand.records import ImageRecord, Prompt

log = logging.getLogger(__name__)

NUM_IDENTITY_IMAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """One call of the sampler."""

    index: int
    images: tuple[tuple[Prompt, int], ...]

    def make(self, base: LoadedBase, sampling: SamplingSettings) -> list[GeneratedImage]:
        """The images, with whatever adapter is active on the base."""
        return base.generate([prompt.text for prompt, _ in self.images], [seed for _, seed in self.images], sampling)


def sampling_of(plan: Plan) -> SamplingSettings:
    """How the plan makes images."""
    assert plan.generation is not None
    generation = plan.generation
    return SamplingSettings(
        steps=generation.steps,
        guidance=generation.guidance,
        height_px=generation.height_px,
        width_px=generation.width_px,
    )


def batches(plan: Plan, arm: str) -> list[ImageBatch]:
    """The batches of an arm; every arm has the same."""
    assert plan.generation is not None
    images, size = planned_images(plan, arm), plan.generation.batch_size
    starts = range(0, len(images), size)
    return [ImageBatch(index=index, images=tuple(images[start : start + size])) for index, start in enumerate(starts)]


def unfinished_batches(plan: Plan, folder: Path, arm: str) -> list[ImageBatch]:
    """The batches of which an image is missing, or is not the one that was recorded."""
    known = load_images(folder)

    def is_there(prompt: Prompt, seed: int) -> bool:
        record = known.get((arm, prompt.id, seed))
        path = folder / image_path(arm, prompt.id, seed)
        return record is not None and path.is_file() and sha256_file(path) == record.sha256

    return [batch for batch in batches(plan, arm) if not all(is_there(*image) for image in batch.images)]


def generate_arm(plan: Plan, folder: Path, base: LoadedBase, *, arm: str, rank: int = 0, num_ranks: int = 1) -> int:
    """Make this rank's missing images of an arm with the adapter as it stands on the base; how many were made."""
    if arm not in plan.arms:
        raise ValueError(f"arm {arm!r} is not in the plan, which has {', '.join(plan.arms)}")
    todo = [batch for batch in unfinished_batches(plan, folder, arm) if batch.index % num_ranks == rank]
    records_path = folder / (IMAGES_FILE if rank == 0 else f"images.rank{rank}.jsonl")
    sampling = sampling_of(plan)
    log.info("arm %s: %d batches to make", arm, len(todo))
    for batch in tqdm(todo, desc=f"images of {arm}", unit="batch", disable=rank != 0 or not todo):
        made = batch.make(base, sampling)
        pairs = zip(made, batch.images, strict=True)
        append_jsonl(records_path, [_save(image, folder, arm, *key) for image, key in pairs])
    return sum(len(batch.images) for batch in todo)


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


def finish_images(plan: Plan, folder: Path) -> list[ImageRecord]:
    """Join the ranks' records into ``images.jsonl`` in plan order; rank 0, when every rank is done.

    Raises ValueError when an image is missing or the arms of a pair did not start from the same noise.
    """
    known = load_images(folder)
    keys = [(arm, prompt.id, seed) for arm in plan.arms for prompt, seed in planned_images(plan, arm)]
    missing = [key for key in keys if key not in known]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} images are missing, the first is {missing[0]}; generate them first")
    ordered = [known[key] for key in keys]
    base_arm = plan.arms[0]
    for record in ordered:
        if record.noise_sha256 != known[base_arm, record.prompt_id, record.seed].noise_sha256:
            raise ValueError(f"{folder}: {image_key(record)} did not start from the noise of arm {base_arm}")
    write_jsonl_atomic(folder / IMAGES_FILE, ordered)
    for path in folder.glob("images.rank*.jsonl"):
        path.unlink()
    return ordered


def adapter_file(path: Path) -> Path:
    """The weights of an adapter folder or file; ValueError when there are none."""
    file = path / adapters.WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"adapter not found: {file} does not exist (adapter=<the folder that training wrote>)")
    return file


def check_adapter(plan: Plan, base: LoadedBase, adapter_path: Path, *, check_base: bool) -> None:
    """Raise ValueError unless the adapter fits the base, and at scale 0 gives the base's images bit for bit.

    ``base`` has no adapter, before and after.
    """
    images = planned_images(plan, plan.arms[0])[:NUM_IDENTITY_IMAGES]
    batch = ImageBatch(index=0, images=tuple(images))
    before = [made.image for made in batch.make(base, sampling_of(plan))]
    adapters.load(base, adapter_path, check_base=check_base)
    with adapters.scaled(base, 0.0):
        after = [made.image for made in batch.make(base, sampling_of(plan))]
    adapters.detach(base)
    require_identity(before, after)


def require_identity(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> None:
    """Raise ValueError unless two lists of images are equal in every pixel."""
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if one.size != other.size or one.tobytes() != other.tobytes():
            raise ValueError(
                f"check failed: the adapter at scale 0 changes image {index} of the plan, so the arms would differ in "
                "more than the adapter; is it fused into the base?"
            )


def generate_arms(
    plan: Plan,
    folder: Path,
    base: LoadedBase,
    adapter_path: Path,
    *,
    check_base: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
) -> int:
    """Check the adapter and make this rank's missing images of both arms, the base's first; how many were made."""
    assert plan.generation is not None
    if not any(unfinished_batches(plan, folder, arm) for arm in plan.arms):
        return 0
    check_adapter(plan, base, adapter_path, check_base=check_base)
    base_arm, adapted_arm = plan.arms
    made = generate_arm(plan, folder, base, arm=base_arm, rank=rank, num_ranks=num_ranks)
    adapters.load(base, adapter_path, check_base=check_base)
    with adapters.scaled(base, plan.generation.adapter_scale):
        made += generate_arm(plan, folder, base, arm=adapted_arm, rank=rank, num_ranks=num_ranks)
    adapters.detach(base)
    return made
