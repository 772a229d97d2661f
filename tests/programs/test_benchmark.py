"""The program at tiny size: every part runs, and what it writes is what it prints."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evenhand.benchmark.parts import check_parts
from evenhand.benchmark.settings import overrides_of
from evenhand.benchmark.steps import training_of_noise
from evenhand.compose import compose_config

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "scripts" / "benchmark.py"
COMMAND = re.compile(r"python scripts/benchmark\.py(?P<overrides>[^#`\n]*)")
TINY = (
    "sizes.pairs=1",
    "sizes.warmup=1",
    "sizes.batch_size=1",
    "sizes.architecture=sd15_narrow",
    "sizes.architecture_px=128",
    "sizes.generation_batch_size=1",
    "sizes.reader_batch_size=1",
    "sampling.steps=2",
)


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *overrides, f"run_folder={folder}"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_every_part_is_measured_printed_and_written(tmp_path: Path) -> None:
    parts = ["operations", "training", "training_architecture", "generation", "build", "reader", "statistics"]
    done = run(tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(written["figures"]) == parts
    assert written["machine"]["versions"]["torch"]
    assert f"{written['figures']['operations']['bare']}" in done.stdout
    assert f"{written['figures']['training']['ratios']['cached']['value']:.3f} times" in done.stdout
    assert written["figures"]["training_architecture"]["num_tensors"] == 256
    for part in parts:
        assert f"\n{part}\n" in done.stdout


def test_an_unknown_part_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    done = run(tmp_path, "parts=[speed]")
    assert done.returncode != 0
    assert "unknown part 'speed' of the benchmark; choose from operations, training" in done.stderr
    assert not (tmp_path / "benchmark.json").exists()


def written_commands() -> list[list[str]]:
    """The overrides of every command that the documentation, the program and its config show."""
    files = (ROOT / "docs" / "speed.md", PROGRAM, ROOT / "conf" / "benchmark.yaml")
    found = [match["overrides"] for file in files for match in COMMAND.finditer(file.read_text())]
    return [[word for word in shlex.split(text) if "=" in word] for text in found]


@pytest.mark.parametrize("overrides", written_commands(), ids=" ".join)
def test_every_command_that_is_shown_composes_and_names_parts_that_there_are(overrides: list[str]) -> None:
    config = compose_config("benchmark", overrides)
    for key in ("base", "sampling", "reader", "sizes"):
        config.build(key)
    check_parts(config.build("parts"))
    training_of_noise(
        steps=1, batch_size=1, resolution_px=64, num_images=1, overrides=overrides_of(config.build("training"))
    ).config.build("train")


def test_several_commands_are_shown() -> None:
    assert len(written_commands()) >= 5


def test_changes_of_a_training_become_overrides() -> None:
    node = {"lora": "all", "train": {"mixed_precision": "bf16", "gradient_checkpointing": True, "ema_decay": None}}
    assert overrides_of(node) == [
        "lora=all",
        "train.mixed_precision=bf16",
        "train.gradient_checkpointing=true",
        "train.ema_decay=null",
    ]
    assert overrides_of({}) == []
