"""What is checked before images are made: room on the disk, and that the adapter is all that the arms differ in."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from evenhand.evaluation.folder import all_arms, image_path
from evenhand.generation import base_arms
from evenhand.generation.arms import ImageBatch, Work, batches, generate_arm, unfinished_batches
from evenhand.interfaces import LoadedBase

RGB_BYTES = 3  # of a pixel: a PNG of a picture is smaller than that
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Images of all arms by where they are: in the folder, in the cache, nowhere yet; and the batches of the last."""

    num_finished: int
    num_cached: int
    num_new: int
    num_new_batches: int

    @property
    def num_ready(self) -> int:
        """Images that need not be made."""
        return self.num_finished + self.num_cached


def take_stock(work: Work) -> Stock:
    """What is there and what is not; the cached images are looked at only when they are served."""
    base_arm = work.plan.arms[0]
    finished, cached, new = 0, 0, []
    for arm in all_arms(work.plan):
        unfinished = {batch.index for batch in unfinished_batches(work.plan, work.folder, arm)}
        for batch in batches(work.plan, arm):
            if batch.index not in unfinished:
                finished += len(batch.images)
            elif arm == base_arm and is_cached(work, batch):
                cached += len(batch.images)
            else:
                new.append(batch)
    num_new = sum(len(batch.images) for batch in new)
    return Stock(num_finished=finished, num_cached=cached, num_new=num_new, num_new_batches=len(new))


def is_cached(work: Work, batch: ImageBatch) -> bool:
    """Whether the cache has a batch of the base arm."""
    return work.cache is not None and base_arms.is_cached(work.cache, base_arms.batch_key(work.plan, batch.images))


def check_disk(work: Work, stock: Stock) -> None:
    """Raise ValueError unless there is room for the missing images, uncompressed, and for those to be cached."""
    assert work.plan.generation is not None
    image_bytes = work.plan.generation.height_px * work.plan.generation.width_px * RGB_BYTES
    needed = {work.folder: (stock.num_cached + stock.num_new) * image_bytes}
    if work.cache is not None:
        # At most all new images are the base's; on one disk both are needed.
        same_disk = work.cache.stat().st_dev == work.folder.stat().st_dev
        needed[work.cache] = stock.num_new * image_bytes + (needed[work.folder] if same_disk else 0)
    for place, num_bytes in needed.items():
        free = shutil.disk_usage(place).free
        if free < num_bytes:
            raise ValueError(
                f"the disk of {place} has {free / GIGABYTE:.2f} GB free, but the images may need "
                f"{num_bytes / GIGABYTE:.2f} GB; "
                "make room, or choose run_folder= (the cache: EVENHAND_CACHE=, cache=false)"
            )


def check_adapter(work: Work, base: LoadedBase) -> float:
    """Seconds for a batch of images, seen while checking that the second arm is all that the arms differ in.

    Raises ValueError unless it fits the base, with every key of an adapter, and at scale 0 the first batch of the base
    arm comes out bit for bit, whether it was made now, before, or comes from the cache. ``base`` has no adapter,
    before and after.
    """
    with work.second_arm.applied(base, work.plan, scale=0.0):
        pass
    base_arm = work.plan.arms[0]
    batch = batches(work.plan, base_arm)[0]
    num_batches = len(batches(work.plan, base_arm))
    # The batch of rank 0 of as many ranks as there are batches is the first alone.
    generate_arm(work, base, arm=base_arm, rank=0, num_ranks=num_batches)
    before = []
    for prompt, seed in batch.images:
        with Image.open(work.folder / image_path(base_arm, prompt.id, seed)) as image:
            before.append(image.convert("RGB"))
    with work.second_arm.applied(base, work.plan, scale=0.0) as make:
        started = time.monotonic()
        after = [made.image for made in make(batch.images)]
        seconds = time.monotonic() - started
    require_identity(before, after)
    return seconds


def require_identity(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> None:
    """Raise ValueError unless two lists of images are equal in every pixel."""
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if one.size != other.size or one.tobytes() != other.tobytes():
            raise ValueError(
                f"check failed: with the adapter at scale 0, image {index} of the plan is not the base's, so the arms "
                "would differ in more than that; is an adapter fused into the base, or were the base's images made "
                "elsewhere? (cache=false and another run_name make them anew)"
            )
