"""train/lora.py with a validation, as people start it: two processes, kills, and what it leaves of the training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evenhand.paths import program_path
from tests.tiny_validation import RED

PROGRAM = str(program_path("train/lora"))
SHORT = ["train.steps=4", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=2"]
SHORT += ["train.checkpoint_every_steps=1", "optim.learning_rate=0.05"]
COLORS = f"{{presentation:{{woman:[{RED + 1},143,148],man:[{RED - 1},143,148]}}}}"
WATCHED = ["validation=tinytown", "validation.every_steps=2", "validation.steps=2", "validation.size_px=32"]
WATCHED += ["reader@validation.reader=planted", f"validation.reader.colors={COLORS}"]
WATCHED += ["validation.reader.max_distance=1000.0"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
PATIENCE_SECONDS = 300
FILES = ("scores.jsonl", "plan.json", "base.json", "base.png", "step-00000002.png", "step-00000004.png")


def start(tiny_folder: Path, data: Path, home: Path, *overrides: str, launcher: list[str] | None = None):
    base = ["base.name=tiny", f"base.model={tiny_folder}", f"data={data}", "lora.rank=2", *SHORT]
    arguments = [sys.executable, *(launcher or []), PROGRAM, *base, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        arguments, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments: Any, launcher: list[str] | None = None) -> tuple[int, str, str]:
    process = start(*arguments, launcher=launcher)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensors(folder: Path) -> bytes:
    """An adapter's weights without the header, which names the run."""
    content = (folder / "adapter" / "pytorch_lora_weights.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.fixture(scope="module")
def watched(tiny_folder, tiny_set_folder, tmp_path_factory) -> Path:
    """The run folder of one uninterrupted training with validation."""
    home = tmp_path_factory.mktemp("watched")
    code, _, err = run(tiny_folder, tiny_set_folder, home, "run_name=straight", *WATCHED)
    assert code == 0, err
    return home / "runs" / "default" / "straight"


def test_a_training_leaves_grids_scores_and_metrics(watched) -> None:
    folder = watched / "validation"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    scores = rows(folder / "scores.jsonl")
    assert [row["step"] for row in scores] == [2, 4]
    told = [row for row in rows(watched / "metrics.jsonl") if "validation/score" in row]
    assert [(row["step"], row["validation/score"]) for row in told] == [(row["step"], row["score"]) for row in scores]
    steps = [row["step"] for row in rows(watched / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert json.loads((watched / "result.json").read_text())["validation"] == scores[-1]["score"]
    with Image.open(folder / "base.png") as grid:
        assert grid.size[0] == 150 + 8 * 118


def test_the_adapter_is_bit_for_bit_that_of_a_training_without_validation(
    watched, tiny_folder, tiny_set_folder, tmp_path
) -> None:
    code, _, err = run(tiny_folder, tiny_set_folder, tmp_path, "run_name=plain")
    assert code == 0, err
    plain = tmp_path / "runs" / "default" / "plain"
    assert tensors(plain) == tensors(watched)
    own = [row for row in rows(watched / "metrics.jsonl") if "loss" in row]
    assert rows(plain / "metrics.jsonl") == own
    assert not (plain / "validation").exists()


@pytest.mark.slow
def test_killed_while_validating_the_same_command_ends_in_the_same_files(
    watched, tiny_folder, tiny_set_folder, tmp_path
) -> None:
    arguments = (tiny_folder, tiny_set_folder, tmp_path, "run_name=killed", *WATCHED)
    folder = tmp_path / "runs" / "default" / "killed" / "validation"
    for name in ("plan.json", "base.json", "step-00000004.png"):  # before the first image, between, at the last one
        process = start(*arguments)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / name).exists():
                process.send_signal(signal.SIGKILL)
            time.sleep(0.005)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    code, _, err = run(*arguments)
    assert code == 0, err
    for name in FILES:
        assert (folder / name).read_bytes() == (watched / "validation" / name).read_bytes(), name
    assert rows(folder.parent / "metrics.jsonl") == rows(watched / "metrics.jsonl")
    assert tensors(folder.parent) == tensors(watched)


def test_the_card_of_an_adapter_names_the_reader_that_chose_its_weights(
    watched, tiny_folder, tiny_set_folder, tmp_path
) -> None:
    code, _, err = run(tiny_folder, tiny_set_folder, tmp_path, "run_name=best", "train.keep=best", *WATCHED)
    assert code == 0, err
    for folder, readers in ((watched, []), (tmp_path / "runs" / "default" / "best", ["planted"])):
        assert json.loads((folder / "adapter" / "card.json").read_text())["training_readers"] == readers


def test_two_processes_validate_together(watched, tiny_folder, tiny_set_folder, tmp_path) -> None:
    code, _, err = run(tiny_folder, tiny_set_folder, tmp_path, "run_name=two", *WATCHED, launcher=LAUNCH)
    assert code == 0, err
    folder = tmp_path / "runs" / "default" / "two"
    assert json.loads((folder / "provenance.json").read_text())["world_size"] == 2
    assert sorted(path.name for path in (folder / "validation").iterdir()) == sorted(FILES)
    one, two = (rows(path / "validation" / "scores.jsonl") for path in (watched, folder))
    assert [row["seen"]["num_images"] for row in two] == [row["seen"]["num_images"] for row in one]
    for name in ("plan.json", "base.json", "base.png"):  # nothing of the training is in these
        assert (folder / "validation" / name).read_bytes() == (watched / "validation" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["validation=tinytwn"], "tinytwn"),
        (["validation=tinytown", "validation.evaluated_by=tinytown_a"], "may not choose among checkpoints"),
        (["validation=images", "validation.prompts=[a portrait of a mechanic]"], "may not use prompts that evaluate"),
        (["validation=tinytown", "validation.suite.concepts.unseen=[pilot]"], "holds out for the headline"),
        (["validation=images", "train.keep=best"], "train.keep=best needs a validation"),
    ],
)
def test_a_mistake_ends_in_one_line_before_anything_is_written(
    tiny_folder, tiny_set_folder, tmp_path, overrides, message
) -> None:
    code, out, err = run(tiny_folder, tiny_set_folder, tmp_path, *overrides)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert message in line
    assert not (tmp_path / "runs").exists()
