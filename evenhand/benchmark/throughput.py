"""Pictures and figures in a second: generation beside the bare pipeline, a reader, the statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenhand.benchmark.timing import Clock, Ratio, Timing, in_turn, ratio, timing
from evenhand.benchmark.training_set import CAPTIONS
from evenhand.interfaces import LoadedBase, Reader, SamplingSettings
from evenhand.stats.over_prompts import share_interval

if TYPE_CHECKING:
    import torch

NUM_PROMPTS, SEEDS_PER_PROMPT, LEVEL = 240, 8, 0.95  # a suite of ordinary size
NUM_INTERVALS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFigures:
    """``generate`` beside the pipeline called as its own documentation does, on the same captions and steps."""

    batch_size: int
    steps: int
    ratio: Ratio
    images_per_second: float
    bare_images_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How much of something is done in a second; ``batch`` of it at a time."""

    batch: int
    per_second: float
    seconds: Timing


def measure_generation(
    base: LoadedBase, sampling: SamplingSettings, *, batch_size: int, pairs: int, device: torch.device
) -> GenerationFigures:
    """Generate batches in turn by ``base.generate`` and by its bare pipeline."""
    import torch

    pipeline: Any = base.pipeline  # type: ignore[attr-defined]  # both kinds of base hold one; Any: no types
    captions = _captions(batch_size)

    def bare() -> None:
        pipeline(
            prompt=captions,
            height=sampling.height_px,
            width=sampling.width_px,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(batch_size)],
        )

    def ours() -> None:
        base.generate(captions, range(batch_size), sampling)

    turns = in_turn(bare, ours, pairs=pairs, clock=Clock(device))
    return GenerationFigures(
        batch_size=batch_size,
        steps=sampling.steps,
        ratio=ratio(turns.second, turns.first),
        images_per_second=batch_size / timing(turns.second).median,
        bare_images_per_second=batch_size / timing(turns.first).median,
    )


def measure_reader(
    reader: Reader, base: LoadedBase, sampling: SamplingSettings, *, batch_size: int, runs: int, device: torch.device
) -> Throughput:
    """Images that a reader reads in a second: those of the base, each batch the same."""
    images = [made.image for made in base.generate(_captions(batch_size), range(batch_size), sampling)]
    loaded = reader.load(device=device)
    return _throughput(lambda: loaded.read(images), batch=batch_size, runs=runs, device=device)


def measure_statistics(*, runs: int) -> Throughput:
    """Intervals of a share over prompts in a second, of a suite of ordinary size; statistics run on the CPU."""
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    shares_J = random.integers(0, SEEDS_PER_PROMPT + 1, NUM_PROMPTS) / SEEDS_PER_PROMPT
    clusters = [f"concept {number % (NUM_PROMPTS // 4)}" for number in range(NUM_PROMPTS)]

    def intervals() -> None:
        for _ in range(NUM_INTERVALS):
            share_interval(shares_J, clusters, n_images=NUM_PROMPTS * SEEDS_PER_PROMPT, level=LEVEL)

    return _throughput(intervals, batch=NUM_INTERVALS, runs=runs, device=torch.device("cpu"))


def _throughput(work: Callable[[], object], *, batch: int, runs: int, device: torch.device) -> Throughput:
    clock = Clock(device)
    work()  # warms up
    marks = [clock.mark()]
    for _ in range(runs):
        work()
        marks.append(clock.mark())
    seconds = timing([clock.between(first, second) for first, second in itertools.pairwise(marks)])
    return Throughput(batch=batch, per_second=batch / seconds.median, seconds=seconds)


def _captions(count: int) -> list[str]:
    return [CAPTIONS[number % len(CAPTIONS)] for number in range(count)]
