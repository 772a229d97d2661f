from __future__ import annotations

import functools
import logging
import os
import signal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evenhand.bases.checkpoint import weights_fingerprint
from tests.tiny_training import Remember, Stage, curated, equal


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    return lambda **changes: Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **changes)


def test_training_lowers_the_loss_of_the_same_batches_and_leaves_the_base_bit_for_bit(stage, tmp_path) -> None:
    long = stage(steps=24, learning_rate=2e-2, log_every_steps=8, checkpoint_every_steps=24)
    method = curated()

    def loss() -> float:
        with torch.no_grad():
            return sum(method.loss(long.base, long.batches.at(step)).total.item() for step in range(4)) / 4

    before, tracker = loss(), Remember()
    result = long.run(tmp_path / "run", tracker)
    assert loss() < 0.98 * before  # the rest is noise that the frozen random head cannot predict
    assert result.finished
    assert list(tracker.lines) == [8, 16, 24]
    assert result.loss == tracker.lines[24]["loss"]
    assert weights_fingerprint(long.base.unet) == long.base.fingerprint
    assert all(value.any() for name, value in long.adapter.tensors().items() if ".lora_B." in name)


def test_the_same_seed_gives_the_same_adapter_bit_for_bit(stage, tmp_path) -> None:
    first, second = stage(), stage()
    first.run(tmp_path / "one")
    second.run(tmp_path / "two")
    assert equal(first.adapter, second.adapter)


@pytest.mark.parametrize("stop_after", [2, 4])
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_adapter_and_metrics(stage, tmp_path, stop_after) -> None:
    straight, remembered = stage(), Remember()
    straight.run(tmp_path / "straight", remembered)

    def stop(step: int) -> None:
        if step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    broken, lines = stage(), Remember(then=stop)
    first = broken.run(tmp_path / "broken", lines)
    # the signal comes after the step was checkpointed or not, so it is seen at the end of the next one
    assert (first.finished, first.step) == (False, stop_after + 1)
    resumed, more = stage(), Remember()
    second = resumed.run(tmp_path / "broken", more, resume=True)
    assert second.finished
    assert equal(straight.adapter, resumed.adapter)
    assert {**lines.lines, **more.lines} == remembered.lines


def test_a_finished_run_only_gives_its_result_again(stage, tmp_path) -> None:
    first = stage()
    result = first.run(tmp_path / "run")
    again, tracker = stage(), Remember()
    assert again.run(tmp_path / "run", tracker, resume=True) == result
    assert tracker.lines == {}
    assert equal(first.adapter, again.adapter)


def test_accumulated_parts_give_the_adapter_of_the_whole_batch(stage, tmp_path) -> None:
    whole, parts = stage(steps=2), stage(steps=2, grad_accumulation=2)
    first, second = Remember(), Remember()
    whole.run(tmp_path / "whole", first)
    parts.run(tmp_path / "parts", second)
    assert second.lines[2]["loss"] == pytest.approx(first.lines[2]["loss"], rel=1e-5)
    assert second.lines[2]["grad_norm"] == pytest.approx(first.lines[2]["grad_norm"], rel=1e-4)


def test_checkpointed_activations_give_the_same_gradients(stage, tmp_path) -> None:
    plain, saving = stage(steps=2), stage(steps=2, gradient_checkpointing=True)
    first, second = Remember(), Remember()
    plain.run(tmp_path / "plain", first)
    saving.run(tmp_path / "saving", second)
    assert saving.base.unet.is_gradient_checkpointing
    assert second.lines[2] == pytest.approx(first.lines[2], rel=1e-5)


def test_gradients_are_clipped_to_the_wanted_norm(stage, tmp_path, monkeypatch) -> None:
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    tracker = Remember()
    stage(steps=2, max_grad_norm=1e-4, log_every_steps=1).run(tmp_path / "clipped", tracker)
    assert seen == pytest.approx([1e-4, 1e-4], rel=1e-3)
    assert tracker.lines[1]["grad_norm"] > 1e-3
    seen.clear()
    tracker = Remember()
    stage(steps=2, max_grad_norm=1e3, log_every_steps=1).run(tmp_path / "free", tracker)
    assert seen == pytest.approx([tracker.lines[1]["grad_norm"], tracker.lines[2]["grad_norm"]], rel=1e-5)


