"""Batches through the real program: the number of processes and of parts changes no loss, with buckets and text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from evenhand.paths import program_path
from tests.tiny_set import tiny_set

STEPS = ["train.steps=4", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=1"]
DRAWS = ["train.noise_offset=0.1", "train.caption_dropout=0.2"]
FORMS = ((64, 64), (144, 112), (100, 160))
PATIENCE_SECONDS = 600


@pytest.fixture(scope="module")
def set_of_many_forms(tmp_path_factory) -> Path:
    """A tiny set with images of three forms to train on and of two to preserve."""
    folder = tiny_set(tmp_path_factory.mktemp("forms") / "set")
    for split, num_forms in (("train", 3), ("preserve", 2)):
        for row, path in enumerate(sorted((folder / split).glob("*.png"))):
            Image.open(path).resize(FORMS[row % num_forms], Image.Resampling.NEAREST).save(path)
    return folder


def losses(tiny_folder: Path, data: Path, home: Path, *overrides: str) -> list[float]:
    """The losses of a training that starts with an empty cache."""
    home.mkdir()
    base = ["base.name=tiny", f"base.model={tiny_folder}", f"data={data}", "lora.rank=2", "lora.text_encoder=attention"]
    buckets = ["images.max_aspect=2", "images.shard_images=2"]
    command = [sys.executable, str(program_path("train/lora")), *base, *buckets, *STEPS, *DRAWS, "run_name=one"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *overrides], cwd=home, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert len(list((home / "runs" / "cache").glob("set-train-*/images-*"))) == 6  # three forms, two files each
    lines = (home / "runs" / "default" / "one" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_processes_and_parts_change_no_loss_with_buckets_and_a_trained_text_encoder(
    tiny_folder, set_of_many_forms, tmp_path
) -> None:
    one = losses(tiny_folder, set_of_many_forms, tmp_path / "one")
    two = losses(
        tiny_folder,
        set_of_many_forms,
        tmp_path / "two",
        "launch.num_processes=2",
        "train.grad_accumulation=2",
    )
    four = losses(tiny_folder, set_of_many_forms, tmp_path / "four", "launch.num_processes=4")
    assert two == pytest.approx(one, rel=1e-5)
    assert four == pytest.approx(one, rel=1e-5)
    other = losses(tiny_folder, set_of_many_forms, tmp_path / "other", "seed=1")
    assert other != pytest.approx(one, rel=1e-3)
