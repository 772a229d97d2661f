"""Precision and device, and what several processes and kills may not change. Processes are real ones, over gloo."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evenhand.paths import PACKAGE_FOLDER
from evenhand.training.processes import start_accelerator, weights_dtype
from tests.tiny_training import Remember, Stage

PATIENCE_SECONDS = 600
SETTINGS = {"steps": 6, "log_every_steps": 1, "ema_decay": 0.9}


def test_jobs_of_a_sweep_may_differ_in_precision_within_one_process() -> None:
    assert [start_accelerator(precision).mixed_precision for precision in ("no", "bf16", "no")] == ["no", "bf16", "no"]


def test_half_precision_without_a_gpu_is_refused_with_the_cure() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match="fp16 needs a GPU and there is none here: use no, or bf16"):
        start_accelerator("fp16")


def test_bf16_on_a_gpu_that_cannot_is_refused_with_its_name(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ValueError, match="train.mixed_precision=bf16 is more than Tesla T4 can do: use fp16, or no"):
        start_accelerator("bf16")


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ACCELERATE_USE_FSDP", "--use_fsdp has no effect here: .* train.shard_base=true"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed is not supported: .* train.shard_base=true"),
    ],
)
def test_wrapping_that_nothing_here_would_do_is_refused_with_the_cure(monkeypatch, variable, message) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ValueError, match=message):
        start_accelerator("no")


def test_each_precision_has_its_weights() -> None:
    wanted = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: weights_dtype(name) for name in wanted} == wanted


def test_under_bf16_the_adapter_its_gradients_and_the_optimizer_are_float32_and_every_tensor_moves(
    tiny_folder, tiny_set_folder, tmp_path, monkeypatch
) -> None:
    stage = Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", mixed_precision="bf16", ema_decay=0.9, steps=3)
    # as on a GPU: the frozen weights, and here the adapter's with them until the next line
    stage.base.unet.to(torch.bfloat16)
    for parameter in stage.adapter.parameters.values():
        parameter.data = parameter.data.float()
    stage.base.dtype = torch.bfloat16
    before, seen = stage.adapter.tensors(), set()
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        step(self, closure)
        for parameter, state in self.state.items():
            seen.update({parameter.dtype, parameter.grad.dtype, state["exp_avg"].dtype, state["exp_avg_sq"].dtype})

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    stage.run(tmp_path)
    assert seen == {torch.float32}
    assert next(iter(stage.base.unet.conv_in.parameters())).dtype == torch.bfloat16
    assert all(not torch.equal(before[name], value) for name, value in stage.adapter.tensors().items())


def command(world: int, arguments: list[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    return [sys.executable, *launcher, "-m", "tests.tiny_worker", *arguments]


def start(world: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    checkout = PACKAGE_FOLDER.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(checkout)}
    return subprocess.Popen(
        command(world, arguments),
        cwd=checkout,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def train(tiny_folder, tiny_set_folder, tmp_path):
    """Start a training of the tiny base with some number of processes; its cache is filled beforehand."""
    Stage(tiny_folder, tiny_set_folder, tmp_path / "cache")

    def begin(name: str, world: int, **settings: object) -> subprocess.Popen[bytes]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        places = [str(path) for path in (tiny_folder, tiny_set_folder, tmp_path / "cache", folder)]
        return start(world, [*places, json.dumps({**SETTINGS, **settings})])

    return begin


def ended(process: subprocess.Popen[bytes]) -> int:
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode in (0, 1, 3, -signal.SIGKILL, -signal.SIGTERM), errors.decode()
    return process.returncode


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_one_two_and_four_processes_and_accumulation_give_the_same_losses(train, tmp_path) -> None:
    assert ended(train("1", 1)) == 0
    for name, world, parts in (("2", 2, 1), ("4", 4, 1), ("2x2", 2, 2), ("1x4", 1, 4)):
        assert ended(train(name, world, grad_accumulation=parts)) == 0
        one, other = metrics(tmp_path / "1"), metrics(tmp_path / name)
        for step, line in one.items():
            assert other[step] == pytest.approx(line, rel=1e-4), (name, step)
            assert other[step]["loss"] == pytest.approx(line["loss"], rel=1e-6), (name, step)
            assert other[step]["learning_rate"] == line["learning_rate"]
        first, second = (load_file(tmp_path / each / "adapter.safetensors") for each in ("1", name))
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-2, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_killed_again_and_again_the_same_command_ends_in_the_same_adapter(train, tmp_path, world) -> None:
    settings = {"steps": 14, "checkpoint_every_steps": 1, "keep_checkpoints": 2}
    assert ended(train("straight", world, **settings)) == 0
    dice, sessions, code = random.Random(world), 0, None
    while code != 0:
        process = train("killed", world, **settings)
        sessions += 1
        if sessions <= 6:
            _await_step(process, tmp_path / "killed" / "checkpoints", sessions)
            time.sleep(dice.uniform(0.0, 0.3))
            if sessions % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(process.pid, signal.SIGTERM)  # with a launcher: to the launcher, as a scheduler does
        code = ended(process)
    assert sessions >= 3
    straight, killed = (load_file(tmp_path / name / "adapter.safetensors") for name in ("straight", "killed"))
    assert all(torch.equal(straight[name], killed[name]) for name in straight)


def _await_step(process: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(path.name[-8:]) >= step for path in folder.glob("step-*")):
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(train, tmp_path) -> None:
    settings = {"steps": 30, "checkpoint_every_steps": 1}
    assert ended(train("one", 1, **settings)) == 0
    process = train("mixed", 2, **settings)
    _await_step(process, tmp_path / "mixed" / "checkpoints", 2)
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)
    assert ended(train("mixed", 1, **settings)) == 0
    later, one = metrics(tmp_path / "mixed"), metrics(tmp_path / "one")
    assert 0 < len(later) < len(one)
    for step, line in later.items():
        assert line == pytest.approx(one[step], rel=1e-4), step


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_base_spread_over_two_processes_gives_the_losses_and_the_adapter_of_whole_ones(
    train, tmp_path, checkpointing
) -> None:
    settings = {"steps": 3, "gradient_checkpointing": checkpointing}
    assert ended(train("whole", 2, **settings)) == 0
    assert ended(train("spread", 2, **settings, shard_base=True)) == 0
    for step, line in metrics(tmp_path / "whole").items():
        assert metrics(tmp_path / "spread")[step] == pytest.approx(line, rel=1e-4, abs=1e-9)
    whole, spread = (load_file(tmp_path / name / "adapter.safetensors") for name in ("whole", "spread"))
    for name, value in whole.items():
        torch.testing.assert_close(spread[name], value, rtol=1e-3, atol=1e-5)
    first, second = (json.loads((tmp_path / name / "memory.json").read_text()) for name in ("whole", "spread"))
    assert second["base"]["unet"] < 0.6 * first["base"]["unet"]
    assert second["base"]["vae"] == first["base"]["vae"]


def test_the_same_losses_line_by_line_need_no_process_of_their_own(tiny_folder, tiny_set_folder, tmp_path) -> None:
    """The sums over four parts of a batch, in this process: what each of four processes would add."""
    whole, parts = Remember(), Remember()
    Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **SETTINGS).run(tmp_path / "whole", whole)
    Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **SETTINGS, grad_accumulation=4).run(tmp_path / "p", parts)
    for step, line in whole.lines.items():
        assert parts.lines[step] == pytest.approx(line, rel=1e-4)
        assert parts.lines[step]["learning_rate"] == line["learning_rate"]
