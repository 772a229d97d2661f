"""Readings as arrays: for each prompt, arm and attribute, what every image shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.evaluation.plan import Plan
from evenhand.records import Prompt, Reading

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Images of one prompt in one arm. ``images_NK`` has a row for each image in which a subject was read.

    A row is the share of each value among the subjects read: one-hot for one person, so each image counts once however
    many people are in it. ``n_unread`` counts images in which no subject was read.
    """

    images_NK: Floats
    n_unread: int

    @property
    def n_images(self) -> int:
        """All images, read or not."""
        return len(self.images_NK) + self.n_unread

    @property
    def share_K(self) -> Floats:
        """The prompt's shares; only where an image was read."""
        result: Floats = self.images_NK.mean(axis=0)
        return result

    @property
    def single(self) -> bool:
        """Whether every image has one value only, so that images are independent yes-or-no draws."""
        return bool(np.all((self.images_NK == 0) | (self.images_NK == 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShares:
    """One prompt in both arms. ``base`` and ``adapted`` have every image, ``pairs_*`` those read in both, by row."""

    prompt: Prompt
    base: Shares
    adapted: Shares
    pairs_base: Shares | None
    pairs_adapted: Shares | None

    def compared(self) -> tuple[Shares, Shares]:
        """What a shift compares: pairs, or all images where arms are not paired."""
        if self.pairs_base is not None and self.pairs_adapted is not None:
            return self.pairs_base, self.pairs_adapted
        return self.base, self.adapted


class ReadingTable:
    """Readings by attribute, arm and prompt. ``paired`` tells whether both arms have the same (prompt, seed) keys."""

    def __init__(self, plan: Plan, readings: Sequence[Reading]) -> None:
        self.plan = plan
        self.readers = tuple(sorted({reading.reader for reading in readings}))
        if len(self.readers) > 1:
            raise ValueError(f"readings of several readers {list(self.readers)}; report on one reader at a time")
        known = {prompt.id for prompt in plan.prompts}
        # attribute -> arm -> prompt -> seed -> values of its subjects, None for one that was not read
        self._values: dict[str, dict[str, dict[str, dict[int, dict[int, str | None]]]]] = {}
        for reading in readings:
            self._add(reading, known)
        self.paired = plan.paired and self._same_keys()

    def _add(self, reading: Reading, known: set[str]) -> None:
        where = f"reading of {reading.prompt_id}, seed {reading.seed}, arm {reading.arm}"
        if reading.prompt_id not in known:
            raise ValueError(f"{where}: the plan has no such prompt")
        if reading.arm not in self.plan.arms:
            raise ValueError(f"{where}: the plan's arms are {list(self.plan.arms)}")
        values = self.plan.attributes.get(reading.attribute)
        if values is None:
            return
        if reading.value is not None and reading.value not in values:
            raise ValueError(f"{where}: {reading.attribute}={reading.value} is not one of {list(values)}")
        arms = self._values.setdefault(reading.attribute, {})
        seeds = arms.setdefault(reading.arm, {}).setdefault(reading.prompt_id, {})
        subjects = seeds.setdefault(reading.seed, {})
        if reading.subject in subjects:
            raise ValueError(f"{where}: subject {reading.subject} has two readings of {reading.attribute}")
        subjects[reading.subject] = reading.value

    def _same_keys(self) -> bool:
        for arms in self._values.values():
            base, adapted = (arms.get(arm, {}) for arm in self.plan.arms)
            if {prompt: set(seeds) for prompt, seeds in base.items()} != {
                prompt: set(seeds) for prompt, seeds in adapted.items()
            }:
                return False
        return True

    def subjects(self, attribute: str, arm: str, prompt_id: str) -> Mapping[int, Mapping[int, str | None]]:
        """seed -> subject -> value, None for a subject that was not read; empty where there are no readings."""
        return self._values.get(attribute, {}).get(arm, {}).get(prompt_id, {})

    def seeds(self, arm: str, prompt_id: str) -> set[int]:
        """Seeds of a prompt that have a reading of any attribute."""
        return {seed for arms in self._values.values() for seed in arms.get(arm, {}).get(prompt_id, {})}

    def prompt_shares(self, attribute: str, prompt: Prompt) -> PromptShares:
        """One prompt in both arms."""
        values = self.plan.attributes[attribute]
        rows = [
            {
                seed: _row(values, subjects.values())
                for seed, subjects in sorted(self.subjects(attribute, arm, prompt.id).items())
            }
            for arm in self.plan.arms
        ]
        base, adapted = (_shares(list(by_seed.values()), len(values)) for by_seed in rows)
        if not self.paired:
            return PromptShares(prompt=prompt, base=base, adapted=adapted, pairs_base=None, pairs_adapted=None)
        both = [seed for seed, row in rows[0].items() if row is not None and rows[1][seed] is not None]
        unread = len(rows[0]) - len(both)
        pairs = [_shares([by_seed[seed] for seed in both], len(values), unread=unread) for by_seed in rows]
        return PromptShares(prompt=prompt, base=base, adapted=adapted, pairs_base=pairs[0], pairs_adapted=pairs[1])


def _row(values: Sequence[str], read: Iterable[str | None]) -> Floats | None:
    found = [value for value in read if value is not None]
    if not found:
        return None
    return np.array([found.count(value) / len(found) for value in values])


def _shares(rows: Sequence[Floats | None], count: int, *, unread: int = 0) -> Shares:
    read = [row for row in rows if row is not None]
    images_NK = np.stack(read) if read else np.zeros((0, count))
    return Shares(images_NK=images_NK, n_unread=len(rows) - len(read) + unread)
