"""Optimizers as parts: what updates the adapter, and the learning rate as a function of the optimizer step alone.

All of them keep their states in float32, or in 8 bits by choice, whatever precision the base is in.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

SCHEDULES = ("constant", "linear", "cosine")


def _check_optim(learning_rate: float, betas: tuple[float, ...], schedule: str, warmup_steps: int) -> None:
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be > 0, got {learning_rate} (optim.learning_rate)")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {list(betas)} (optim.betas)")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r} (optim.schedule)")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be >= 0, got {warmup_steps} (optim.warmup_steps)")


def scheduled(learning_rate: float, schedule: str, warmup_steps: int, step: int, total_steps: int) -> float:
    """The rate of optimizer step ``step``, counted from 0: warm-up to the full rate, then the schedule."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return learning_rate * (1.0 - share)
    if schedule == "cosine":
        return learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
    return learning_rate


def _optional(module: str, package: str, choice: str) -> Any:  # Any: a package that need not be installed
    """An optional package; ValueError with the pip line where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"optim={choice} needs {package}: pip install {package}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused into one operation."""

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int

    def __post_init__(self) -> None:
        _check_optim(self.learning_rate, self.betas, self.schedule, self.warmup_steps)

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's AdamW."""
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
        """The learning rate of an optimizer step, counted from 0."""
        return scheduled(self.learning_rate, self.schedule, self.warmup_steps, step, total_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW8bit:
    """AdamW whose two moments are kept in 8 bits (Dettmers et al., ICLR 2022, arXiv 2110.02861), by bitsandbytes.

    Tensors of fewer than ``min_8bit_size`` numbers keep their moments in 32 bits.
    """

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    min_8bit_size: int
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int

    def __post_init__(self) -> None:
        _check_optim(self.learning_rate, self.betas, self.schedule, self.warmup_steps)
        if self.min_8bit_size < 1:
            raise ValueError(f"min_8bit_size must be >= 1, got {self.min_8bit_size} (optim.min_8bit_size)")

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """bitsandbytes' AdamW8bit; ValueError where the package is not installed."""
        bitsandbytes = _optional("bitsandbytes", "bitsandbytes", "adamw8bit")
        made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            list(parameters),
            lr=self.learning_rate,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            min_8bit_size=self.min_8bit_size,
        )
        return made

    def rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of an optimizer step, counted from 0."""
        return scheduled(self.learning_rate, self.schedule, self.warmup_steps, step, total_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prodigy:
    """Prodigy (Mishchenko and Defazio, ICML 2024, arXiv 2306.06101): AdamW that estimates its learning rate itself.

    ``learning_rate`` multiplies the estimate, which begins at ``d0`` and grows; 1 is meant. It reads numbers back from
    the device at every tensor, so on an accelerator a step waits for it.
    """

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    d0: float
    d_coef: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int

    def __post_init__(self) -> None:
        _check_optim(self.learning_rate, self.betas, self.schedule, self.warmup_steps)
        for name in ("d0", "d_coef"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)} (optim.{name})")

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """prodigyopt's Prodigy, with the settings that its authors name for diffusion models."""
        prodigyopt = _optional("prodigyopt", "prodigyopt", "prodigy")
        with contextlib.redirect_stdout(sys.stderr):  # it prints a note; stdout is for a program's result
            made: torch.optim.Optimizer = prodigyopt.Prodigy(
                list(parameters),
                lr=self.learning_rate,
                betas=(self.betas[0], self.betas[1]),
                eps=self.eps,
                weight_decay=self.weight_decay,
                d0=self.d0,
                d_coef=self.d_coef,
                use_bias_correction=True,
                safeguard_warmup=True,
            )
        return made

    def rate_at(self, step: int, total_steps: int) -> float:
        """What multiplies the estimated rate at an optimizer step, counted from 0."""
        return scheduled(self.learning_rate, self.schedule, self.warmup_steps, step, total_steps)
