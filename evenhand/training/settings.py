"""Settings of training, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIXED_PRECISION = ("no", "bf16", "fp16")
KEEP = ("last", "best")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How long, how much at once, and how often something is written.

    ``batch_size`` and ``preserve_batch_size`` are the rows of one optimizer step over all processes;
    ``grad_accumulation`` parts are computed one after the other to save memory.
    With ``ema_decay`` an exponential moving average of the adapter is validated and saved in its place. ``keep`` says
    whether the last weights become the adapter or those with the best score of a validation. ``shard_base`` spreads
    the frozen UNet over the processes.
    """

    steps: int
    batch_size: int
    preserve_batch_size: int
    grad_accumulation: int
    max_grad_norm: float
    ema_decay: float | None
    caption_dropout: float
    noise_offset: float
    mixed_precision: Literal["no", "bf16", "fp16"]
    gradient_checkpointing: bool
    compile: bool
    shard_base: bool
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int
    keep: Literal["last", "best"]

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_size", "grad_accumulation", "log_every_steps")
        for name in (*at_least_one, "checkpoint_every_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)} (train.{name})")
        if self.preserve_batch_size < 0:
            raise ValueError(f"preserve_batch_size must be >= 0, got {self.preserve_batch_size}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be > 0, got {self.max_grad_norm} (train.max_grad_norm)")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1) or null, got {self.ema_decay} (train.ema_decay)")
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"caption_dropout must be in [0, 1), got {self.caption_dropout} (train.caption_dropout)")
        if not 0 <= self.noise_offset < 1:
            raise ValueError(f"noise_offset must be in [0, 1), got {self.noise_offset} (train.noise_offset)")
        if self.mixed_precision not in MIXED_PRECISION:
            raise ValueError(f"mixed_precision must be one of {', '.join(MIXED_PRECISION)}, got {self.mixed_precision}")
        if self.keep not in KEEP:
            raise ValueError(f"keep must be one of {', '.join(KEEP)}, got {self.keep} (train.keep)")

    def check(
        self,
        *,
        uses_preserve: bool,
        validates: bool,
        num_processes: int,
        max_rows: int | None = None,
        makes_pictures: bool = False,
        rows_per_noise: int = 1,
    ) -> None:
        """Raise ValueError unless the batches fit the method and can be dealt out evenly.

        ``max_rows`` is how many rows the method lets a process take at once, ``makes_pictures`` whether it uses none of
        the set's, ``rows_per_noise`` how many rows share their noise.
        """
        if self.noise_offset and makes_pictures:
            raise ValueError(
                f"train.noise_offset={self.noise_offset} is for a set's pictures, and the method makes pictures of its "
                "own: set it to 0"
            )
        if self.keep == "best" and not validates:
            raise ValueError("train.keep=best needs a validation with a score: set validation=, or train.keep=last")
        if self.shard_base and num_processes == 1:
            raise ValueError("train.shard_base=true spreads the base over several processes, and there is one only")
        if self.shard_base and (validates or self.compile):
            other = "a validation, whose processes make different numbers of images" if validates else "train.compile"
            raise ValueError(f"train.shard_base=true and {other}, do not go together: leave one of them out")
        if uses_preserve and self.preserve_batch_size == 0:
            raise ValueError(
                "the method needs preserve rows: set train.preserve_batch_size, or method.preserve_weight=0"
            )
        if not uses_preserve and self.preserve_batch_size > 0:
            raise ValueError(
                f"train.preserve_batch_size must be 0 for a method without preserve, got {self.preserve_batch_size}"
            )
        if self.batch_size % rows_per_noise:
            raise ValueError(
                f"train.batch_size={self.batch_size} cannot be cut into {rows_per_noise} rows of the same noise each: "
                "make it a multiple of method.rows_per_noise"
            )
        parts = num_processes * self.grad_accumulation
        for name in ("batch_size", "preserve_batch_size"):
            rows = getattr(self, name)
            if rows % parts:
                raise ValueError(
                    f"train.{name}={rows} cannot be dealt out evenly to {num_processes} processes x "
                    f"{self.grad_accumulation} parts: make it a multiple of {parts}"
                )
        rows = self.batch_size // parts
        if max_rows is not None and rows > max_rows:
            raise ValueError(
                f"train.batch_size={self.batch_size} gives each process {rows} rows at once, and the method, which "
                f"makes pictures of every row, takes at most {max_rows}: train.batch_size=2 "
                "train.preserve_batch_size=8, or a larger train.grad_accumulation"
            )
