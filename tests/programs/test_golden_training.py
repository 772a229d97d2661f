"""The losses of the shortest experiment are what they were: the embedded base, a set made by a fixed seed.

The values change only with a commit that says why, made by the command that stands beside them in the golden file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from evenhand.paths import program_path
from tests.tiny_set import tiny_set

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "tiny_smoke.json"
# Sums of other lengths on another processor: 1e-6 was seen. ``preserve`` is a difference of two nearly equal numbers.
CLOSE = {"loss": 1e-4, "denoise": 1e-4, "preserve": 1e-2, "grad_norm": 1e-3, "learning_rate": 1e-12}


def train(home: Path, *overrides: str) -> list[dict[str, float]]:
    """The metrics of the experiment, run as people run it in an empty folder."""
    data = tiny_set(home / "set", seed=0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(program_path("train/lora")), "experiment=tiny_smoke", f"data={data}", *overrides]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = home.glob("runs/tiny_smoke/*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_golden() -> None:
    """Write what the experiment gives now."""
    with tempfile.TemporaryDirectory() as home:
        metrics = train(Path(home))
    golden = {**json.loads(GOLDEN.read_text()), "metrics": metrics}
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")


def test_the_losses_of_tiny_smoke_are_the_golden_ones(tmp_path) -> None:
    wanted = json.loads(GOLDEN.read_text())["metrics"]
    metrics = train(tmp_path)
    assert [line["step"] for line in metrics] == [line["step"] for line in wanted]
    for line, golden in zip(metrics, wanted, strict=True):
        for name, tolerance in CLOSE.items():
            assert line[name] == pytest.approx(golden[name], rel=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize("change", ["optim.learning_rate=1.6e-3", "seed=1", "method.preserve_weight=0.9"])
def test_a_small_change_of_the_training_is_seen_in_the_losses(tmp_path, change) -> None:
    golden = json.loads(GOLDEN.read_text())["metrics"][-1]
    changed = train(tmp_path, change)[-1]
    assert any(changed[name] != pytest.approx(golden[name], rel=tolerance) for name, tolerance in CLOSE.items())
