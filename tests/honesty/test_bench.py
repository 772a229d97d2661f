"""Repetitions: their number, their seeds, and that processes change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evenhand.honesty.bench import Bench, open_bench
from evenhand.honesty.traps import Stopped, stopped


def test_the_number_of_processes_changes_no_result(tmp_path: Path) -> None:
    with open_bench(full=False, seed=3, num_processes=2, work_folder=tmp_path) as bench:
        together = bench.repeat(stopped, runs=50, effect=0.1)
    alone = Bench(full=False, seed=3, work_folder=tmp_path).repeat(stopped, runs=50, effect=0.1)
    assert together == alone


def draw(rng: np.random.Generator, *, scale: float) -> float:
    return float(rng.random() * scale)


def test_runs_seeds_and_scenarios_draw_differently(tmp_path: Path) -> None:
    bench, other = (Bench(full=False, seed=seed, work_folder=tmp_path) for seed in (0, 1))
    runs = bench.repeat(draw, runs=30, scale=1.0)
    assert len(set(runs)) == 30
    assert runs == bench.repeat(draw, runs=30, scale=1.0)
    assert not set(runs) & set(other.repeat(draw, runs=30, scale=1.0))
    assert not set(runs) & {value / 2 for value in bench.repeat(draw, runs=30, scale=2.0)}


def test_more_runs_begin_with_the_same_ones(tmp_path: Path) -> None:
    bench = Bench(full=False, seed=0, work_folder=tmp_path)
    assert bench.repeat(draw, runs=50, scale=1.0)[:10] == bench.repeat(draw, runs=10, scale=1.0)


def test_full_and_fast_differ_in_runs(tmp_path: Path) -> None:
    assert Bench(full=True, seed=0, work_folder=tmp_path).runs() == 1000
    assert Bench(full=False, seed=0, work_folder=tmp_path).runs() <= 200


def test_no_process_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="num_processes must be >= 1, got 0"),
        open_bench(full=False, seed=0, num_processes=0, work_folder=tmp_path),
    ):
        pass


def test_what_was_stopped_is_told(tmp_path: Path) -> None:
    (one,) = Bench(full=False, seed=0, work_folder=tmp_path).repeat(stopped, runs=1, effect=0.4)
    assert isinstance(one, Stopped)
    assert one.found
