"""Settings of training, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

MIXED_PRECISION = ("no", "bf16", "fp16")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How long, how much at once, and how often something is written.

    ``batch_size`` and ``preserve_batch_size`` are the rows of one optimizer step over all processes;
    ``grad_accumulation`` parts are computed one after the other to save memory. ``resolution_px`` None is the base's.
    """

    steps: int
    batch_size: int
    preserve_batch_size: int
    grad_accumulation: int
    max_grad_norm: float
    caption_dropout: float
    mixed_precision: Literal["no", "bf16", "fp16"]
    gradient_checkpointing: bool
    resolution_px: int | None
    encode_batch_size: int
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_size", "grad_accumulation", "encode_batch_size", "log_every_steps")
        for name in (*at_least_one, "checkpoint_every_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)} (train.{name})")
        if self.preserve_batch_size < 0:
            raise ValueError(f"preserve_batch_size must be >= 0, got {self.preserve_batch_size}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be > 0, got {self.max_grad_norm} (train.max_grad_norm)")
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"caption_dropout must be in [0, 1), got {self.caption_dropout} (train.caption_dropout)")
        if self.mixed_precision not in MIXED_PRECISION:
            raise ValueError(f"mixed_precision must be one of {', '.join(MIXED_PRECISION)}, got {self.mixed_precision}")
        if self.resolution_px is not None and self.resolution_px < 1:
            raise ValueError(f"resolution_px must be >= 1 or null, got {self.resolution_px} (train.resolution_px)")

    def check(self, *, uses_preserve: bool, num_processes: int) -> None:
        """Raise ValueError unless the batches fit the method and can be dealt out evenly."""
        if uses_preserve and self.preserve_batch_size == 0:
            raise ValueError(
                "the method needs preserve rows: set train.preserve_batch_size, or method.preserve_weight=0"
            )
        if not uses_preserve and self.preserve_batch_size > 0:
            raise ValueError(
                f"train.preserve_batch_size must be 0 for a method without preserve, got {self.preserve_batch_size}"
            )
        parts = num_processes * self.grad_accumulation
        for name in ("batch_size", "preserve_batch_size"):
            rows = getattr(self, name)
            if rows % parts:
                raise ValueError(
                    f"train.{name}={rows} cannot be dealt out evenly to {num_processes} processes x "
                    f"{self.grad_accumulation} parts: make it a multiple of {parts}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with a learning rate that is a function of the optimizer step alone."""

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate} (optim.learning_rate)")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {list(self.betas)} (optim.betas)")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r} (optim.schedule)")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {self.warmup_steps} (optim.warmup_steps)")

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's AdamW, fused into one operation."""
        import torch

        return torch.optim.AdamW(
            list(parameters),
            lr=self.learning_rate,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0: warm-up to the full rate, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.learning_rate * (1.0 - share)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        return self.learning_rate
