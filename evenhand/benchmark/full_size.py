"""A training step of a published architecture, whole, with random weights: does it fit, and what needs what memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.adapters.lora import attach
from evenhand.benchmark.architectures import random_base
from evenhand.benchmark.steps import training_of_noise
from evenhand.files import read_json
from evenhand.trackers import JsonlTracker
from evenhand.training.fit import MEMORY_FILE, fit
from evenhand.training.processes import weights_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator

NUM_STEPS = 2  # from the second one on the optimizer's state is there
FORGET_PEAK = Path("/proc/self/clear_refs")  # linux: writing 5 sets the peak of resident memory to what is resident now


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSizeFigures:
    """``memory`` is the training's own report in bytes; ``step_seconds`` is the mean of all steps, one reading."""

    architecture: str
    resolution_px: int
    gradient_checkpointing: bool
    mixed_precision: str
    step_seconds: float
    memory: dict[str, Any]  # Any: JSON


def train_full_size(
    architecture: str,
    *,
    resolution_px: int,
    folder: Path,
    accelerator: Accelerator,
    seed: int,
    overrides: Sequence[str],
) -> FullSizeFigures:
    """Encode two images, let the encoders go, and train for two steps of batch 1 as train/lora.py would."""
    training = training_of_noise(
        steps=NUM_STEPS,
        batch_size=1,
        resolution_px=resolution_px,
        num_images=2,
        overrides=overrides,
    )
    settings = training.config.build("train")
    dtype = weights_dtype(settings.mixed_precision)
    base = random_base(architecture, device=accelerator.device, dtype=dtype, seed=seed)
    batches = training.batches(base, folder=folder, accelerator=accelerator, seed=seed)
    base.release_encoders()
    _forget_peak()
    adapter = attach(base, training.config.build("lora"), seed=seed)
    tracker = JsonlTracker(folder / "metrics.jsonl")
    started = time.perf_counter()
    fit(
        base,
        adapter,
        training.config.build("method"),
        batches,
        settings=settings,
        optim=training.config.build("optim"),
        accelerator=accelerator,
        tracker=tracker,
        folder=folder,
        config_sha256="benchmark",
        resume=None,
        validation=None,
    )
    seconds = time.perf_counter() - started
    tracker.close()
    return FullSizeFigures(
        architecture=architecture,
        resolution_px=resolution_px,
        gradient_checkpointing=settings.gradient_checkpointing,
        mixed_precision=settings.mixed_precision,
        step_seconds=seconds / NUM_STEPS,
        memory=read_json(folder / MEMORY_FILE),
    )


def _forget_peak() -> None:
    """Count peaks of memory from here on: loading and encoding are over."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if FORGET_PEAK.exists():
        FORGET_PEAK.write_text("5")
