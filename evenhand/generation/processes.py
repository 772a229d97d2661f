"""Several processes on one CPU make a plan's images together: faster than several threads of one, and the same images.

Small networks gain nothing from a second thread, but two processes of one thread are nearly twice as fast as one.
With GPUs the program itself is started once for each (``accelerate launch``), and nothing here is used.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType

from evenhand.generation.arms import Work, generate_arms
from evenhand.interfaces import Base, LoadedBase

log = logging.getLogger(__name__)

# A process takes some seconds to import its libraries and to load the base: below this it is not worth its start.
MIN_SECONDS_OF_A_PROCESS = 20.0
# Each process holds the base: all together, with twice the UNet's size for each, may fill this share of the memory.
MEMORY_SHARE = 0.5


def best_number(*, seconds: float, num_threads: int, unet_bytes: int) -> int:
    """How many processes finish the work of ``seconds`` soonest on this machine's free cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = int(MEMORY_SHARE * memory_bytes / (2 * max(unet_bytes, 1)))
    worthwhile = math.ceil(seconds / MIN_SECONDS_OF_A_PROCESS)
    return max(1, min(cores // num_threads, fitting, worthwhile))


class Crew:
    """This process, which is ``rank``, and for a CPU further ones of its own; a context manager that ends them.

    With ``num_processes`` above 1 there is one rank, this one, and each further process takes a share of its work.
    """

    def __init__(
        self,
        work: Work,
        base: LoadedBase,
        base_choice: Base,
        *,
        num_processes: int,
        num_threads: int,
        rank: int,
        num_ranks: int,
    ) -> None:
        if num_processes > 1 and num_ranks > 1:
            raise ValueError(
                f"num_processes={num_processes} starts processes from one, but {num_ranks} were launched already; "
                "leave num_processes out"
            )
        self._work, self._base = work, base
        self._rank, self._num_ranks = rank, max(num_ranks, num_processes)
        context = multiprocessing.get_context("spawn")
        self._helpers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        for helper_rank in range(1, num_processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, work, base_choice, num_threads, helper_rank, num_processes)
            process = context.Process(target=_help, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._helpers.append((process, ours))

    def make(self, *, arms: Sequence[str], num_rounds: int | None) -> None:
        """Make what is missing of the arms' first rounds; back when this process and its own have done so."""
        for _, connection in self._helpers:
            connection.send((tuple(arms), num_rounds))
        generate_arms(
            self._work, self._base, arms=arms, num_rounds=num_rounds, rank=self._rank, num_ranks=self._num_ranks
        )
        for process, connection in self._helpers:
            try:
                connection.recv()
            except EOFError as error:
                process.join()
                raise RuntimeError(
                    f"a process that made images ended with code {process.exitcode}; the same command goes on"
                ) from error

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process, connection in self._helpers:
            connection.close()
            if kind is not None:
                process.terminate()
            process.join()


def _help(connection: Connection, work: Work, base_choice: Base, num_threads: int, rank: int, num_ranks: int) -> None:
    """A further process: make its share of each order until the orders end."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who interrupts the first process ends this one through it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(num_threads)
    base = base_choice.load(device=torch.device("cpu"), dtype=torch.float32)
    while True:
        try:
            arms, num_rounds = connection.recv()
        except EOFError:
            return
        connection.send(generate_arms(work, base, arms=arms, num_rounds=num_rounds, rank=rank, num_ranks=num_ranks))


def _end_with_parent() -> None:
    """End this process as soon as its parent has died, however it died: nobody else may write into the folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
