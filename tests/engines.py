"""Parts that are none of evenhand's, for tests of how a config becomes parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A part with one argument of each kind that is checked."""

    power: float
    gears: int = 5
    fuel: Literal["petrol", "diesel"] = "petrol"
    manual: Path | None = None
    ratios: tuple[float, ...] = ()
    label: str | None = None

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"power must be > 0, got {self.power}")


@dataclass(frozen=True, kw_only=True)
class Car:
    """A part that holds parts."""

    engine: Engine
    spares: Sequence[Engine]


def make_engine(power: float) -> Engine:
    """A function may be a target as well."""
    return Engine(power=power)
