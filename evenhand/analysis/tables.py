"""Readings as arrays: for each prompt, arm and attribute, what every image shows.

Letters: R readings (one subject of one image), N images, K values. Everything is sorted by prompt, seed and subject, so
the order of the lines of ``readings.jsonl`` changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evenhand.evaluation.plan import JOINT, Plan
from evenhand.records import Prompt, Reading

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
UNREAD = -1


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What an arm's images show of one attribute, in the order of (prompt, seed).

    ``prompt_N`` are places in ``plan.prompts``; ``counts_NK`` the subjects of each image that show each value,
    ``subjects_N`` all its subjects, read or not; the ``*_R`` arrays list the subjects themselves, by image.
    """

    prompt_N: Integers
    seed_N: Integers
    counts_NK: Floats
    subjects_N: Integers
    image_R: Integers
    subject_R: Integers
    value_R: Integers

    def of_prompt(self, place: int) -> slice:
        """Where a prompt's images are."""
        start, stop = np.searchsorted(self.prompt_N, [place, place + 1])
        return slice(int(start), int(stop))


def _images(keys_RX: Integers, value_R: Integers, num_values: int) -> Images:
    """Images from keys (prompt, seed, subject) that are sorted and differ."""
    if len(keys_RX) == 0:
        none = np.zeros(0, dtype=np.int64)
        return Images(
            prompt_N=none,
            seed_N=none,
            counts_NK=np.zeros((0, num_values)),
            subjects_N=none,
            image_R=none,
            subject_R=none,
            value_R=none,
        )
    new_R = np.ones(len(keys_RX), dtype=np.bool_)
    new_R[1:] = np.any(keys_RX[1:, :2] != keys_RX[:-1, :2], axis=1)
    image_R = np.cumsum(new_R) - 1
    count = int(image_R[-1]) + 1
    read_R = value_R != UNREAD
    cells_R = image_R[read_R] * num_values + value_R[read_R]
    counts_NK = np.bincount(cells_R, minlength=count * num_values).reshape(count, num_values).astype(np.float64)
    return Images(
        prompt_N=keys_RX[new_R, 0],
        seed_N=keys_RX[new_R, 1],
        counts_NK=counts_NK,
        subjects_N=np.bincount(image_R, minlength=count),
        image_R=image_R,
        subject_R=keys_RX[:, 2],
        value_R=value_R,
    )


def readers_of(plan: Plan, readings: Iterable[Reading]) -> tuple[str, ...]:
    """The readers that read, the primary one first: the plan's, else the one with most lines (ties: by name)."""
    lines: Counter[str] = Counter()
    for reading in readings:
        names = (reading.reader, reading.prompt_id, reading.arm, reading.attribute)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"reader, prompt_id, arm and attribute of every reading must be texts, got {list(names)}")
        lines[reading.reader] += 1
    if not lines:
        raise ValueError("there are no readings; run evaluate/read.py first, or bring another tool's readings")
    first = plan.reader if plan.reader in lines else min(lines, key=lambda name: (-lines[name], name))
    assert first is not None
    return (first, *sorted(set(lines) - {first}))


