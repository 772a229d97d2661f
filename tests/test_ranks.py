"""Ranks with real processes over gloo: what they gather, and how one ends whose companion is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from evenhand.ranks import join_group

PATIENCE_SECONDS = 60
RANKS = """
import os, sys
from evenhand.ranks import join_group
worker = join_group("cpu", num_threads=1)
ranks = worker.ranks
rows = ranks.gather([f"{ranks.rank}:{number}" for number in range(ranks.rank + 1)])
ranks.wait()
print(type(ranks).__name__, worker.device, ranks.rank, ranks.num_ranks, *rows, flush=True)
if ranks.rank == 0 and sys.argv[1:]:
    os._exit(1)
ranks.wait()
"""


def ranks_in_processes(number: int, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, *arguments],
            env={**os.environ, **(shared if number > 1 else {}), **(ranks_of(rank) if number > 1 else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    outputs = [process.communicate(timeout=PATIENCE_SECONDS) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


def ranks_of(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def test_ranks_gather_rows_in_rank_order_and_one_process_has_its_own() -> None:
    (alone,) = ranks_in_processes(1)
    assert alone.stdout.split() == ["OneProcess", "cpu", "0", "1", "0:0"], alone.stderr
    first, second = ranks_in_processes(2)
    assert first.stdout.split() == ["Group", "cpu", "0", "2", "0:0", "1:0", "1:1"], first.stderr
    assert second.stdout.split() == ["Group", "cpu", "1", "2", "0:0", "1:0", "1:1"]
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_rank_whose_companion_has_ended_says_so_and_does_not_wait_for_ever() -> None:
    _, second = ranks_in_processes(2, "end")
    assert second.returncode == 1
    assert "ChildCrashed: another of the processes has ended, and this one cannot go on without it" in second.stderr


@pytest.mark.parametrize(
    ("device", "num_threads", "problem"),
    [("gpu", 1, "device must be one of auto, cpu, cuda, got 'gpu'"), ("cpu", 0, "num_threads must be >= 1, got 0")],
)
def test_a_device_or_a_number_of_threads_that_cannot_be_is_refused(device: str, num_threads: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        join_group(device, num_threads=num_threads)
