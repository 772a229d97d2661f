"""The processes that a launcher started, as ranks that share a piece of work, and the device of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from evenhand.processes import ChildCrashed, OneProcess, Ranks, leave_group_at_exit

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
PATIENCE = timedelta(days=1)  # ranks wait for the slowest one's share

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`evenhand.processes.Ranks` of the processes of torch.distributed's default group, which must be standing."""

    rank: int
    num_ranks: int

    def gather(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of all ranks, in rank order."""
        import torch.distributed as dist

        gathered: list[list[Row]] = [[] for _ in range(self.num_ranks)]
        with _others_may_end():
            dist.all_gather_object(gathered, list(rows))
        return [row for part in gathered for row in part]

    def wait(self) -> None:
        """Come back when every rank has come here."""
        import torch.distributed as dist

        with _others_may_end():
            dist.barrier()


@contextmanager
def _others_may_end() -> Iterator[None]:
    """Inside, what a collective raises when another process has ended becomes one line: that one tells the cause."""
    try:
        yield
    except RuntimeError as error:
        raise ChildCrashed(
            f"another of the processes has ended, and this one cannot go on without it ({str(error).splitlines()[0]})"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """This process among those that were started together, and the device that it works on."""

    ranks: Ranks
    device: torch.device


def join_group(device: str, *, num_threads: int) -> Worker:
    """Join the processes that a launcher started, if it was one, on ``device``: cpu, cuda, or auto.

    On a CPU, torch computes with ``num_threads``, which decide the last bits of what it computes. ValueError for
    another device, or for cuda where there is no GPU.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if num_threads < 1:
        raise ValueError(f"num_threads must be >= 1, got {num_threads}")
    import torch
    from accelerate import PartialState

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU; device=auto takes the CPU then")
    torch.set_num_threads(num_threads)
    leave_group_at_exit()
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    rank, num_ranks = state.process_index, state.num_processes
    ranks: Ranks = OneProcess() if num_ranks == 1 else Group(rank=rank, num_ranks=num_ranks)
    # of several processes the state's device is "cpu:0", which is the same and not equal
    return Worker(ranks=ranks, device=state.device if state.device.type != "cpu" else torch.device("cpu"))
