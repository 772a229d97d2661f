"""A run's result outlives its folder: what is kept is what was measured, and nothing else passes for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evenhand.files import sha256_file, write_json_atomic
from evenhand.method_benchmark.bars import Bar
from evenhand.method_benchmark.kept import kept_file
from evenhand.method_benchmark.measured import measured
from evenhand.method_benchmark.plan import Benchmark, Run, note_of
from evenhand.method_benchmark.running import results, run_all
from tests.method_benchmark.made import a_run, estimate_row, the_benchmark

GAP = Bar(case="occupations", says="gap", figure="rms_gap", suite="heldout", attribute="presentation", most=0.3)
WOMEN = Bar(case="occupations", says="women", figure="share:woman", suite="heldout", least=0.4, most=0.6)
ROWS = (
    estimate_row("share:woman", "base", 0.9),
    estimate_row("share:woman", "adapted", 0.5),
    estimate_row("diversity", "shift", -0.2),
)


def done(home: Path, **changes: Any) -> tuple[Benchmark, Run]:
    """A benchmark of one run, and that run as its programs leave it."""
    settings: dict[str, Any] = {"seeds": (0,), "bars": {"gap": GAP, "women": WOMEN}, "results_folder": home / "kept"}
    benchmark = the_benchmark(home / "runs", **(settings | changes))
    (run,) = benchmark.runs
    a_run(home / "runs" / "occupations", "curated", 0, 0.5, estimates=ROWS)
    for step in benchmark.steps(run):
        step.done.parent.mkdir(parents=True, exist_ok=True)
        if not step.done.is_file():
            step.done.write_text("{}")
        needs = sha256_file(step.needs) if step.needs else None
        write_json_atomic(note_of(step), {"overrides": list(step.overrides), "needs": needs, "seconds": 7.0})
    return benchmark, run


def test_what_was_measured_is_there_when_its_folder_is_gone(tmp_path: Path) -> None:
    benchmark, run = done(tmp_path)
    own = measured(run, benchmark.bars)
    assert own.cost is not None
    assert own.bars["women"]["adapted"][0].interval.value == 0.5
    assert results(benchmark) == ([own], {})
    shutil.rmtree(tmp_path / "runs")
    assert results(benchmark) == ([own], {})
    run_all(benchmark)
    assert not (tmp_path / "runs").exists()  # nothing was built, trained or measured


def test_another_place_and_another_end_of_a_bar_ask_for_nothing_new(tmp_path: Path) -> None:
    benchmark, run = done(tmp_path)
    (own,), _ = results(benchmark)
    stricter = replace(WOMEN, least=0.45, says="as many women as men")
    moved = replace(benchmark, run_folder=tmp_path / "elsewhere", bars={"gap": GAP, "women": stricter})
    (found,), missing = results(moved)
    assert missing == {}
    assert replace(found, run=run) == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ("train.steps=7",)}, "curated-s0.json was made with other overrides"),
        ({"evaluate": ("tier=quick",)}, "curated-s0.json was made with other overrides"),
        ({"evaluation_seed": 1}, "curated-s0.json was made with other overrides"),
        ({"bars": {"men": replace(WOMEN, figure="share:man")}}, "curated-s0.json has nothing of men"),
        ({"seeds": (1,)}, "not done yet: build the set of occupations, seed 1"),
    ],
)
def test_what_was_made_otherwise_is_not_taken_and_the_reason_is_told(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    benchmark, _ = done(tmp_path)
    results(benchmark)
    shutil.rmtree(tmp_path / "runs")
    found, missing = results(replace(benchmark, **changes))
    assert found == []
    (reason,) = missing.values()
    assert message in reason


def test_a_result_of_another_version_is_refused_and_one_that_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    benchmark, run = done(tmp_path)
    results(benchmark)
    place = kept_file(tmp_path / "kept", run)
    before = place.stat().st_mtime_ns
    results(benchmark)
    assert place.stat().st_mtime_ns == before
    place.write_text(json.dumps(json.loads(place.read_text()) | {"version": 0}))
    shutil.rmtree(tmp_path / "runs")
    assert "is of version 0, not 1; delete it" in results(benchmark)[1]["occupations, curated, seed 0"]


def test_a_folder_of_its_own_is_newer_than_what_is_kept(tmp_path: Path) -> None:
    benchmark, run = done(tmp_path)
    results(benchmark)
    place = run.folder / "evaluation" / "results.json"
    changed = json.loads(place.read_text())
    changed["guards"][0]["value"] = 0.015
    place.write_text(json.dumps(changed))
    (found,), _ = results(benchmark)
    assert found.guards[0].value == 0.015
    shutil.rmtree(tmp_path / "runs")
    assert results(benchmark)[0] == [found]
