"""A report says what made its folder, and nothing of it depends on where the folder lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evenhand.evaluation.plan import load_plan
from evenhand.report.render import write_report
from evenhand.report.reproduction import facts, reproduction
from tests.report.full_folder import full_folder
from tests.report.page import page_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return full_folder(tmp_path / "run")


def made_by(folder: Path, **content: Any) -> dict[str, Any]:
    (folder / "provenance.json").write_text(json.dumps(content))
    (run,) = reproduction(load_plan(folder), folder)["runs"]
    return dict(run)


def test_the_command_is_the_one_that_gives_these_results_anywhere(folder: Path) -> None:
    words = ["/home/me/evenhand/evaluate/shift.py", "adapter=a b/x", "run_folder=/tmp/1", "run_name=x", "tracker=wandb"]
    words += ["launch.num_processes=2", "num_processes=2", "experiment=demo", "suite.num_seeds.heldout=8"]
    command = made_by(folder, command=words)["command"]
    assert command == "python evaluate/shift.py 'adapter=a b/x' experiment=demo suite.num_seeds.heldout=8"


def test_every_run_that_left_its_provenance_is_shown_but_the_reports_own(folder: Path) -> None:
    for name in ("generate", "read", "report"):
        content = {"command": [f"evaluate/{name}.py", "a=1"], "versions": {"torch": "2.13.0"}}
        (folder / f"provenance.{name}.json").write_text(json.dumps(content))
    runs = reproduction(load_plan(folder), folder)["runs"]
    assert [run["command"] for run in runs] == ["python evaluate/generate.py a=1", "python evaluate/read.py a=1"]
    write_report(folder)
    text = "".join(page_of(folder).text)
    assert "python evaluate/generate.py a=1" in text
    assert "2.13.0" in text


@pytest.mark.parametrize("content", ["[]", "{}", '{"command": "x", "inputs": [1], "versions": 3, "git": "abc"}'])
def test_another_tools_provenance_is_no_obstacle(folder: Path, content: str) -> None:
    (folder / "provenance.json").write_text(content)
    write_report(folder)
    assert "python evaluate/report.py" in "".join(page_of(folder).text)


def test_the_plan_in_short_counts_prompts_and_images(folder: Path) -> None:
    plan = reproduction(load_plan(folder), folder)["plan"]
    assert plan["prompts"] == {"heldout": 6, "train": 6, "explicit": 6, "fixed": 1, "unrelated": 2, "groups": 3}
    assert plan["images"] == {"base": 24 * 8, "adapted": 24 * 8}
    assert plan["generation"]["seeds_per_prompt"] == [8]
    assert plan["suite"] == {"name": "some_suite", "version": "3"}


def test_nested_facts_become_lines_with_the_names_above_them() -> None:
    nested = {"a_b": 1, "c": {"d": ["x", "y"], "e": None, "f": {"g": False}}}
    assert list(facts(nested)) == [("a b", "1"), ("c: d", "x, y"), ("c: f: g", "False")]
