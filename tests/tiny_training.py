"""A tiny training of the real parts in this process: a base loaded anew, a curated set, an adapter, an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.settings import LoraSettings
from evenhand.data.rows import read_examples
from evenhand.data.timesteps import UNIFORM
from evenhand.interfaces import Method
from evenhand.methods.curated import Curated
from evenhand.methods.distill import Distill
from evenhand.training.calibration import Calibration, LoadedCalibration
from evenhand.training.fit import FitResult, fit
from evenhand.training.optim import AdamW
from evenhand.training.processes import start_accelerator
from evenhand.training.settings import TrainSettings
from evenhand.training.state import CHECKPOINTS, latest_checkpoint
from tests.tiny import load_sd
from tests.tiny_set import tiny_batches

CONFIG = "c" * 64
SETTINGS: dict[str, Any] = {
    "steps": 6,
    "batch_size": 4,
    "preserve_batch_size": 4,
    "grad_accumulation": 1,
    "max_grad_norm": 1.0,
    "ema_decay": None,
    "caption_dropout": 0.1,
    "noise_offset": 0.0,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "compile": False,
    "shard_base": False,
    "log_every_steps": 2,
    "checkpoint_every_steps": 3,
    "keep_checkpoints": 4,
    "keep": "last",
}


def adamw(**changes: Any) -> AdamW:
    """AdamW with few warm-up steps."""
    good = {"learning_rate": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 2}
    return AdamW(**{**good, "schedule": "cosine", **changes})


def curated(**changes: Any) -> Curated:
    """The method as conf/method/curated.yaml has it."""
    return Curated(
        **{
            "preserve_weight": 1.0,
            "preserve_objective": "prediction",
            "min_snr_gamma": None,
            "coupled_noise": False,
            **changes,
        }
    )


def distill(**changes: Any) -> Distill:
    """The method as conf/method/distill.yaml has it."""
    return Distill(
        **{"preserve_weight": 1.0, "rows_per_noise": 2, "coupled_noise": True, "virtual_concepts": 0.5, **changes}
    )


class Remember:
    """A tracker that keeps its lines, those of a step together, and calls ``then`` after each."""

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.lines: dict[int, dict[str, float]] = {}
        self.then = then

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.lines[step] = {**self.lines.get(step, {}), **metrics}
        if self.then is not None:
            self.then(step)

    def close(self) -> None:
        pass


class Stage:
    """Everything that one training needs.

    ``changes`` are settings; ``optim``, ``validation``, ``method``, ``timesteps`` and ``text_encoder``, that of the
    adapter's settings, may be given too; so may ``calibration``, as a YAML would make it.
    """

    def __init__(self, tiny_folder: Path, data: Path, cache: Path, **changes: Any) -> None:
        self.optim = changes.pop("optim", None) or adamw(learning_rate=changes.pop("learning_rate", 1e-3))
        self.validation = changes.pop("validation", None)
        self.method: Method = changes.pop("method", None) or curated()
        self.calibration: Calibration | None = changes.pop("calibration", None)
        timesteps, text_encoder = changes.pop("timesteps", UNIFORM), changes.pop("text_encoder", "none")
        self.data = data
        self.settings = TrainSettings(**{**SETTINGS, **changes})
        self.calibrated: LoadedCalibration | None = None
        self.accelerator: Accelerator = start_accelerator(self.settings.mixed_precision)
        self.base = load_sd(tiny_folder)
        self.batches = tiny_batches(
            self.base,
            data,
            cache,
            batch_size=self.settings.batch_size,
            preserve_batch_size=self.settings.preserve_batch_size,
            caption_dropout=self.settings.caption_dropout,
            rows_per_noise=self.method.rows_per_noise,
            coupled_noise=self.method.coupled_noise,
            virtual_concepts=self.method.virtual_concepts,
            explicit=self.method.uses_explicit,
            timesteps=timesteps,
            embed_text=None if text_encoder == "none" else self.base.embed_text,
        )
        lora = LoraSettings(rank=2, alpha=2.0, targets="attention", text_encoder=text_encoder)
        self.adapter: Adapter = attach(self.base, lora, seed=0)

    def run(self, folder: Path, tracker: Remember | None = None, *, resume: bool = False) -> FitResult:
        """Train; ``folder`` is the run's."""
        tracker = tracker or Remember()
        self.calibrated = None if self.calibration is None else self.calibration.load(
            self.base, read_examples(self.data, "train"), seed=0, accelerator=self.accelerator, tracker=tracker
        )  # fmt: skip
        return fit(
            self.base,
            self.adapter,
            self.method,
            self.batches,
            settings=self.settings,
            optim=self.optim,
            accelerator=self.accelerator,
            tracker=tracker,
            folder=folder,
            config_sha256=CONFIG,
            resume=latest_checkpoint(folder / CHECKPOINTS, config_sha256=CONFIG) if resume else None,
            validation=self.validation,
            calibration=self.calibrated,
        )


def equal(first: Adapter, second: Adapter) -> bool:
    """Whether two adapters have the same weights, bit for bit."""
    one, two = first.tensors(), second.tensors()
    return all(torch.equal(one[name], two[name]) for name in one)
