"""The table of a sweep from run folders as programs leave them: its numbers are read back from the folders by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenhand.files import write_json_atomic
from evenhand.processes import folder_lock
from evenhand.run import Run
from evenhand.sweeps.rows import Row, read_rows, unfinished
from evenhand.sweeps.table import JSON_FILE, MARKDOWN_FILE, PLOT_FILE, markdown, write_table, write_tables
from evenhand.training.outcome import Outcome, objective_of

COMMON: dict[str, Any] = {"base": {"name": "tiny"}, "method": {"preserve_weight": 1.0}, "data": "set", "tracker": None}


def config(rank: int, rate: float, seed: int) -> dict[str, Any]:
    return {**COMMON, "lora": {"rank": rank}, "train": {"steps": 6}, "optim": {"learning_rate": rate}, "seed": seed}


def finished(folder: Path, *, loss: float, rank: int = 4, rate: float = 1e-4, seed: int = 0, **more: Any) -> Path:
    run = Run.open(folder, config={**config(rank, rate, seed), "run_name": folder.name}, seeds={}, inputs={})
    facts: dict[str, Any] = {"validation": None, "steps": 6, "kept_step": 6, "num_processes": 2}
    outcome = Outcome(**{**facts, "loss": loss, "peak_bytes": 600_000_000, "peak_device_bytes": None, **more})
    outcome.write(folder)
    run.finish()
    return folder


def measured(folder: Path, *, base: float, adapted: float, failed: tuple[str, ...] = ()) -> None:
    common = {
        "name": "distance_sq",
        "suite": "heldout",
        "attribute": "presentation",
        "concept": None,
        "n_images": 96,
        "n_prompts": 12,
        "level": 0.95,
    }
    values = {"base": base, "adapted": adapted, "shift": adapted - base}
    estimates = [
        {**common, "arm": arm, "value": value, "low": value - 0.05, "high": value + 0.05}
        for arm, value in values.items()
    ]
    other = {**common, "suite": "train", "arm": "adapted", "value": 99.0, "low": 99.0, "high": 99.0}
    guards = [{"name": name, "suite": "fixed", "passed": name not in failed} for name in ("explicit", "fixed")]
    verdict = {"suite": "heldout", "attribute": "presentation", "arm": "shift", "verdict": "improved"}
    primary = {"suite": "heldout", "attribute": "presentation"}
    content = {"primary": primary, "estimates": [other, *estimates], "guards": guards, "verdicts": [verdict]}
    write_json_atomic(folder / "evaluation" / "results.json", content)


def failed(folder: Path, error: str, *, when: str = "2026-11-22T10:00:00+00:00", rank: int = 0) -> None:
    content = {"error": error, "when": when, "overrides": [f"lora.rank={rank}"], "config": config(rank, 1e-4, 0)}
    write_json_atomic(folder / "failure.json", content)


def plan(folder: Path, jobs: dict[str, list[str]], *, last: list[str] | None = None) -> None:
    content = {"started": "2026-11-22T09:00:00+00:00", "last": list(jobs) if last is None else last, "jobs": jobs}
    write_json_atomic(folder / "sweep.json", content)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_a_row_holds_what_differs_what_came_out_and_what_it_cost(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5, rank=4)
    finished(tmp_path / "b", loss=0.4, rank=8, validation=-0.2)
    rows = by_name(read_rows(tmp_path))
    assert {name: dict(row.settings) for name, row in rows.items()} == {"a": {"lora.rank": 4}, "b": {"lora.rank": 8}}
    assert (rows["a"].loss, rows["b"].validation, rows["a"].status) == (0.5, -0.2, "finished")
    assert (rows["a"].peak_bytes, rows["a"].steps) == (600_000_000, 6)
    seconds = json.loads((tmp_path / "a" / "provenance.json").read_text())["wall_seconds"]
    assert rows["a"].wall_seconds == seconds


def test_every_end_that_a_run_can_have_is_told_from_the_others(tmp_path: Path) -> None:
    plan(tmp_path, {name: [f"lora.rank={number}"] for number, name in enumerate("abcdef")})
    finished(tmp_path / "a", loss=0.5, rank=4)
    failed(tmp_path / "b", "rank must be >= 1, got 0")
    Run.open(tmp_path / "c", config=config(2, 1e-4, 0), seeds={}, inputs={})
    Run.open(tmp_path / "d", config=config(3, 1e-4, 0), seeds={}, inputs={})
    with folder_lock(tmp_path / "d"):
        rows = by_name(read_rows(tmp_path))
    ends = {name: row.status for name, row in rows.items()}
    missing = {"e": "missing", "f": "missing"}
    assert ends == {"a": "finished", "b": "crashed", "c": "stopped", "d": "running", **missing}
    assert rows["b"].error == "rank must be >= 1, got 0"
    assert "by process" in str(rows["d"].error)
    assert dict(rows["f"].settings) == {"lora.rank": "5"}


def test_folders_of_other_programs_are_no_runs(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5)
    Run.open(tmp_path / "set", config={"recipe": {"num_images": 4}}, seeds={}, inputs={}).finish()
    (tmp_path / ".submitit").mkdir()
    assert [row.name for row in read_rows(tmp_path)] == ["a"]
    assert read_rows(tmp_path / "set") == []
    with pytest.raises(ValueError, match="holds no training runs"):
        write_table(tmp_path / "set")
    assert write_tables(tmp_path / "set") is None
    with pytest.raises(ValueError, match="there is no such folder"):
        read_rows(tmp_path / "nowhere")


def test_the_best_stands_first_by_what_was_measured_then_validated_then_lost(tmp_path: Path) -> None:
    for name, loss, validation, adapted in (
        ("far", 0.1, -0.1, 0.3),
        ("near", 0.9, -0.9, 0.1),
        ("valid", 0.8, -0.2, None),
        ("less_valid", 0.2, -0.5, None),
        ("lossy", 0.7, None, None),
        ("less_lossy", 0.6, None, None),
    ):
        finished(tmp_path / name, loss=loss, validation=validation, rank=len(name))
        if adapted is not None:
            measured(tmp_path / name, base=0.4, adapted=adapted)
    failed(tmp_path / "bad", "no")
    order = ["near", "far", "valid", "less_valid", "less_lossy", "lossy", "bad"]
    assert [row.name for row in read_rows(tmp_path)] == order


def test_a_failed_guard_is_a_cell_of_the_table(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5, rank=4)
    finished(tmp_path / "b", loss=0.6, rank=8)
    measured(tmp_path / "a", base=0.4, adapted=0.1)
    measured(tmp_path / "b", base=0.4, adapted=0.2, failed=("fixed",))
    lines = markdown("x", read_rows(tmp_path)).splitlines()
    (header,) = [line for line in lines if line.startswith("| rank")]
    first, second = (line for line in lines if line.startswith(("| 4 ", "| 8 ")))
    assert header.split(" | ")[1:6] == ["loss", "distance² to target", "verdict", "guards", "cost"]
    assert "0.400 → 0.100 (-0.300, -0.350 to -0.250, 12 prompts)" in first
    assert "all 2 held" in first
    assert "1 of 2 failed: fixed (fixed)" in second
    assert "99" not in first


def test_columns_that_nothing_is_known_of_are_left_out(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5)
    text = markdown("x", read_rows(tmp_path))
    assert "validation" not in text
    assert "guards" not in text
    assert "| loss | cost | status | run |" in text


def test_keys_that_end_alike_keep_what_stands_before(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        settings = {**config(4, 1e-4, 0), "x": {"rank": number}, "y": {"rank": number}}
        Run.open(tmp_path / name, config=settings, seeds={}, inputs={}).finish()
    assert "| x.rank | y.rank | loss |" in markdown("x", read_rows(tmp_path))


def test_a_line_break_or_a_bar_in_an_error_does_not_break_the_table(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5)
    failed(tmp_path / "b", "a | b\nc")
    table = [line for line in markdown("x", read_rows(tmp_path)).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "a \\| b c" in table[-1]


def test_the_three_files_say_the_same(tmp_path: Path) -> None:
    for number in range(4):
        finished(tmp_path / f"run{number}", loss=0.5 + number / 10, rank=4 + number)
        measured(tmp_path / f"run{number}", base=0.4, adapted=0.1 * number, failed=("fixed",) if number else ())
    failed(tmp_path / "bad", "no")
    rows = write_table(tmp_path)
    written = json.loads((tmp_path / JSON_FILE).read_text())["runs"]
    assert written == [json.loads(json.dumps(asdict(row))) for row in rows]
    assert (tmp_path / MARKDOWN_FILE).read_text() == markdown(tmp_path.name, rows)
    with Image.open(tmp_path / PLOT_FILE) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue, red = (0x1B, 0x49, 0x65), (0xC1, 0x12, 0x1F)
    for colour, found in ((blue, True), (red, True), ((1, 2, 3), False)):
        assert bool((pixels == colour).all(axis=1).any()) is found


def test_a_sweep_that_went_well_has_nothing_to_say(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5)
    plan(tmp_path, {"a": []})
    assert write_tables(tmp_path) is None


def test_jobs_that_did_not_finish_are_named_with_the_reason(tmp_path: Path) -> None:
    finished(tmp_path / "a", loss=0.5)
    failed(tmp_path / "b", "no luck")
    plan(tmp_path, {"a": [], "b": [], "c": []})
    message = write_tables(tmp_path)
    assert message is not None
    assert "2 of 3 runs" in message
    assert "b crashed (no luck); c missing" in message


def test_only_the_last_sweeps_own_jobs_are_blamed_on_it(tmp_path: Path) -> None:
    failed(tmp_path / "old", "long ago", when="2026-11-21T00:00:00+00:00", rank=1)
    failed(tmp_path / "chosen", "a trial of a search", when="2026-11-22T12:00:00+00:00", rank=2)
    plan(tmp_path, {"old": []}, last=[])
    assert [row.name for row in unfinished(tmp_path, read_rows(tmp_path))] == ["chosen"]


def test_the_objective_is_what_was_declared(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", loss=0.5, validation=-0.25)
    measured(folder, base=0.4, adapted=0.125)
    assert [objective_of(folder, name) for name in ("loss", "validation", "distance_sq")] == [0.5, -0.25, 0.125]
    other = finished(tmp_path / "b", loss=0.5)
    with pytest.raises(ValueError, match="has no validation to give as the objective"):
        objective_of(other, "validation")


def test_a_long_reason_is_cut_in_words_and_whole_in_json(tmp_path: Path) -> None:
    reason = "the loss is nan with the images " + ", ".join(f"train/{number:06d}.png" for number in range(200))
    failed(tmp_path / "b", reason)
    plan(tmp_path, {"b": []})
    message = write_tables(tmp_path)
    assert message is not None
    for text in (message, (tmp_path / MARKDOWN_FILE).read_text()):
        assert "crashed" in text
        assert "train/000000.png, " in text
        assert "train/000199.png" not in text
    assert json.loads((tmp_path / JSON_FILE).read_text())["runs"][0]["error"] == reason
