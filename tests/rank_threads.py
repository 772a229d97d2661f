"""Ranks of one piece of work as threads of this process: the same collectives, without the seconds of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from evenhand.processes import Ranks

Result = TypeVar("Result")
PATIENCE_SECONDS = 60.0


@dataclass
class _Shared:
    """What ranks have in common: where they meet, and what each brought there."""

    barrier: threading.Barrier
    brought: dict[int, list[Any]] = field(default_factory=dict)


@dataclass
class ThreadRank:
    """`evenhand.processes.Ranks` among threads."""

    rank: int
    num_ranks: int
    shared: _Shared

    def gather(self, rows: Sequence[Any]) -> list[Any]:
        self.shared.brought[self.rank] = list(rows)
        self.wait()
        found = [row for rank in range(self.num_ranks) for row in self.shared.brought[rank]]
        self.wait()
        return found

    def wait(self) -> None:
        self.shared.barrier.wait(PATIENCE_SECONDS)


def on_ranks(num_ranks: int, work: Callable[[Ranks], Result]) -> list[Result]:
    """What ``work`` gives on each rank; an error of one of them is raised, and ends the others' waiting."""
    shared = _Shared(threading.Barrier(num_ranks))

    def guarded(rank: int) -> Result:
        try:
            return work(ThreadRank(rank, num_ranks, shared))
        except BaseException:
            shared.barrier.abort()
            raise

    with ThreadPoolExecutor(num_ranks) as threads:
        futures = [threads.submit(guarded, rank) for rank in range(num_ranks)]
    errors = [future.exception() for future in futures if future.exception() is not None]
    causes = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in [*causes, *errors]:
        assert error is not None
        raise error
    return [future.result() for future in futures]
