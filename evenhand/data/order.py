"""Which rows come in which step: a function of the seed and the step alone.

Each bucket's rows come in passes, every row once a pass, and a batch takes the next rows of one bucket. A bucket of n
of the N rows has had ``floor(e n / B)`` batches of B rows when N e rows should have been seen: rows that do not fill a
batch wait for the next epoch, so that none is left out and none comes twice as often. With a single bucket, batches are
cut from the passes one after the other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from evenhand.seeds import derive


def step_rows(buckets: Sequence[Sequence[int]], *, batch_size: int, step: int, seed: int, stream: str) -> list[int]:
    """The rows of a step's batch, all of one bucket; ``buckets`` hold the rows of each, none of them empty."""
    sizes = tuple(len(rows) for rows in buckets)
    bucket, batch = (0, step) if len(sizes) == 1 else _bucket_of_step(sizes, batch_size, step, seed, stream)
    name = () if len(sizes) == 1 else ("bucket", bucket)
    rows, chosen = buckets[bucket], []
    number, end = batch * batch_size, (batch + 1) * batch_size
    while number < end:
        epoch, position = divmod(number, len(rows))
        taken = min(len(rows) - position, end - number)
        order = _shuffled(derive(seed, stream, *name, "epoch", epoch), len(rows))
        chosen += [rows[index] for index in order[position : position + taken]]
        number += taken
    return chosen


def _bucket_of_step(sizes: tuple[int, ...], batch_size: int, step: int, seed: int, stream: str) -> tuple[int, int]:
    """The bucket of a step, and how many batches that bucket had before."""

    def batches_before(epoch: int) -> int:
        return sum(epoch * size // batch_size for size in sizes)

    # an epoch lacks less than one batch of each bucket, so the step's epoch is below this bound
    bound = (step + len(sizes) + 1) * batch_size // sum(sizes) + 2
    epoch = bisect_right(range(bound), step, key=batches_before) - 1
    bucket, ordinal = _schedule(sizes, batch_size, epoch, derive(seed, stream, "buckets", epoch))[
        step - batches_before(epoch)
    ]
    return bucket, epoch * sizes[bucket] // batch_size + ordinal


@lru_cache(maxsize=8)
def _schedule(sizes: tuple[int, ...], batch_size: int, epoch: int, seed: int) -> tuple[tuple[int, int], ...]:
    """The buckets of an epoch's batches in a random order, each with how often it came before in this epoch."""
    turns = []
    for bucket, size in enumerate(sizes):
        turns += [bucket] * ((epoch + 1) * size // batch_size - epoch * size // batch_size)
    counts = [0] * len(sizes)
    schedule = []
    for index in _shuffled(seed, len(turns)):
        bucket = turns[index]
        schedule.append((bucket, counts[bucket]))
        counts[bucket] += 1
    return tuple(schedule)


@lru_cache(maxsize=128)  # two streams of some buckets, and a batch may touch two passes of each
def _shuffled(seed: int, num_rows: int) -> tuple[int, ...]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randperm(num_rows, generator=generator).tolist())
