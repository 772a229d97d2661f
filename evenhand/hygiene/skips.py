"""What was left out, and why: counted by kind, with a few examples of each."""

from __future__ import annotations

from typing import Any

MAX_EXAMPLES = 3


def kind_of(reason: str) -> str:
    """A reason without the words in brackets at its end, which are of one case: ``too small (1x1 px)`` is too small."""
    kind, bracket, _ = reason.partition(" (")
    return kind if bracket and reason.endswith(")") else reason


class Skips:
    """A tally of keys by the kinds of their reasons."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._examples: dict[str, list[dict[str, str]]] = {}

    def add(self, key: str, reason: str) -> None:
        """Count one that was left out."""
        kind = kind_of(reason)
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append({"key": key, "reason": reason})

    def rows(self) -> list[dict[str, Any]]:  # Any: JSON
        """``reason``, ``number`` and up to three ``examples`` of ``key`` and ``reason``; the most frequent first."""
        kinds = sorted(self._numbers, key=lambda kind: (-self._numbers[kind], kind))
        return [
            {"reason": kind, "number": self._numbers[kind], "examples": list(self._examples[kind])} for kind in kinds
        ]
