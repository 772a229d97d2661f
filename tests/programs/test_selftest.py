"""evaluate/selftest.py as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import evenhand
from evenhand.honesty.bench import Bench
from evenhand.honesty.checks import CHECKS, Checked, chosen, lines, summary, write_selftest
from evenhand.honesty.outcome import Figure, Outcome

ROOT = Path(__file__).resolve().parents[2]
EXIT_USER_ERROR, EXIT_CHECK_FAILED = 2, 3


def selftest(*overrides: str, cwd: Path) -> tuple[int, str, str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "EVENHAND_CACHE": str(cwd / "cache"),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate" / "selftest.py"), *overrides],
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_checks_by_name_print_figures_bands_and_status_and_keep_nothing(tmp_path: Path) -> None:
    code, out, err = selftest("checks=[golden,weak-reader]", "check=overshoot", "num_processes=1", cwd=tmp_path)
    assert code == 0, out + err
    assert [line.split()[:2] for line in out.splitlines() if not line.startswith(" ")][:3] == [
        ["golden", "PASS"],
        ["weak-reader", "PASS"],
        ["overshoot", "PASS"],
    ]
    assert "gap, base" in out
    assert out.splitlines()[-1].startswith("3 of 3 checks passed")
    assert not list(tmp_path.rglob("selftest.json"))
    assert not list(tmp_path.iterdir())


def test_an_unknown_check_is_said_with_the_names_there_are(tmp_path: Path) -> None:
    code, out, err = selftest("check=a-a", cwd=tmp_path)
    assert code == EXIT_USER_ERROR
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "unknown check 'a-a'" in line
    assert "optional-stopping" in line


@pytest.mark.slow
def test_the_fast_form_of_every_check_passes_and_is_kept_for_reports(tmp_path: Path) -> None:
    code, out, err = selftest(cwd=tmp_path)
    assert code == 0, out + err
    kept = json.loads((tmp_path / "cache" / "selftest.json").read_text())
    assert kept["passed"] is True
    assert kept["failed"] == []
    assert kept["full"] is False
    assert kept["version"] == evenhand.__version__
    assert kept["num_checks"] == len(CHECKS)
    assert {entry["name"] for entry in kept["skipped"]} <= {"real-reader"}
    assert all(name in out for name in CHECKS)


def bad_and_skipped() -> list[Checked]:
    failing = Outcome(figures=(Figure(label="coverage", value=0.9, low=0.931, note="1000 runs"),))
    good = Outcome(figures=(Figure(label="gap", value=0.5, low=0.4, high=0.6),))
    outcomes = {"aa": good, "inject": failing, "real-reader": Outcome(skipped="not installed")}
    return [Checked(name=name, outcome=outcome, seconds=1.0) for name, outcome in outcomes.items()]


def test_a_failure_stands_in_the_table_the_last_line_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENHAND_CACHE", str(tmp_path))
    checked = bad_and_skipped()
    table = [line for one in checked for line in lines(one)]
    assert any(line.startswith("  ! coverage") and ">= 0.931" in line for line in table)
    assert summary(checked).startswith("1 of 3 checks passed; failed: inject; skipped: real-reader")
    content = write_selftest(checked, Bench(full=True, seed=0, work_folder=tmp_path))
    assert content["passed"] is False
    assert content["failed"] == ["inject"]
    assert content["skipped"] == [{"name": "real-reader", "reason": "not installed"}]
    assert json.loads((tmp_path / "selftest.json").read_text()) == content


def test_a_failed_check_ends_the_program_with_its_exit_code(tmp_path: Path) -> None:
    """The analysis is broken by a module that Python loads at its start: the plan's margin is never looked at."""
    (tmp_path / "sitecustomize.py").write_text(
        "import evenhand.stats.measurement as m\nm.too_weak = lambda confusion: None\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "EVENHAND_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate" / "selftest.py"), "check=weak-reader", "num_processes=1"],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == EXIT_CHECK_FAILED, done.stdout + done.stderr
    assert "weak-reader" in done.stdout
    assert "FAIL" in done.stdout


def test_names_are_run_in_the_order_of_the_list_and_once() -> None:
    assert chosen(["golden", "aa", "golden"]) == ["aa", "golden"]
    assert chosen([]) == list(CHECKS)
