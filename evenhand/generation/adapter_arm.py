"""An adapter as the second arm: one that was trained here, or one of other origin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.adapters import lora
from evenhand.adapters.foreign import read_any
from evenhand.evaluation.plan import Plan
from evenhand.evaluation.question import ADAPTED_ARM
from evenhand.generation.second_arm import Asked, Maker, plain_maker
from evenhand.interfaces import LoadedBase


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterArm:
    """The adapter of a file, on the base that it names; without ``check_base`` on any that its keys fit."""

    path: Path
    check_base: bool
    name: str = ADAPTED_ARM

    def facts(self, asked: Asked) -> dict[str, Any]:  # Any: JSON
        """Nothing: the file's sha256, which every plan has, says it all."""
        return {}

    @contextmanager
    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> Iterator[Maker]:
        """The adapter on the base, never fused into it: fusing and unfusing rounds the base's weights."""
        lora.load_content(base, read_any(self.path, base), check_base=self.check_base)
        try:
            with lora.scaled(base, scale):
                yield plain_maker(base, plan)
        finally:
            lora.detach(base)
