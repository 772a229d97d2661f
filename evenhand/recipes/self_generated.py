"""The curated set from the base itself: explicit prompts, images that a reader confirms, neutral captions.

Every image is a function of (seed, concept, cell, place, attempt). Slots that are not confirmed are tried again, round
by round, until each is filled or its cell's budget is spent. Batches are cut from the attempts in a fixed order and
their outcomes go to ``attempts.jsonl``, one batch a line, so a killed build goes on with the same batches and ends with
the same bytes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evenhand.captions.quotas import Cell, cell_name
from evenhand.files import append_jsonl, read_jsonl
from evenhand.interfaces import Base, LoadedBase, LoadedReader, Reader, SamplingSettings
from evenhand.paths import model_path
from evenhand.recipes.curated_plan import CuratedPlan, Slot
from evenhand.recipes.curated_set import (
    PRESERVE,
    TRAIN,
    Origin,
    explicit_rows,
    image_name,
    request_row,
    save_image,
    train_row,
)
from evenhand.recipes.preserve import Preserve, Request
from evenhand.records import Example, SubjectReading
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch
    from PIL import Image

ATTEMPTS = "attempts.jsonl"
NUM_SHOWN = 3

CellKey = tuple[str, Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to fill a slot."""

    slot: Slot
    number: int
    seed: int


