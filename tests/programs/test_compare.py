"""evaluate/compare.py as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.analysis.test_comparison import runs

ROOT = Path(__file__).resolve().parents[2]
EXIT_USER_ERROR = 2


def run(*overrides: str, cwd: Path) -> tuple[int, str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "evaluate" / "compare.py"), *overrides]
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_two_runs_are_compared_and_written_down(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.9, adapted_b=0.5)
    code, out, err = run(f"run_a={run_a}", f"run_b={run_b}", cwd=tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "compare" / "a-b"
    assert out.strip().endswith("runs/compare/a-b/comparison.md")
    content = json.loads((folder / "comparison.json").read_text())
    assert out.startswith(content["answer"])
    assert content["answer"] in (folder / "comparison.md").read_text()
    assert {entry["name"] for entry in content["differences"]} >= {"gap", "tv", "distance_sq", "shown", "unread"}
    assert (folder / "provenance.json").is_file()
    code, _, err = run(f"run_a={run_b}", f"run_b={run_a}", f"run_folder={folder}", cwd=tmp_path)
    assert code == EXIT_USER_ERROR
    assert "run_a" in err


def test_runs_with_other_questions_end_in_one_line(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.9, adapted_b=0.5)
    plan = json.loads((run_b / "plan.json").read_text())
    (run_b / "plan.json").write_text(json.dumps({**plan, "alpha": 0.1}))
    code, out, err = run(f"run_a={run_a}", f"run_b={run_b}", cwd=tmp_path)
    assert (code, out) == (EXIT_USER_ERROR, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "their plans differ in alpha" in line
    assert not (tmp_path / "runs").exists()
