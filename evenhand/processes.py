"""What ties processes to each other: a worker's ties to its launcher and its group, and the lock on a run folder."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Protocol, TypeVar

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
LOCK_WAIT_SECONDS = 30.0  # an orphan that was told to stop writes its last checkpoint
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAUNCHED = "LOCAL_RANK"  # set by accelerate launch and torchrun
DRIVEN = "EVENHAND_NUM_PROCESSES"  # set by evenhand's own driver: how many processes the child is to have

Row = TypeVar("Row")

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildCrashed(Exception):
    """A child process ended badly, and its message is one line for the user; its traceback is in its log."""


def is_worker() -> bool:
    """Whether a launcher started this process: torchrun, `accelerate launch`, or evenhand's driver."""
    return LAUNCHED in os.environ or DRIVEN in os.environ


class Ranks(Protocol):
    """The processes that do one piece of work together; this one is ``rank`` of ``num_ranks``.

    ``gather`` and ``wait`` are collective: every rank calls them equally often and in the same order, never inside an
    ``if rank``. `OneProcess` is the one of a program that was started alone.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def num_ranks(self) -> int:
        """How many processes there are."""

    def gather(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of all ranks, in rank order, on every rank. Rows must be picklable."""

    def wait(self) -> None:
        """Come back when every rank has come here."""


@dataclass(frozen=True, slots=True)
class OneProcess:
    """`Ranks` of a process that works alone."""

    rank: int = 0
    num_ranks: int = 1

    def gather(self, rows: Sequence[Row]) -> list[Row]:
        """The rows themselves."""
        return list(rows)

    def wait(self) -> None:
        """Nobody to wait for."""


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, even by SIGKILL (Linux only).

    Without it the workers of a killed launcher train on, hold the GPU, and write into the folder of their successor.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def leave_group_at_exit() -> None:
    """Have this process take gloo's threads down before it ends, however it ends.

    A process that ends with its group standing is now and then aborted by them ("terminate called without an active
    exception", exit code -6), after all its work was done. NCCL's group is left alone: after an error its shutdown may
    wait for a rank that is gone.
    """
    atexit.register(_leave_group)


def _leave_group() -> None:
    dist = sys.modules.get("torch.distributed")  # who has a group has imported it
    if dist is not None and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


@contextmanager
def folder_lock(folder: Path, *, wait_seconds: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock of a run folder inside the block; ValueError says who holds it when it is not free in time.

    The kernel releases it when the process ends, however it ends. On NFS it holds between machines only where the
    mount has locks (the default; not with ``nolock``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        _wait_for(file, folder, wait_seconds)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)


def _wait_for(file: IO[str], folder: Path, wait_seconds: float) -> None:
    deadline, said = time.monotonic() + wait_seconds, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                if not said:
                    log.info(
                        "%s is in use by %s; waiting up to %.0f s for it to end", folder, _holder(file), wait_seconds
                    )
                    said = True
                time.sleep(POLL_SECONDS)
                continue
            raise ValueError(
                f"{folder} is in use by {_holder(file)}; wait for it to end, stop it, or choose another run_name"
            ) from None
        except OSError as error:
            raise ValueError(f"{folder} cannot be locked ({error.strerror}): its file system has no locks") from error
        return


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return "another process"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def lock_holder(folder: Path) -> str | None:
    """Who works in a run folder at this moment, in words; None when nobody does."""
    path = folder / LOCK_FILE
    if not path.is_file():
        return None
    with path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
        except OSError:
            return None
        fcntl.flock(file, fcntl.LOCK_UN)
    return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