def test_the_logged_rate_is_that_of_the_schedule(stage, tmp_path) -> None:
    tracker, one = Remember(), stage(log_every_steps=1)
    one.run(tmp_path, tracker)
    assert [line["learning_rate"] for line in tracker.lines.values()] == [one.optim.rate_at(k, 6) for k in range(6)]


def test_the_signal_handler_of_before_is_put_back(stage, tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stage(steps=1, log_every_steps=1).run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before


def test_every_adapter_weight_gets_a_gradient_and_moves_with_checkpointing_on_and_off(
    stage, tmp_path, monkeypatch
) -> None:
    clip = torch.nn.utils.clip_grad_norm_
    for name, checkpointing in (("off", False), ("on", True)):
        one = stage(steps=3, gradient_checkpointing=checkpointing)
        before, seen = one.adapter.tensors(), []

        def watched(parameters, max_norm, seen=seen):
            seen.append([bool(parameter.grad.any()) for parameter in parameters])
            return clip(parameters, max_norm)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
        one.run(tmp_path / name)
        assert all(seen[-1])
        assert len(seen[-1]) == len(before)
        assert all(not torch.equal(before[key], value) for key, value in one.adapter.tensors().items())


class Operations(TorchDispatchMode):
    """Notes the names of all operations inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_attention_is_the_fused_one_of_torch(stage) -> None:
    one = stage()
    with Operations() as operations, torch.no_grad():
        curated(preserve_weight=0.0).loss(one.base, one.batches.at(0))
    assert any("scaled_dot_product" in name for name in operations.names)
    assert not any("softmax" in name or "baddbmm" in name for name in operations.names)  # the unfused one's


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch itself imports for it
def test_a_compiled_unet_gives_the_losses_of_the_plain_one(stage, tmp_path, monkeypatch) -> None:
    """Traced and differentiated ahead of time, but not turned into C++: that is torch's part, and takes minutes."""
    monkeypatch.setattr(
        torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    )
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would keep its million lines
    plain, compiled = stage(steps=2, log_every_steps=1), stage(steps=2, log_every_steps=1, compile=True)
    first, second = Remember(), Remember()
    plain.run(tmp_path / "plain", first)
    compiled.run(tmp_path / "compiled", second)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # with the adapter, and the teacher without
    for step, line in first.lines.items():
        assert second.lines[step] == pytest.approx(line, rel=1e-3)
    assert set(compiled.adapter.tensors()) == set(plain.adapter.tensors())


def test_processes_that_found_different_checkpoints_do_not_go_on(stage, tmp_path, monkeypatch) -> None:
    one = stage()
    monkeypatch.setattr(type(one.accelerator), "num_processes", 2)
    monkeypatch.setattr(type(one.accelerator), "gather", lambda self, tensor: torch.cat([tensor, tensor + 3]))
    with pytest.raises(ValueError, match=r"checkpoints of different steps \(0, 3\): the run folder must be on a file"):
        one.run(tmp_path)


COMPILER_SAID = """C++ compile error

Command:
g++ main.cpp -fopenmp

Output:
In file included from main.cpp:1:
main.cpp:2:10: fatal error: omp.h: No such file or directory
    2 | #include <omp.h>
compilation terminated."""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (COMPILER_SAID, "fatal error: omp.h: No such file"),
        ("Cannot find a working triton installation.", "a working triton"),
    ],
)
def test_a_compiler_that_fails_is_told_in_one_line_with_the_cure(stage, tmp_path, monkeypatch, said, told) -> None:
    """The backend is planted; what is around it, and the error that it becomes, is PyTorch's own."""

    def backend(graph, inputs):
        raise RuntimeError(said)

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend))
    with pytest.raises(ValueError, match="^torch.compile failed") as raised:
        stage(steps=2, compile=True).run(tmp_path)
    text = str(raised.value)
    assert told in text
    assert "train.compile=false" in text
    assert "\n" not in text
    assert len(text) < 500


def test_an_error_that_is_not_the_compilers_stays_what_it_is(stage, tmp_path) -> None:
    def fails(step: int) -> None:
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="^the disk is gone$"):
        stage(steps=2).run(tmp_path, Remember(then=fails))
