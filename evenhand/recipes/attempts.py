"""Which attempts fill the slots of a plan, and what came of them.

Slots are tried in rounds. The batches of a round are cut before it begins, so it does not matter which process makes
which of them; every process then learns what came of all, and cuts the same next round. A slot gets the first attempt
that is confirmed. When few slots are left that keep failing, a round tries each of them several times, in one batch.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.captions.quotas import Cell, cell_name
from evenhand.files import append_jsonl, read_jsonl
from evenhand.recipes.curated_plan import CuratedPlan, Slot
from evenhand.recipes.report import CellAccount
from evenhand.seeds import derive

log = logging.getLogger(__name__)

ATTEMPTS = "attempts.jsonl"
UNDER_WAY = "attempts"  # the folder of what each process has done of the round that it is in
NUM_SHOWN = 3

CellKey = tuple[str, Cell]
# For each reader why it refuses the image, or None where it confirms it.
Outcome = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to fill a slot."""

    slot: Slot
    number: int
    seed: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from other attempts of the set."""
        return self.slot.index, self.number


Batch = Sequence[Attempt]


class BudgetSpent(ValueError):
    """Cells whose budget is spent; the message names them, and the cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Who confirms an image: with ``every``, all readers must; otherwise the first decides, and others are counted."""

    readers: tuple[str, ...]
    every: bool

    def refusal(self, outcome: Outcome) -> str | None:
        """Why an image is refused, None when it is confirmed; a reader that stands alone with its refusal is named."""
        decisive = outcome if self.every else outcome[:1]
        refusing = [(name, reason) for name, reason in zip(self.readers, decisive, strict=False) if reason is not None]
        if not refusing:
            return None
        name, reason = refusing[0]
        return reason if len(refusing) == len(outcome) else f"{reason} ({name} only)"

    def disagree(self, outcome: Outcome) -> bool:
        """Whether some readers confirm an image and others refuse it."""
        return len({reason is None for reason in outcome}) > 1


class Filling:
    """How far a plan's slots are filled; every process comes to the same state from the same outcomes.

    ``max_attempts_factor`` times a cell's quota is its budget.
    """

    def __init__(
        self, plan: CuratedPlan, confirmation: Confirmation, *, batch_size: int, max_attempts_factor: int
    ) -> None:
        self._plan = plan
        self._confirmation = confirmation
        self._batch_size = batch_size
        self._max_attempts_factor = max_attempts_factor
        self._unfilled = {slot.index: slot for slot in plan.slots}
        self._num_tried: Counter[int] = Counter()
        self._refused: dict[CellKey, Counter[str]] = {}
        self._quota = Counter((slot.concept, slot.cell) for slot in plan.slots)
        self.filled: dict[int, Attempt] = {}

    def rounds(self) -> Iterator[list[Batch]]:
        """The batches of one round after another, until all is filled; ValueError names cells whose budget is spent.

        The outcomes of a round are to be given to ``learn`` before the next one is asked for.
        """
        number = 0
        while self._unfilled:
            self._check_budget()
            attempts = list(self._attempts(number))
            if number:
                log.info("round %d: %d of %d images are still to be confirmed", number + 1, *self._progress())
            yield [attempts[start : start + self._batch_size] for start in range(0, len(attempts), self._batch_size)]
            number += 1

    def winners(self, batch: Batch, outcomes: Sequence[Outcome]) -> dict[int, Attempt]:
        """By its position in the batch, the first confirmed attempt of each slot that the batch fills."""
        found: dict[int, int] = {}
        for position, (attempt, outcome) in enumerate(zip(batch, outcomes, strict=True)):
            if self._confirmation.refusal(outcome) is None:
                found.setdefault(attempt.slot.index, position)
        return {position: batch[position] for position in found.values()}

    def learn(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Take in what came of a batch; the batches of a round in their order."""
        for attempt, outcome in zip(batch, outcomes, strict=True):
            slot = attempt.slot
            self._num_tried[slot.index] += 1
            reason = self._confirmation.refusal(outcome)
            if reason is not None:
                self._refused.setdefault((slot.concept, slot.cell), Counter())[reason] += 1
        for attempt in self.winners(batch, outcomes).values():
            del self._unfilled[attempt.slot.index]
            self.filled[attempt.slot.index] = attempt

    def _progress(self) -> tuple[int, int]:
        return len(self._unfilled), len(self._plan.slots)

    def _attempts(self, round_number: int) -> Iterator[Attempt]:
        """One attempt for each slot; when few slots are left that keep failing, several, up to a batch in all."""
        slots = list(self._unfilled.values())
        several = min(2 ** max(0, round_number - 1), max(1, self._batch_size // len(slots)))
        for more in range(several):
            for slot in slots:
                number = self._num_tried[slot.index] + more
                seed = derive(self._plan.seed, "image", slot.concept, *slot.cell, slot.place, number)
                yield Attempt(slot=slot, number=number, seed=seed)

    def _check_budget(self) -> None:
        """Raise ValueError for the cells that have unfilled slots and no attempts left."""
        tried: Counter[CellKey] = Counter()
        for slot in self._plan.slots:
            tried[slot.concept, slot.cell] += self._num_tried[slot.index]
        empty = Counter((slot.concept, slot.cell) for slot in self._unfilled.values())
        spent = [key for key in empty if tried[key] >= self._max_attempts_factor * self._quota[key]]
        if not spent:
            return
        told = []
        for key in spent[:NUM_SHOWN]:
            reasons = ", ".join(f"{reason} {times}x" for reason, times in self._refused[key].most_common(NUM_SHOWN))
            told.append(
                f"{key[0]}, cell {cell_name(self._plan.attributes, key[1])}: {self._quota[key] - empty[key]} of "
                f"{self._quota[key]} confirmed in {tried[key]} attempts (refused: {reasons})"
            )
        more = f"; and {len(spent) - NUM_SHOWN} more" if len(spent) > NUM_SHOWN else ""
        raise BudgetSpent(
            f"budget spent for {'; '.join(told)}{more}; the base hardly makes these: raise max_attempts_factor "
            f"(now {self._max_attempts_factor}; the same command then goes on), or change templates or target"
        )


class Journal:
    """What came of each batch, so that a killed build goes on where it stopped.

    Whole rounds stand in ``attempts.jsonl``, a line a batch, in their order. What the processes have done of a round
    stands in a file of each until the round is whole; so a build may go on with another number of processes.
    """

    def __init__(self, folder: Path, *, rank: int, num_readers: int) -> None:
        self._path = folder / ATTEMPTS
        self._under_way = folder / UNDER_WAY
        self._own = self._under_way / f"rank-{rank:05d}.jsonl"
        self._num_readers = num_readers
        self._lines = deque(enumerate(read_jsonl(self._path), start=1))
        self._num_in_file = 0
        self._found: dict[tuple[tuple[int, int], ...], tuple[Outcome, ...]] = {}
        for path in sorted(self._under_way.glob("*.jsonl")):
            self._found |= {_keys(line): _outcomes(line) for line in read_jsonl(path)}

    def begin(self, batches: Sequence[Batch]) -> list[Sequence[Outcome] | None]:
        """Each batch of a round's outcomes where it was made before; ValueError for the lines of another build."""
        known: list[Sequence[Outcome] | None] = []
        self._num_in_file = min(len(self._lines), len(batches))
        for batch in batches:
            keys = tuple(attempt.key for attempt in batch)
            outcomes = self._found.pop(keys, None)
            if self._lines:
                number, line = self._lines.popleft()
                outcomes = _outcomes(line)
                if _keys(line) != keys or {len(outcome) for outcome in outcomes} != {self._num_readers}:
                    raise ValueError(
                        f"{self._path} line {number} is not of this build; remove the folder to start again"
                    )
            known.append(outcomes)
        return known

    def note(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Note a batch, its images being on the disk."""
        append_jsonl(self._own, [_line(batch, outcomes)])

    def end(self, batches: Sequence[Batch], outcomes: Sequence[Sequence[Outcome]]) -> None:
        """Write down a round whose outcomes every process knows; one process does."""
        lines = [_line(batch, found) for batch, found in zip(batches, outcomes, strict=True)]
        append_jsonl(self._path, lines[self._num_in_file :])

    def close(self) -> None:
        """Remove what only an unfinished round needs; one process does, when all of them are done."""
        shutil.rmtree(self._under_way, ignore_errors=True)


def acceptance(folder: Path, plan: CuratedPlan, confirmation: Confirmation) -> tuple[CellAccount, ...]:
    """What every cell took, counted from the journal, in the order in which cells were tried first."""
    outcomes: dict[CellKey, list[Outcome]] = {}
    for line in read_jsonl(folder / ATTEMPTS):
        for (index, _), outcome in zip(_keys(line), _outcomes(line), strict=True):
            slot = plan.slots[index]
            outcomes.setdefault((slot.concept, slot.cell), []).append(outcome)
    names = [attribute.name for attribute in plan.attributes]
    accounts = []
    for (concept, cell), found in outcomes.items():
        reasons = [confirmation.refusal(outcome) for outcome in found]
        accounts.append(
            CellAccount(
                concept=concept,
                labels=dict(zip(names, cell, strict=True)),
                attempts=len(found),
                confirmed=reasons.count(None),
                refused=dict(Counter(reason for reason in reasons if reason is not None).most_common()),
                disagreed=sum(map(confirmation.disagree, found)),
            )
        )
    return tuple(accounts)


def _line(batch: Batch, outcomes: Sequence[Outcome]) -> dict[str, Any]:  # Any: JSON
    return {"attempts": [[*attempt.key, *outcome] for attempt, outcome in zip(batch, outcomes, strict=True)]}


def _keys(line: dict[str, Any]) -> tuple[tuple[int, int], ...]:  # Any: JSON
    return tuple((entry[0], entry[1]) for entry in line.get("attempts", []))


def _outcomes(line: dict[str, Any]) -> tuple[Outcome, ...]:  # Any: JSON
    return tuple(tuple(entry[2:]) for entry in line.get("attempts", []))
