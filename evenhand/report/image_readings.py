"""What the reader said of single images: the captions below them, and whether a prompt was obeyed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.evaluation.folder import READINGS_FILE
from evenhand.evaluation.plan import Plan
from evenhand.files import read_jsonl
from evenhand.records import Prompt

Row = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Obedience:
    """Whether every subject of an image shows what its prompt names, and the mean chance that the reader gave it."""

    obeyed: bool
    chance: float


class ImageReadings:
    """The readings of one reader by attribute, arm, prompt and seed."""

    def __init__(self, plan: Plan, rows: Iterable[Row], *, reader: str) -> None:
        self.plan = plan
        self._rows: dict[tuple[str, str, str, int], list[Row]] = {}
        for row in rows:
            if row["reader"] == reader and row["arm"] in plan.arms:
                key = (row["attribute"], row["arm"], row["prompt_id"], row["seed"])
                self._rows.setdefault(key, []).append(row)

    @classmethod
    def load(cls, plan: Plan, folder: Path, *, reader: str) -> ImageReadings:
        """The readings of an evaluation folder."""
        return cls(plan, read_jsonl(folder / READINGS_FILE), reader=reader)

    def text(self, attributes: Sequence[str], arm: str, prompt_id: str, seed: int) -> str:
        """What was read, by subject; the reason where nothing was; empty where nobody looked."""
        texts = []
        for attribute in attributes:
            rows = sorted(self._rows.get((attribute, arm, prompt_id, seed), ()), key=lambda row: int(row["subject"]))
            texts += [str(row["value"]) if row["value"] is not None else f"unread: {row['unread']}" for row in rows]
        return ", ".join(texts)

    def has_value(self, attribute: str, arm: str, prompt_id: str, seed: int) -> bool:
        """Whether any subject of the image was read."""
        return any(row["value"] is not None for row in self._rows.get((attribute, arm, prompt_id, seed), ()))

    def obedience(self, prompt: Prompt, arm: str, seed: int) -> Obedience | None:
        """Whether an image shows what its prompt expects; a subject that was not read does not. None: nobody looked."""
        chances, obeyed = [], True
        for attribute, value in (prompt.expects or {}).items():
            rows = self._rows.get((attribute, arm, prompt.id, seed))
            if not rows:
                return None
            obeyed = obeyed and all(row["value"] == value for row in rows)
            chances.append(float(np.mean([self._chance(row, attribute, value) for row in rows])))
        return Obedience(obeyed=obeyed, chance=min(chances)) if chances else None

    def _chance(self, row: Row, attribute: str, value: str) -> float:
        values = self.plan.attributes[attribute]
        probs = row.get("probs")
        if probs is None or len(probs) != len(values):
            return float(row["value"] == value)
        return float(probs[values.index(value)])
