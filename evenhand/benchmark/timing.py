"""Clocks and what is said of their readings: medians, quartiles, and ratios of runs that took turns.

Absolute times tell about a machine and its load. What compares two pieces of work is the ratio of readings that were
taken one after the other in one process, again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LEVEL = 0.95


class Clock:
    """Marks points in time on a device and tells the seconds between them.

    On a GPU a mark is an event in the stream of work: it neither waits nor makes the GPU wait, and the seconds are read
    at the end. On a CPU it is the time.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def mark(self) -> Mark:
        """Now, as the device sees it."""
        if not self.on_gpu:
            return Mark(seconds=time.perf_counter(), event=None)
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch does not type it
        event.record()
        return Mark(seconds=time.perf_counter(), event=event)

    def between(self, first: Mark, second: Mark) -> float:
        """Seconds from one mark to another; on a GPU it waits for both."""
        if first.event is None or second.event is None:
            return second.seconds - first.seconds
        second.event.synchronize()
        return float(first.event.elapsed_time(second.event)) / 1000.0  # milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point in time: the process's, and the device's where it has one of its own."""

    seconds: float
    event: torch.cuda.Event | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Readings of one piece of work, in seconds: their number, median and quartiles."""

    n: int
    median: float
    quartile_1: float
    quartile_3: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long one piece of work takes as another.

    ``value`` is the ratio of the medians; ``low`` and ``high`` bound the median ratio of neighbouring readings.
    """

    n: int
    value: float
    low: float
    high: float


def timing(seconds: Sequence[float]) -> Timing:
    """What the readings say; ValueError for none."""
    if not seconds:
        raise ValueError("there is nothing to take a median of: no readings")
    quartile_1, median, quartile_3 = np.quantile(np.asarray(seconds, dtype=np.float64), [0.25, 0.5, 0.75])
    return Timing(n=len(seconds), median=float(median), quartile_1=float(quartile_1), quartile_3=float(quartile_3))


def ratio(work: Sequence[float], reference: Sequence[float]) -> Ratio:
    """``work`` over ``reference``, whose readings were taken in turn; ValueError unless there are as many of both.

    The bounds are order statistics of the paired ratios (the interval that a sign test inverts to): they assume
    nothing about how times are distributed. With fewer than six pairs they are the extremes, and cover less than 95 %.
    """
    from scipy.stats import binom

    if len(work) != len(reference) or not work:
        raise ValueError(f"paired readings are needed, got {len(work)} and {len(reference)}")
    pairs = np.sort(np.asarray(work, dtype=np.float64) / np.asarray(reference, dtype=np.float64))
    place = max(int(binom.ppf((1 - LEVEL) / 2, len(pairs), 0.5)), 1)
    return Ratio(
        n=len(pairs),
        value=timing(work).median / timing(reference).median,
        low=float(pairs[place - 1]),
        high=float(pairs[-place]),
    )


def in_turn(first: Callable[[], object], second: Callable[[], object], *, pairs: int, clock: Clock) -> TurnTimes:
    """Run two pieces of work in turn, after one run of each to warm up, and give the seconds that each took."""
    first_marks, second_marks = [], []
    for turn in range(pairs + 1):
        start = clock.mark()
        first()
        middle = clock.mark()
        second()
        end = clock.mark()
        if turn:
            first_marks.append((start, middle))
            second_marks.append((middle, end))
    return TurnTimes(
        first=[clock.between(*marks) for marks in first_marks], second=[clock.between(*marks) for marks in second_marks]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTimes:
    """Seconds of two pieces of work that took turns."""

    first: list[float]
    second: list[float]