class SelfGenerated:
    """See the head of this file.

    ``concept_attribute`` is the reader's attribute whose value must be the concept's name; null where the reader has
    none, and then only the labels are confirmed. ``max_attempts_factor`` times a cell's quota is its budget. With
    ``preserve`` null there is no ``preserve/``.
    """

    def __init__(
        self,
        *,
        plan: CuratedPlan,
        base: Base,
        reader: Reader,
        concept_attribute: str | None,
        sampling: SamplingSettings,
        batch_size: int,
        dtype: Literal["float32", "float16", "bfloat16"],
        max_attempts_factor: int,
        license: str,
        preserve: Preserve | None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_attempts_factor", max_attempts_factor)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.plan = plan
        self.base = base
        self.reader = reader
        self.concept_attribute = concept_attribute
        self.sampling = sampling
        self.batch_size = batch_size
        self.dtype = dtype
        self.max_attempts_factor = max_attempts_factor
        self.preserve = preserve
        self.origin = Origin(source=f"self:{base.name}", confirmed_by=reader.name, license=license)
        self._check_reader()
        self.requests: list[Request] = []
        self.num_images = len(plan.slots)
        if preserve is not None:
            preserve.check(plan.heldout)
            self.requests = list(preserve.requests())
            self.num_images += len(self.requests) + (len(plan.slots) if preserve.explicit else 0)

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The models that lie on this machine; one from the hub is pinned by its revision instead."""
        models = {"base": self.base, "reader": self.reader}
        named = {name: model_path(part.model) for name, part in models.items() if hasattr(part, "model")}
        return {name: Path(model) for name, model in named.items() if Path(model).is_dir()}

    def build(self, folder: Path, *, device: torch.device) -> Iterator[Example]:
        """Fill every slot, then ``preserve/``; ValueError names the cells whose budget is spent."""
        models = _Models(self.base, self.reader, device=device, dtype=self.dtype)
        rows: dict[int, Example] = {}
        for attempt in self._fill(folder, models):
            rows[attempt.slot.index] = train_row(attempt.slot, self.origin, seed=attempt.seed)
            yield rows[attempt.slot.index]
        if self.preserve is None:
            return
        first = 0
        if self.preserve.explicit:
            yield from explicit_rows(folder, self.plan, rows)
            first = len(self.plan.slots)
        yield from self._generate_requests(folder, models, first_index=first)

    def _check_reader(self) -> None:
        wanted = {attribute.name: list(attribute.values) for attribute in self.plan.attributes}
        if self.concept_attribute is not None:
            wanted[self.concept_attribute] = [concept.name for concept in self.plan.concepts]
        for name, values in wanted.items():
            if name not in self.reader.attributes:
                raise ValueError(
                    f"reader {self.reader.name} does not read {name!r}; it reads {', '.join(self.reader.attributes)}"
                )
            missing = [value for value in values if value not in self.reader.attributes[name]]
            if missing:
                raise ValueError(
                    f"reader {self.reader.name} knows no {name}={missing[0]}; "
                    f"it knows {', '.join(self.reader.attributes[name])}"
                )

    def _fill(self, folder: Path, models: _Models) -> Iterator[Attempt]:
        """Yield the confirmed attempt of every slot, its image being on disk."""
        journal = _Journal(folder / ATTEMPTS)
        unfilled = {slot.index: slot for slot in self.plan.slots}
        num_tried: Counter[int] = Counter()
        refused: dict[CellKey, Counter[str]] = {}
        for round_number in count():
            if not unfilled:
                return
            self._check_budget(unfilled.values(), num_tried, refused)
            queue = deque(self._round(list(unfilled.values()), num_tried, round_number))
            while batch := _take(queue, unfilled, self.batch_size):
                for attempt, reason in zip(batch, self._outcomes(folder, journal, batch, models), strict=True):
                    slot = attempt.slot
                    num_tried[slot.index] += 1
                    if reason is not None:
                        refused.setdefault((slot.concept, slot.cell), Counter())[reason] += 1
                    elif unfilled.pop(slot.index, None) is not None:
                        yield attempt

    def _round(self, slots: Sequence[Slot], num_tried: Mapping[int, int], round_number: int) -> Iterator[Attempt]:
        """One attempt for each slot; when few slots are left that keep failing, several, up to a batch in all."""
        several = min(2 ** max(0, round_number - 1), max(1, self.batch_size // len(slots)))
        for more in range(several):
            for slot in slots:
                number = num_tried[slot.index] + more
                seed = derive(self.plan.seed, "image", slot.concept, *slot.cell, slot.place, number)
                yield Attempt(slot=slot, number=number, seed=seed)

    def _outcomes(self, folder: Path, journal: _Journal, batch: Sequence[Attempt], models: _Models) -> list[str | None]:
        """For each attempt why it was refused, or None; from the journal where this batch was made before."""
        keys = [[attempt.slot.index, attempt.number] for attempt in batch]
        known = journal.next(keys)
        if known is not None and all((folder / name).is_file() for name in _winners(batch, known)):
            return known
        captions, seeds = [item.slot.explicit for item in batch], [item.seed for item in batch]
        images = models.generate(captions, seeds, self.sampling)
        read = models.read(images)
        outcomes = [_refusal(subjects, self._wanted(item.slot)) for subjects, item in zip(read, batch, strict=True)]
        for name, position in _winners(batch, outcomes).items():
            save_image(images[position], folder / name)
        if known is None:
            journal.append(keys, outcomes)
        return outcomes

    def _wanted(self, slot: Slot) -> dict[str, str]:
        concept = {} if self.concept_attribute is None else {self.concept_attribute: slot.concept}
        return {**concept, **slot.labels}

    def _check_budget(
        self, unfilled: Collection[Slot], num_tried: Mapping[int, int], refused: Mapping[CellKey, Counter[str]]
    ) -> None:
        """Raise ValueError for the cells that have unfilled slots and no attempts left."""
        tried: Counter[CellKey] = Counter()
        quota: Counter[CellKey] = Counter()
        for slot in self.plan.slots:
            quota[slot.concept, slot.cell] += 1
            tried[slot.concept, slot.cell] += num_tried[slot.index]
        empty = Counter((slot.concept, slot.cell) for slot in unfilled)
        spent = [key for key in empty if tried[key] >= self.max_attempts_factor * quota[key]]
        if not spent:
            return
        told = []
        for key in spent[:NUM_SHOWN]:
            reasons = ", ".join(f"{reason} {times}x" for reason, times in refused[key].most_common(NUM_SHOWN))
            told.append(
                f"{key[0]}, cell {cell_name(self.plan.attributes, key[1])}: {quota[key] - empty[key]} of {quota[key]} "
                f"confirmed in {tried[key]} attempts (refused: {reasons})"
            )
        more = f"; and {len(spent) - NUM_SHOWN} more" if len(spent) > NUM_SHOWN else ""
        raise ValueError(
            f"budget spent for {'; '.join(told)}{more}; the base hardly makes these: raise max_attempts_factor "
            f"(now {self.max_attempts_factor}; the same command then goes on), or change templates or target"
        )

    def _generate_requests(self, folder: Path, models: _Models, *, first_index: int) -> Iterator[Example]:
        numbered = list(enumerate(self.requests, start=first_index))
        for start in range(0, len(numbered), self.batch_size):
            batch = numbered[start : start + self.batch_size]
            rows = [
                request_row(
                    request,
                    self.origin,
                    index=index,
                    seed=derive(self.plan.seed, PRESERVE, request.caption, request.number),
                )
                for index, request in batch
            ]
            if not all((folder / row.file_name).is_file() for row in rows):
                images = models.generate([row.text for row in rows], [row.seed for row in rows], self.sampling)
                for row, image in zip(rows, images, strict=True):
                    save_image(image, folder / row.file_name)
            yield from rows


class _Models:
    """The base and the reader, each loaded when it is first needed: a finished build loads neither."""

    def __init__(self, base: Base, reader: Reader, *, device: torch.device, dtype: str) -> None:
        self._base = base
        self._reader = reader
        self._device = device
        self._dtype = dtype
        self._loaded_base: LoadedBase | None = None
        self._loaded_reader: LoadedReader | None = None

    def generate(self, captions: Sequence[str], seeds: Sequence[int], sampling: SamplingSettings) -> list[Image.Image]:
        """One batch of images."""
        import torch

        if self._loaded_base is None:
            self._loaded_base = self._base.load(device=self._device, dtype=getattr(torch, self._dtype))
        return [made.image for made in self._loaded_base.generate(captions, seeds, sampling)]

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """The subject readings of each image."""
        if self._loaded_reader is None:
            self._loaded_reader = self._reader.load(device=self._device)
        return self._loaded_reader.read(images)


class _Journal:
    """The outcomes of each batch, one line a batch: replayed in order, then continued."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = deque(enumerate(read_jsonl(path), start=1))

    def next(self, keys: Sequence[Sequence[int]]) -> list[str | None] | None:
        """The outcomes of the next batch if it was made before; ValueError when another batch stands in its place."""
        if not self._lines:
            return None
        number, line = self._lines.popleft()
        attempts = line.get("attempts", [])
        if [entry[:2] for entry in attempts] != [list(key) for key in keys]:
            raise ValueError(f"{self._path} line {number} is not of this build; remove the folder to start again")
        return [entry[2] for entry in attempts]

    def append(self, keys: Sequence[Sequence[int]], outcomes: Sequence[str | None]) -> None:
        """Add a batch: for each attempt its slot, its number, and why it was refused (null: it was confirmed)."""
        entries = [[*key, outcome] for key, outcome in zip(keys, outcomes, strict=True)]
        append_jsonl(self._path, [{"attempts": entries}])


def _take(queue: deque[Attempt], unfilled: Collection[int], size: int) -> list[Attempt]:
    """The next batch of attempts whose slots are still unfilled; empty at the end of the round."""
    batch: list[Attempt] = []
    while queue and len(batch) < size:
        attempt = queue.popleft()
        if attempt.slot.index in unfilled:
            batch.append(attempt)
    return batch


def _winners(batch: Sequence[Attempt], outcomes: Sequence[str | None]) -> dict[str, int]:
    """The image name of each slot that the batch fills, with the position of its first confirmed attempt."""
    winners: dict[str, int] = {}
    for position, (attempt, reason) in enumerate(zip(batch, outcomes, strict=True)):
        if reason is None:
            winners.setdefault(image_name(TRAIN, attempt.slot.index), position)
    return winners


def _refusal(subjects: Sequence[SubjectReading], wanted: Mapping[str, str]) -> str | None:
    """Why an image is refused: the first wanted value that some subject does not show. None when all are confirmed."""
    for name, value in wanted.items():
        readings = [reading for reading in subjects if reading.attribute == name]
        if not readings:
            return f"{name} unread"
        for reading in readings:
            if reading.unread is not None:
                return f"{name} unread: {reading.unread.partition(' (')[0]}"  # details differ from image to image
            if reading.value != value:
                return f"{name}={reading.value}"
    return None
