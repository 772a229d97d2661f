"""Repeats a simulation in several processes. Every run has a seed of its own, so their number changes no result."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from evenhand.files import sha256_json
from evenhand.seeds import derive

Result = TypeVar("Result")
CHUNK_RUNS = 20
FULL_RUNS, FAST_RUNS = 1000, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What checks run on. ``work_folder`` is theirs to write into; ``pool`` is None to stay in this process."""

    full: bool
    seed: int
    work_folder: Path
    pool: ProcessPoolExecutor | None = None

    def runs(self, *, full: int = FULL_RUNS, fast: int = FAST_RUNS) -> int:
        """How many repetitions."""
        return full if self.full else fast

    def folder(self, name: str) -> Path:
        """A new empty folder."""
        path = self.work_folder / name
        path.mkdir(parents=True)
        return path

    def repeat(
        self,
        simulate: Callable[..., Result],
        *,
        runs: int,
        **scenario: Any,  # Any: numbers and names that the simulation takes as keywords
    ) -> list[Result]:
        """``simulate(rng, **scenario)`` once for each run, in order. It must be a function of a module."""
        chunks = [range(start, min(start + CHUNK_RUNS, runs)) for start in range(0, runs, CHUNK_RUNS)]
        if self.pool is None:
            return [result for chunk in chunks for result in _run_chunk(simulate, scenario, self.seed, chunk)]
        futures = [self.pool.submit(_run_chunk, simulate, scenario, self.seed, chunk) for chunk in chunks]
        return [result for future in futures for result in future.result()]


def _run_chunk(
    simulate: Callable[..., Result],
    scenario: Mapping[str, Any],  # Any: see repeat
    seed: int,
    chunk: Sequence[int],
) -> list[Result]:
    name = f"{simulate.__module__}.{simulate.__qualname__}"
    root = derive(seed, "selftest", name, sha256_json(scenario))
    return [simulate(np.random.default_rng(derive(root, run)), **scenario) for run in chunk]


@contextmanager
def open_bench(*, full: bool, seed: int, num_processes: int, work_folder: Path) -> Iterator[Bench]:
    """A bench with that many processes; one process means this one."""
    if num_processes < 1:
        raise ValueError(f"num_processes must be >= 1, got {num_processes} (conf/selftest.yaml: num_processes)")
    if num_processes == 1:
        yield Bench(full=full, seed=seed, work_folder=work_folder)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores among themselves
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        yield Bench(full=full, seed=seed, work_folder=work_folder, pool=pool)
