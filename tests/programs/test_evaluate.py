"""The evaluation programs as a person runs them, on a tiny real pipeline, with real adapters and the planted reader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.files import read_jsonl
from tests.folders import drawn_readings, plan_row, prompt_row, write_folder
from tests.test_generation import saved_adapter

ROOT = Path(__file__).resolve().parents[2]
EXIT_USER_ERROR, EXIT_GUARD_FAILED = 2, 3
SUITE = {
    "_target_": "evenhand.evaluation.suites.Suites",
    "concepts": {"people": ["mechanic", "nurse"], "objects": ["car"]},
    "num_seeds": {"heldout": 3, "explicit": 1, "unrelated": 2},
    "groups": [
        {"suite": "heldout", "concepts": "people", "templates": ["a portrait of {a_concept}"]},
        {"suite": "explicit", "concepts": "people", "templates": ["a portrait of {a_concept}"], "name": "presentation"},
        {"suite": "unrelated", "concepts": "objects", "templates": ["a photo of {a_concept}"]},
    ],
}


def start(program: str, *overrides: str, cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate" / program), *overrides],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(program: str, *overrides: str, cwd: Path) -> tuple[int, str, str]:
    process = start(program, *overrides, cwd=cwd)
    out, err = process.communicate()
    return process.returncode, out, err


def shift_overrides(tiny_folder: Path, adapter: Path, cwd: Path) -> list[str]:
    """A small evaluation: 4 heldout-like prompts, 12 images an arm, in batches of 4."""
    (cwd / "choices" / "suite").mkdir(parents=True, exist_ok=True)
    (cwd / "choices" / "suite" / "tiny.yaml").write_text("# tiny\n" + yaml.safe_dump(SUITE))
    return [
        f"--config-dir={cwd / 'choices'}",
        "suite=tiny",
        "reader=planted",
        "reader.max_distance=500.0",  # what a random pipeline paints is nearest to one colour or the other
        f"base.model={tiny_folder}",
        f"adapter={adapter}",
        "sampling.steps=2",
        "sampling.height_px=32",
        "sampling.width_px=32",
        "evaluation.side_attributes=[]",
        "evaluation.guard_attributes=[]",
        "evaluation.batch_size=4",
        "device=cpu",
    ]


def test_a_null_adapter_is_measured_from_plan_to_report_as_no_change(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=0.0)
    code, out, err = run("shift.py", *shift_overrides(tiny_folder, adapter, tmp_path), "run_name=zeros", cwd=tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "shift" / "zeros"
    assert out.strip().endswith("runs/shift/zeros/report.html")
    results = json.loads((folder / "results.json").read_text())
    assert out.startswith(results["answer"])
    assert [verdict["verdict"] for verdict in results["verdicts"]] == ["no change shown"]
    assert {guard["name"]: guard["value"] for guard in results["guards"]} == {
        "explicit": 0.0,
        "unread": 0.0,
        "unrelated_similarity": 0.0,
    }
    images = read_jsonl(folder / "images.jsonl")
    assert len(images) == 24
    assert [row["sha256"] for row in images[:12]] == [row["sha256"] for row in images[12:]]
    assert "data:image/png" in (folder / "report.html").read_text()
    assert {"plan.json", "readings.jsonl", "provenance.json", "report.md"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_results(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    overrides = shift_overrides(tiny_folder, adapter, tmp_path)
    assert run("shift.py", *overrides, "run_name=whole", cwd=tmp_path)[0] in (0, EXIT_GUARD_FAILED)
    process = start("shift.py", *overrides, "run_name=killed", cwd=tmp_path)
    images = tmp_path / "runs" / "shift" / "killed" / "images.jsonl"
    while not images.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (images.parent / "results.json").exists()
    assert run("shift.py", *overrides, "run_name=killed", cwd=tmp_path)[0] in (0, EXIT_GUARD_FAILED)
    for name in ("results.json", "readings.jsonl", "images.jsonl", "plan.json"):
        assert (images.parent / name).read_bytes() == (tmp_path / "runs" / "shift" / "whole" / name).read_bytes()
    # Another plan is refused in the same folder.
    code, _, err = run("shift.py", *overrides, "run_name=killed", "evaluation.alpha=0.1", cwd=tmp_path)
    assert code == EXIT_USER_ERROR
    assert "evaluation.alpha" in err


@pytest.mark.slow
def test_the_stages_alone_give_what_shift_gives(sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    overrides = shift_overrides(tiny_folder, adapter, tmp_path)
    run("shift.py", *overrides, "run_name=whole", cwd=tmp_path)
    code, out, err = run("generate.py", *overrides, "run_name=stages", cwd=tmp_path)
    assert code == 0, err
    assert "24 images" in out
    folder = tmp_path / "runs" / "shift" / "stages"
    reader = ["reader=planted", "reader.max_distance=500.0", "device=cpu"]
    assert run("read.py", f"run={folder}", *reader, cwd=tmp_path)[0] == 0
    assert run("report.py", f"run={folder}", cwd=tmp_path)[0] in (0, EXIT_GUARD_FAILED)
    whole = tmp_path / "runs" / "shift" / "whole" / "results.json"
    assert (folder / "results.json").read_bytes() == whole.read_bytes()


def foreign_folder(folder: Path, *, adapted: float) -> Path:
    """What another tool may bring: a plan and readings, no images, with explicit prompts that are obeyed in 95 %."""
    prompts = [prompt_row("heldout", f"c{index}") for index in range(6)]
    prompts += [prompt_row("explicit", f"c{index}", expects={"presentation": "woman"}) for index in range(6)]
    shares = {arm: dict.fromkeys((row["id"] for row in prompts[:6]), 0.9) for arm in ("base", "adapted")}
    for arm, share in (("base", 0.95), ("adapted", adapted)):
        shares[arm] |= dict.fromkeys((row["id"] for row in prompts[6:]), share)
    rows = drawn_readings(prompts, shares, num_seeds=16, rng=np.random.default_rng(0))
    return write_folder(folder, plan_row(prompts), rows)


def test_a_failed_guard_ends_with_its_exit_code_after_the_report(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "foreign", adapted=0.5)
    code, out, _ = run("report.py", f"run={folder}", cwd=tmp_path)
    assert code == EXIT_GUARD_FAILED
    assert out.startswith("A guard failed: explicit prompts obeyed")
    assert (folder / "report.html").is_file()


def test_readings_of_another_tool_are_reported_without_images(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "foreign", adapted=0.95)
    code, out, err = run("report.py", f"run={folder}", cwd=tmp_path)
    assert code == 0, err
    assert "reader oracle" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("program", "overrides", "message"),
    [
        ("report.py", [], "run has no value; set run="),
        ("report.py", ["run=nowhere"], "nowhere/plan.json"),
        ("shift.py", [], "adapter has no value; set adapter="),
        ("shift.py", ["adapter=nowhere"], "nowhere does not exist"),
        ("shift.py", ["adapter=x", "reader=planted"], "reader planted does not read"),
        ("shift.py", ["adapter=x", "suite.num_seeds.heldout=0"], "num_seeds.heldout must be >= 1"),
        ("shift.py", ["adapter=x", "evaluation.margins.explicit=5"], "margins.explicit must be"),
    ],
)
def test_what_a_user_can_fix_is_said_in_one_line(
    tmp_path: Path, program: str, overrides: list[str], message: str
) -> None:
    code, out, err = run(program, *overrides, cwd=tmp_path)
    assert code == EXIT_USER_ERROR
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in err
