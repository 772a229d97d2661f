from __future__ import annotations

import contextlib

import pytest
import torch
from diffusers.training_utils import EMAModel

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.training.ema import Ema
from tests.tiny import randomize
from tests.tiny_training import Remember, Stage, equal


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    return lambda **changes: Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **changes)


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.999])
def test_the_average_is_that_of_diffusers(sd, decay) -> None:
    adapter = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="cross_attention_kv"), seed=0)
    ours, theirs = Ema(adapter, decay), EMAModel(adapter.parameters.values(), decay=decay)
    for step in range(8):
        randomize(adapter, seed=step)
        ours.update()
        theirs.step(adapter.parameters.values())
        for mine, other in zip(ours.average.values(), theirs.shadow_params, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_the_first_update_leaves_nothing_of_the_start(sd) -> None:
    adapter = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="cross_attention_kv"), seed=0)
    ema = Ema(adapter, 0.999)
    randomize(adapter)
    ema.update()
    assert all(torch.equal(ema.average[name], value) for name, value in adapter.tensors().items())


def test_its_weights_are_on_the_adapter_inside_only(sd) -> None:
    adapter = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="cross_attention_kv"), seed=0)
    ema = Ema(adapter, 0.5)
    for step in range(4):
        randomize(adapter, seed=step)
        ema.update()
    own = adapter.tensors()
    with contextlib.suppress(KeyboardInterrupt), ema.applied():
        assert all(torch.equal(ema.average[name], value) for name, value in adapter.tensors().items())
        raise KeyboardInterrupt
    assert all(torch.equal(own[name], value) for name, value in adapter.tensors().items())


def test_the_saved_adapter_is_the_average_of_the_weights_of_each_step(stage, tmp_path) -> None:
    plain, averaged = stage(log_every_steps=1), stage(log_every_steps=1, ema_decay=0.3)
    seen: list[dict[str, torch.Tensor]] = []
    plain.run(tmp_path / "plain", Remember(then=lambda step: seen.append(plain.adapter.tensors())))
    averaged.run(tmp_path / "averaged")
    wanted = seen[0]
    for number, tensors in enumerate(seen[1:], start=1):
        kept = min(0.3, (1 + number) / (10 + number))
        wanted = {name: kept * wanted[name] + (1 - kept) * value for name, value in tensors.items()}
    for name, value in averaged.adapter.tensors().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-8)
    assert not equal(plain.adapter, averaged.adapter)


def test_the_average_goes_on_from_a_checkpoint_bit_for_bit(stage, tmp_path) -> None:
    straight = stage(ema_decay=0.9)
    straight.run(tmp_path / "straight")

    def killed(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(ema_decay=0.9).run(tmp_path / "broken", Remember(then=killed))
    resumed = stage(ema_decay=0.9)
    assert resumed.run(tmp_path / "broken", resume=True).finished
    assert equal(straight.adapter, resumed.adapter)
    again = stage(ema_decay=0.9)
    again.run(tmp_path / "broken", resume=True)
    assert equal(straight.adapter, again.adapter)
