from __future__ import annotations

import contextlib
import os
import signal

import pytest
import torch

from evenhand.training.signals import Watch, stop_signals
from evenhand.training.state import CHECKPOINTS
from tests.tiny_training import CONFIG, Remember, Stage, equal

CPU = torch.device("cpu")


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    return lambda **changes: Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **changes)


def spoil(one: Stage, step: int) -> None:
    """Make the batch of a step, counted from 1, hold a latent that is not a number."""
    real = type(one.batches).at

    def at(batches, asked: int, **place):
        batch = real(batches, asked, **place)
        if asked == step - 1:
            batch.latents_BCHW[0, 0, 0, 0] = torch.nan
        return batch

    one.batches = _Spoilt(one.batches, at)


class _Spoilt:
    def __init__(self, batches, at) -> None:
        self._batches, self._at = batches, at

    def at(self, step: int, **place):
        return self._at(self._batches, step, **place)


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step_with_the_images(stage, tmp_path) -> None:
    broken = stage(steps=6, log_every_steps=6, checkpoint_every_steps=3)
    files = broken.batches.at(4).files
    spoil(broken, 5)
    with pytest.raises(ValueError, match="the loss is nan at step 5 with the images ") as raised:
        broken.run(tmp_path)
    assert files
    assert all(name in str(raised.value) for name in files)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000003"]
    mended = stage(steps=6, log_every_steps=6, checkpoint_every_steps=3)
    assert mended.run(tmp_path, resume=True).finished
    straight = stage(steps=6, log_every_steps=6, checkpoint_every_steps=3)
    straight.run(tmp_path / "straight")
    assert equal(straight.adapter, mended.adapter)


def test_the_weights_are_untouched_by_a_gradient_that_is_not_finite(stage, tmp_path) -> None:
    broken = stage()
    spoil(broken, 1)
    before = broken.adapter.tensors()
    with pytest.raises(ValueError, match="at step 1"):
        broken.run(tmp_path)
    assert all(torch.equal(before[name], value) for name, value in broken.adapter.tensors().items())
    assert not (tmp_path / CHECKPOINTS).exists()


def test_a_gradient_that_is_not_finite_ends_the_run_where_the_loss_is(stage) -> None:
    watch = Watch(CPU, scaled=False)
    loss = torch.tensor(0.5)
    with pytest.raises(ValueError, match="the gradient's norm is inf at step 3 with the images a.png, b.png"):
        watch.see(3, torch.tensor([0.0, 0.5]), torch.tensor(torch.inf), own_loss=loss, files=("a.png", "b.png"))
    scaled = Watch(CPU, scaled=True)
    assert not scaled.see(3, torch.tensor([0.0, 0.5]), torch.tensor(torch.inf), own_loss=loss, files=())


def test_a_process_whose_own_loss_is_finite_says_that_it_was_another() -> None:
    with pytest.raises(ValueError, match="the loss is nan at step 3 in another process"):
        Watch(CPU, scaled=False).see(
            3, torch.tensor([0.0, torch.nan]), torch.tensor(1.0), own_loss=torch.tensor(0.5), files=("a.png",)
        )


@pytest.mark.gpu
def test_on_an_accelerator_the_facts_of_a_step_are_read_at_the_next_one() -> None:
    device = torch.device("cuda")
    watch, loss = Watch(device, scaled=False), torch.tensor(0.5, device=device)

    def see(step: int, stop: float, value: float) -> bool:
        seen_2 = torch.tensor([stop, value], device=device)
        return watch.see(step, seen_2, torch.tensor(1.0, device=device), own_loss=loss, files=())

    assert [see(1, 0.0, 0.5), see(2, 0.5, 0.5), see(3, 0.0, 0.5)] == [False, False, True]
    assert not see(4, 0.0, torch.nan)
    with pytest.raises(ValueError, match="the loss is nan at step 4"):
        watch.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_each_stop_signal_saves_and_leaves_and_the_run_goes_on_to_the_same_adapter(stage, tmp_path, number) -> None:
    straight = stage()
    straight.run(tmp_path / "straight")

    def stop(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), number)

    broken = stage()
    first = broken.run(tmp_path / "broken", Remember(then=stop))
    assert (first.finished, first.step) == (False, 5)
    resumed = stage()
    assert resumed.run(tmp_path / "broken", resume=True).finished
    assert equal(straight.adapter, resumed.adapter)


def test_a_second_signal_in_the_middle_of_the_save_does_no_harm(stage, tmp_path, monkeypatch) -> None:
    from evenhand.training import state

    straight, broken, resumed = stage(), stage(), stage()
    straight.run(tmp_path / "straight")
    real = state._sync

    def again(path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(state, "_sync", again)
        first = broken.run(tmp_path / "broken", Remember(then=lambda step: os.kill(os.getpid(), signal.SIGTERM)))
    assert (first.finished, first.step) == (False, 3)
    saved = state.latest_checkpoint(tmp_path / "broken" / CHECKPOINTS, config_sha256=CONFIG)
    assert saved is not None
    assert saved.step == 3
    resumed.run(tmp_path / "broken", resume=True)
    assert equal(straight.adapter, resumed.adapter)


def test_the_handlers_of_before_are_put_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    with contextlib.suppress(KeyboardInterrupt), stop_signals() as stop:
        assert [signal.getsignal(number) for number in numbers] == [stop] * 3
        raise KeyboardInterrupt
    assert [signal.getsignal(number) for number in numbers] == before
