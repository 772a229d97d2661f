"""Stopping early: after each round, one seed of every prompt, whether the headline share has certainly changed.

The record is a function of the plan and the readings, so a run that was killed stops where it would have stopped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evenhand.evaluation.folder import SEQUENTIAL_FILE, load_readings, rounds
from evenhand.evaluation.plan import Plan
from evenhand.files import read_jsonl, write_jsonl_atomic
from evenhand.records import Reading
from evenhand.stats.sequential import CHANGED, EXHAUSTED, NARROW, Betting

BINARY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a round showed of one value of the headline attribute: a row of ``sequential.jsonl``.

    ``shift`` is the mean over the primary prompts of adapted minus base in this round, ``mean`` that of all rounds so
    far, with its confidence sequence. Of ``n_pairs`` pairs ``n_read`` were read in both arms; others count as no shift.
    """

    round: int
    value: str
    n_pairs: int
    n_read: int
    shift: float
    mean: float
    e_value: float
    low: float | None
    high: float | None
    level: float
    how: str
    stopped: str | None


def until_settled(plan: Plan, folder: Path, *, is_main: bool, wait: Callable[[], None]) -> Iterator[int | None]:
    """How many rounds are to be made and read now, again and again, until the plan's rule says stop.

    A plan that is not sequential gives None, all rounds, once. ``wait`` lets processes wait for each other.
    """
    if plan.sequential is None:
        yield None
        return
    for num_rounds in range(1, len(rounds(plan, plan.arms[0])) + 1):
        yield num_rounds
        if is_main:
            write_jsonl_atomic(folder / SEQUENTIAL_FILE, map(asdict, looks(plan, load_readings(folder), num_rounds)))
        wait()
        if read_jsonl(folder / SEQUENTIAL_FILE)[-1]["stopped"] is not None:
            return


def looks(plan: Plan, readings: list[Reading], num_rounds: int) -> list[Look]:
    """The record of the first ``num_rounds`` rounds, up to the first reason to stop.

    Each value is bet on with an equal part of alpha (Bonferroni); the second of two values mirrors the first.
    """
    assert plan.sequential is not None
    values = plan.attributes[plan.primary.attribute]
    tracked = values[:1] if len(values) == BINARY else values
    shares = _shares(plan, readings)
    bets = {value: Betting(plan.alpha / len(tracked)) for value in tracked}
    all_rounds = rounds(plan, plan.arms[0])
    record: list[Look] = []
    for index, images in enumerate(all_rounds[:num_rounds]):
        pairs = [(prompt.id, seed) for prompt, seed in images if prompt.suite == plan.primary.suite]
        entries = []
        for value, betting in bets.items():
            differences = [_difference(plan, shares, pair, value) for pair in pairs]
            read = [difference for difference in differences if difference is not None]
            betting.update(np.array([difference or 0.0 for difference in differences]))
            interval = betting.confidence_sequence()
            entry = Look(
                round=index + 1,
                value=value,
                n_pairs=len(pairs),
                n_read=len(read),
                shift=sum(read) / len(pairs),
                mean=interval.value if interval.value is not None else 0.0,
                e_value=betting.e_value,
                low=interval.low,
                high=interval.high,
                level=1 - plan.alpha / len(tracked),
                how=interval.how,
                stopped=None,
            )
            entries.append(entry)
        reason = _reason(list(bets.values()), plan.sequential.width, is_last=index + 1 == len(all_rounds))
        record += [Look(**{**asdict(entry), "stopped": reason}) for entry in entries]
        if reason is not None:
            break
    return record


def _reason(bets: list[Betting], width: float | None, *, is_last: bool) -> str | None:
    reasons = [betting.stop(width=width) for betting in bets]
    if CHANGED in reasons:
        return CHANGED
    if all(reason == NARROW for reason in reasons):
        return NARROW
    return EXHAUSTED if is_last else None


Shares = dict[tuple[str, str, int], dict[str, float]]  # of (arm, prompt id, seed): shares of the values among subjects


def _shares(plan: Plan, readings: list[Reading]) -> Shares:
    """The shares of the headline's values among the subjects of each image that the plan's reader could read."""
    counts: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
    for reading in readings:
        if reading.reader == plan.reader and reading.attribute == plan.primary.attribute and reading.value is not None:
            counts[reading.arm, reading.prompt_id, reading.seed][reading.value] += 1
    return {key: {value: n / count.total() for value, n in count.items()} for key, count in counts.items()}


def _difference(plan: Plan, shares: Shares, pair: tuple[str, int], value: str) -> float | None:
    """Adapted minus base of one pair; None when one of the two was not read."""
    base, adapted = (shares.get((arm, *pair)) for arm in plan.arms)
    if base is None or adapted is None:
        return None
    return adapted.get(value, 0.0) - base.get(value, 0.0)
