"""How much the benchmark measures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """``pairs`` timed readings of each kind, behind ``warmup`` untimed ones, and the sizes of what is trained.

    ``architecture`` is that of the random base, ``architecture_px`` the size of its images; ``full_px`` are the sizes
    of the full-size steps. ``reader_batch_size`` and ``generation_batch_size`` are images at a time.
    """

    pairs: int
    warmup: int
    batch_size: int
    architecture: str
    architecture_batch_size: int
    architecture_px: int
    full_px: Mapping[str, int]
    generation_batch_size: int
    reader_batch_size: int

    def __post_init__(self) -> None:
        counts = ("pairs", "warmup", "batch_size", "architecture_batch_size", "architecture_px")
        for name in (*counts, "generation_batch_size", "reader_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)} (sizes.{name})")


def overrides_of(node: Mapping[str, object], prefix: str = "") -> list[str]:
    """A nested mapping as the overrides of a command line: ``{"train": {"steps": 3}}`` gives ``train.steps=3``."""
    overrides = []
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            overrides += overrides_of(value, f"{key}.")
        else:
            overrides.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return overrides
