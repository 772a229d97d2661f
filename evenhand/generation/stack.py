"""Several adapters with weights as the second arm, active together: the base's layers plus the weighted sum of theirs.

They are loaded as one adapter whose addition is that sum, exactly (``evenhand.adapters.merge``), so that a scale means
the same as for one adapter: it multiplies every weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.adapters import lora
from evenhand.adapters.card import adapter_name
from evenhand.adapters.file import AdapterFile, find_file
from evenhand.adapters.foreign import for_any_base, read_any
from evenhand.adapters.merge import summed
from evenhand.evaluation.plan import Plan
from evenhand.evaluation.question import ADAPTED_ARM
from evenhand.files import sha256_file
from evenhand.generation.second_arm import Asked, Maker, plain_maker
from evenhand.interfaces import LoadedBase

KEYS = {"path", "weight"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """An adapter's folder or file, and what its addition is multiplied by."""

    path: Path
    weight: float


def weighted(entries: Sequence[Mapping[str, Any]]) -> tuple[Weighted, ...]:  # Any: YAML
    """A stack from YAML; ValueError for entries that are none, and for a stack of one."""
    stack = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or set(entry) != KEYS:
            raise ValueError(f"adapters[{number}] must have a path and a weight, got {entry!r}")
        weight = entry["weight"]
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"adapters[{number}].weight must be a finite number, got {weight!r}")
        stack.append(Weighted(path=Path(str(entry["path"])), weight=float(weight)))
    if len(stack) < 2:
        raise ValueError(
            f"adapters is for two or more, got {len(stack)}; one is adapter=, and its weight evaluation.adapter_scale="
        )
    return tuple(stack)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackArm:
    """The adapters, each on the base that it names; without ``check_base`` on any that their keys fit."""

    adapters: tuple[Weighted, ...]
    check_base: bool
    name: str = ADAPTED_ARM

    def facts(self, asked: Asked) -> dict[str, Any]:  # Any: JSON
        """Each adapter's name, weight and sha256."""
        rows = [
            {"name": adapter_name(each.path), "weight": each.weight, "sha256": sha256_file(find_file(each.path))}
            for each in self.adapters
        ]
        return {"adapters": rows}

    @contextmanager
    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> Iterator[Maker]:
        """All of them on the base."""
        contents = [self._content(base, each) for each in self.adapters]
        lora.load_content(base, summed(contents, [each.weight for each in self.adapters]), check_base=False)
        try:
            with lora.scaled(base, scale):
                yield plain_maker(base, plan)
        finally:
            lora.detach(base)

    def _content(self, base: LoadedBase, each: Weighted) -> AdapterFile:
        content = read_any(each.path, base)
        if self.check_base:
            lora.require_base(base, content)
            return content
        return for_any_base(content)
