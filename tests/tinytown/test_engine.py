"""The training loop of tinytown: resume, schedule, average, two processes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evenhand.tinytown.engine import EngineSettings, fit

SETTINGS = EngineSettings(
    steps=6, batch_size=4, learning_rate=0.05, warmup_steps=2, decay_share=0.5, checkpoint_every_seconds=0.0
)


def regression(folder: Path, settings: EngineSettings, *, stop_after: int | None = None) -> torch.nn.Linear:
    """Fits y = 2x on four points; ``stop_after`` raises in the loss of that step, as a kill would end it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    calls = 0

    def loss(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        nonlocal calls
        if calls == stop_after:
            raise KeyboardInterrupt
        calls += 1
        noise = 0.1 * torch.randn(len(indices), 1, generator=generator)
        return (model(x[indices]) - 2 * x[indices] - noise).square().mean(), {}

    folder.mkdir(exist_ok=True)
    fit(model, loss, len(x), settings, folder)
    return model


def test_a_killed_run_ends_bit_identical_when_started_again(tmp_path: Path) -> None:
    whole = regression(tmp_path / "whole", SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        regression(tmp_path / "killed", SETTINGS, stop_after=3)
    resumed = regression(tmp_path / "killed", SETTINGS)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)
    # Control: another seed does not end at the same weights.
    other = regression(tmp_path / "other", dataclasses.replace(SETTINGS, seed=1))
    assert not torch.equal(whole.weight, other.weight)


def test_training_learns_and_ends_with_the_moving_average(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=300, ema_decay=0.9)
    model = regression(tmp_path, settings)
    assert model.weight.item() == pytest.approx(2.0, abs=0.1)
    saved = load_file(tmp_path / "checkpoint.safetensors")
    assert torch.equal(saved["ema/weight"], model.weight.detach())
    assert not torch.equal(saved["weight/weight"], model.weight.detach())


def test_the_learning_rate_warms_up_stays_and_decays_to_nothing() -> None:
    settings = EngineSettings(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10, decay_share=0.2)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    program = tmp_path / "two.py"
    program.write_text(
        "import torch\n"
        "from evenhand.tinytown.engine import _average_gradients, world\n"
        "rank, num = world()\n"
        "p = torch.nn.Parameter(torch.zeros(2)); q = torch.nn.Parameter(torch.zeros(1))\n"
        "p.grad = torch.tensor([1.0, 3.0]) * (rank + 1); q.grad = torch.tensor([float(rank)])\n"
        "_average_gradients([p, q], num)\n"
        "assert num == 2 and p.grad.tolist() == [1.5, 4.5] and q.grad.tolist() == [0.5], (p.grad, q.grad)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        EngineSettings(steps=0, batch_size=1, learning_rate=1.0)
    with pytest.raises(ValueError, match="decay_share"):
        EngineSettings(steps=1, batch_size=1, learning_rate=1.0, decay_share=2.0)
