"""The parts of the benchmark by name. Each gives one dataclass of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.benchmark.architectures import random_base
from evenhand.benchmark.building import measure_build
from evenhand.benchmark.counts import GraphCounts, count_graph
from evenhand.benchmark.full_size import FullSizeFigures, train_full_size
from evenhand.benchmark.probe import StepPlan
from evenhand.benchmark.settings import Sizes
from evenhand.benchmark.steps import StepFigures, measure_steps, training_of_noise
from evenhand.benchmark.throughput import (
    GenerationFigures,
    Throughput,
    measure_generation,
    measure_reader,
    measure_statistics,
)
from evenhand.interfaces import Base, LoadedBase, Reader, SamplingSettings
from evenhand.training.processes import start_accelerator, weights_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator

Figures = GraphCounts | StepFigures | FullSizeFigures | GenerationFigures | Throughput


class Bench:
    """The chosen parts of the toolkit on this machine's device. ``training`` are overrides for train/lora.py."""

    def __init__(
        self,
        *,
        base: Base,
        sampling: SamplingSettings,
        reader: Reader,
        sizes: Sizes,
        training: Sequence[str],
        seed: int,
    ) -> None:
        self.base = base
        self.sampling = sampling
        self.reader = reader
        self.sizes = sizes
        self.training = tuple(training)
        self.seed = seed
        settings = training_of_noise(
            steps=1, batch_size=1, resolution_px=1, num_images=1, overrides=self.training
        ).config
        self.lora, precision = settings.build("lora"), settings.build("train").mixed_precision
        self.accelerator: Accelerator = start_accelerator(precision)
        self.dtype = weights_dtype(precision)

    def run(self, part: str, folder: Path) -> Figures:
        """Measure one part; ``folder`` is empty and the part's own."""
        check_parts([part])
        return PARTS[part](self, folder)

    def load(self) -> LoadedBase:
        """The chosen base on the device."""
        return self.base.load(device=self.accelerator.device, dtype=self.dtype)

    def steps(self, base: LoadedBase, folder: Path, *, batch_size: int, resolution_px: int) -> StepFigures:
        """Steps of a training on ``base``."""
        sizes = self.sizes
        plan = StepPlan(batch_size=batch_size, resolution_px=resolution_px, pairs=sizes.pairs, warmup=sizes.warmup)
        return measure_steps(
            base, plan, folder=folder, accelerator=self.accelerator, seed=self.seed, overrides=self.training
        )


def _operations(bench: Bench, folder: Path) -> GraphCounts:
    return count_graph("sd15", bench.lora)


def _training(bench: Bench, folder: Path) -> StepFigures:
    base = bench.load()
    return bench.steps(base, folder, batch_size=bench.sizes.batch_size, resolution_px=base.resolution_px)


def _training_architecture(bench: Bench, folder: Path) -> StepFigures:
    sizes = bench.sizes
    base = random_base(sizes.architecture, device=bench.accelerator.device, dtype=bench.dtype, seed=bench.seed)
    return bench.steps(base, folder, batch_size=sizes.architecture_batch_size, resolution_px=sizes.architecture_px)


def _full(architecture: str) -> Callable[[Bench, Path], FullSizeFigures]:
    def measure(bench: Bench, folder: Path) -> FullSizeFigures:
        return train_full_size(
            architecture,
            resolution_px=bench.sizes.full_px[architecture],
            folder=folder,
            accelerator=bench.accelerator,
            seed=bench.seed,
            overrides=bench.training,
        )

    return measure


def _generation(bench: Bench, folder: Path) -> GenerationFigures:
    return measure_generation(
        bench.load(),
        bench.sampling,
        batch_size=bench.sizes.generation_batch_size,
        pairs=bench.sizes.pairs,
        device=bench.accelerator.device,
    )


def _build(bench: Bench, folder: Path) -> GenerationFigures:
    return measure_build(
        bench.load(),
        bench.reader,
        bench.sampling,
        batch_size=bench.sizes.generation_batch_size,
        pairs=bench.sizes.pairs,
        folder=folder,
        device=bench.accelerator.device,
    )


def _reader(bench: Bench, folder: Path) -> Throughput:
    return measure_reader(
        bench.reader,
        bench.load(),
        bench.sampling,
        batch_size=bench.sizes.reader_batch_size,
        runs=bench.sizes.pairs,
        device=bench.accelerator.device,
    )


def _statistics(bench: Bench, folder: Path) -> Throughput:
    return measure_statistics(runs=bench.sizes.pairs)


PARTS: Mapping[str, Callable[[Bench, Path], Figures]] = {
    "operations": _operations,
    "training": _training,
    "training_architecture": _training_architecture,
    "generation": _generation,
    "build": _build,
    "reader": _reader,
    "statistics": _statistics,
    "full_sd15": _full("sd15"),
    "full_sdxl": _full("sdxl"),
}


def check_parts(names: Sequence[str]) -> None:
    """ValueError for a part that there is not."""
    for name in names:
        if name not in PARTS:
            raise ValueError(f"unknown part {name!r} of the benchmark; choose from {', '.join(PARTS)} (parts=[...])")