class ReadingTable:
    """One reader's readings by attribute, arm and prompt; of the primary reader where none is named.

    ``paired`` tells whether both arms have the same (prompt, seed) keys. ``arms`` holds the plan's two, and those of
    the dose that were read.
    """

    def __init__(self, plan: Plan, readings: Sequence[Reading], reader: str | None = None) -> None:
        self.plan = plan
        self.readers = readers_of(plan, readings)
        self.reader = self.readers[0] if reader is None else reader
        self._places = {prompt.id: place for place, prompt in enumerate(plan.prompts)}
        self._images: dict[tuple[str, str], Images] = {}
        self._encode([reading for reading in readings if reading.reader == self.reader])
        missing = [arm for arm in plan.arms if not any(found == arm for _, found in self._images)]
        if missing:
            raise ValueError(
                f"reader {self.reader} has no reading of arm {missing[0]} for the attributes {list(plan.attributes)}; "
                f"a comparison needs both arms {list(plan.arms)}"
            )
        self.arms = (*plan.arms, *(arm for arm in plan.dose_arms if any(found == arm for _, found in self._images)))
        self.paired = plan.paired and self._same_keys()

    def _encode(self, readings: Sequence[Reading]) -> None:
        """Sort the readings into arrays, refusing what the plan does not know and what stands there twice."""
        plan = self.plan
        arms = {arm: number for number, arm in enumerate((*plan.arms, *plan.dose_arms))}
        names = list(plan.attributes)
        codes: dict[str, dict[str | None, int]] = {
            name: {None: UNREAD, **{value: code for code, value in enumerate(values)}}
            for name, values in plan.attributes.items()
        }
        numbers = {name: number for number, name in enumerate(names)}
        rows: list[tuple[int, int, int, int, int, int]] = []
        for reading in readings:
            try:
                key = self._places[reading.prompt_id], arms[reading.arm]
                if reading.attribute not in codes:
                    continue
                code = codes[reading.attribute][reading.value]
                rows.append((numbers[reading.attribute], key[1], key[0], reading.seed, reading.subject, code))
            except (KeyError, TypeError):
                raise ValueError(self._unknown(reading)) from None
        if not all(type(row[3]) is int and type(row[4]) is int for row in rows):
            raise ValueError("seed and subject of every reading must be whole numbers")
        try:
            table = np.array(rows, dtype=np.int64).reshape(-1, 6)
        except OverflowError:
            raise ValueError(f"a seed must be below 2^63, got {max(row[3] for row in rows)}") from None
        order = np.lexsort(table[:, 4::-1].T)
        table = table[order]
        self._refuse_twice(table, readings)
        for name, attribute in numbers.items():
            for arm, number in arms.items():
                chosen = (table[:, 0] == attribute) & (table[:, 1] == number)
                if chosen.any():
                    images = _images(table[chosen][:, 2:5], table[chosen][:, 5], len(plan.attributes[name]))
                    self._images[name, arm] = images

    def _unknown(self, reading: Reading) -> str:
        where = f"reading of {reading.prompt_id}, seed {reading.seed}, arm {reading.arm}"
        if reading.prompt_id not in self._places:
            return f"{where}: the plan has no such prompt"
        if reading.arm not in (*self.plan.arms, *self.plan.dose_arms):
            return f"{where}: the plan's arms are {[*self.plan.arms, *self.plan.dose_arms]}"
        values = self.plan.attributes[reading.attribute]
        return f"{where}: {reading.attribute}={reading.value} is not one of {list(values)}"

    def _refuse_twice(self, table: Integers, readings: Sequence[Reading]) -> None:
        same = np.all(table[1:, :5] == table[:-1, :5], axis=1)
        if not same.any():
            return
        attribute, arm, place, seed, subject = (int(value) for value in table[1:][same][0, :5])
        arms = (*self.plan.arms, *self.plan.dose_arms)
        raise ValueError(
            f"reading of {self.plan.prompts[place].id}, seed {seed}, arm {arms[arm]}: subject {subject} has two "
            f"readings of {list(self.plan.attributes)[attribute]} by reader {self.reader}; keep one line"
        )

    def _same_keys(self) -> bool:
        for name in self.plan.attributes:
            base, adapted = (self.images(name, arm) for arm in self.plan.arms)
            if not (np.array_equal(base.prompt_N, adapted.prompt_N) and np.array_equal(base.seed_N, adapted.seed_N)):
                return False
        return True

    @cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The values of every attribute and of every joint, by name."""
        return {**self.plan.attributes, **self.plan.joint_attributes}

    def images(self, attribute: str, arm: str) -> Images:
        """What an arm's images show of an attribute or joint; empty where it was not read."""
        key = (attribute, arm)
        if key not in self._images:
            parts = next((names for names in self.plan.joints if JOINT.join(names) == attribute), None)
            none = np.zeros((0, 3), dtype=np.int64)
            self._images[key] = (
                self._joined(parts, arm)
                if parts is not None
                else _images(none, none[:, 0], len(self.values[attribute]))
            )
        return self._images[key]

    def _joined(self, names: Sequence[str], arm: str) -> Images:
        """The cells of several attributes; a subject of whom one part was not read is unread.

        Prompts of which a part was never read have no cells.
        """
        parts = [self.images(name, arm) for name in names]
        sizes = [len(self.plan.attributes[name]) for name in names]
        places = set.intersection(*(set(part.prompt_N.tolist()) for part in parts))
        keys = [np.stack([p.prompt_N[p.image_R], p.seed_N[p.image_R], p.subject_R], axis=1) for p in parts]
        kept = [np.isin(key[:, 0], list(places)) for key in keys]
        keys = [key[keep] for key, keep in zip(keys, kept, strict=True)]
        every, inverse = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        cell_R, start = np.zeros(len(every), dtype=np.int64), 0
        for part, key, keep, size in zip(parts, keys, kept, sizes, strict=True):
            code_R = np.full(len(every), UNREAD, dtype=np.int64)
            code_R[inverse[start : start + len(key)]] = part.value_R[keep]
            cell_R = np.where((cell_R == UNREAD) | (code_R == UNREAD), UNREAD, cell_R * size + code_R)
            start += len(key)
        return _images(every, cell_R, int(np.prod(sizes)))

    def place(self, prompt_id: str) -> int:
        """A prompt's place in the plan."""
        return self._places[prompt_id]

    def subjects(self, attribute: str, arm: str, prompt_id: str) -> Mapping[int, Mapping[int, str | None]]:
        """seed -> subject -> value, None for a subject that was not read; empty where there are no readings."""
        images, values = self.images(attribute, arm), self.values[attribute]
        where = images.of_prompt(self._places[prompt_id])
        found: dict[int, dict[int, str | None]] = {int(seed): {} for seed in images.seed_N[where]}
        first, last = np.searchsorted(images.image_R, [where.start, where.stop])
        seeds = images.seed_N[images.image_R[first:last]].tolist()
        subjects, codes = images.subject_R[first:last].tolist(), images.value_R[first:last].tolist()
        for seed, subject, code in zip(seeds, subjects, codes, strict=True):
            found[seed][subject] = None if code == UNREAD else values[code]
        return found

    def seeds_of(self, attribute: str, arm: str, prompt_id: str) -> list[int]:
        """Seeds of a prompt that have a reading of an attribute, in order."""
        images = self.images(attribute, arm)
        result: list[int] = images.seed_N[images.of_prompt(self._places[prompt_id])].tolist()
        return result

    def seeds(self, arm: str, prompt_id: str) -> set[int]:
        """Seeds of a prompt that have a reading of any attribute."""
        return {seed for name in self.plan.attributes for seed in self.seeds_of(name, arm, prompt_id)}

    def arm_shares(self, attribute: str, arm: str, prompt: Prompt, seeds: Collection[int]) -> Shares:
        """One prompt in one arm, of these seeds only."""
        images = self.images(attribute, arm)
        where = images.of_prompt(self._places[prompt.id])
        chosen = np.isin(images.seed_N[where], list(seeds))
        return _shares(_rows(images.counts_NK[where][chosen]))

    def prompt_shares(self, attribute: str, prompt: Prompt) -> PromptShares:
        """One prompt in both arms."""
        place = self._places[prompt.id]
        rows = []
        for arm in self.plan.arms:
            images = self.images(attribute, arm)
            where = images.of_prompt(place)
            rows.append(_rows(images.counts_NK[where]))
        base, adapted = (_shares(rows_NK) for rows_NK in rows)
        if not self.paired:
            return PromptShares(prompt=prompt, base=base, adapted=adapted, pairs_base=None, pairs_adapted=None)
        both = ~np.isnan(rows[0][:, 0]) & ~np.isnan(rows[1][:, 0])
        unread = int(len(both) - both.sum())
        pairs = [Shares(images_NK=rows_NK[both], n_unread=unread) for rows_NK in rows]
        return PromptShares(prompt=prompt, base=base, adapted=adapted, pairs_base=pairs[0], pairs_adapted=pairs[1])


def _rows(counts_NK: Floats) -> Floats:
    """Each image's shares of the values; NaN where no subject was read."""
    read_N = counts_NK.sum(axis=1)
    result: Floats = counts_NK / np.where(read_N > 0, read_N, np.nan)[:, None]
    return result


def _shares(rows_NK: Floats) -> Shares:
    read = ~np.isnan(rows_NK[:, 0])
    return Shares(images_NK=rows_NK[read], n_unread=int(len(read) - read.sum()))
