from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

from evenhand.training.flat import flatten, unflatten
from evenhand.training.optim import AdamW8bit, Prodigy
from tests.tiny_training import adamw

PARTS: dict[str, Any] = {
    "adamw": lambda: adamw(weight_decay=0.1),
    "adamw8bit": lambda: AdamW8bit(
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=0.1,
        min_8bit_size=256,
        schedule="cosine",
        warmup_steps=0,
    ),
    "prodigy": lambda: Prodigy(
        learning_rate=1.0,
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=0.1,
        d0=1e-6,
        d_coef=1.0,
        schedule="constant",
        warmup_steps=0,
    ),
}
PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


@pytest.fixture(params=sorted(PARTS))
def part(request: pytest.FixtureRequest) -> Any:
    """An optimizer's settings, where its package is installed."""
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return PARTS[request.param]()


def parameters() -> list[torch.nn.Parameter]:
    """One large enough for 8-bit moments, one that is not, one that is zero as a fresh adapter's B."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(32, 16, generator=generator), torch.randn(3, generator=generator), torch.zeros(32, 16)]
    return [torch.nn.Parameter(value) for value in values]


def steps(optimizer: torch.optim.Optimizer, members: list[torch.nn.Parameter], first: int, count: int) -> None:
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(100 + step)
        for member in members:
            member.grad = torch.randn(member.shape, generator=generator)
        optimizer.step()


def test_its_state_comes_back_bit_for_bit_through_tensors_and_json(part, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    from evenhand.files import read_json, write_json_atomic

    straight = parameters()
    steps(part.optimizer(straight), straight, 0, 6)
    members = parameters()
    optimizer = part.optimizer(members)
    steps(optimizer, members, 0, 3)
    tensors, rest = flatten(optimizer.state_dict())
    save_file(tensors, tmp_path / "optimizer.safetensors")
    write_json_atomic(tmp_path / "rest.json", rest)
    resumed = [torch.nn.Parameter(member.detach().clone()) for member in members]
    fresh = part.optimizer(resumed)
    fresh.load_state_dict(unflatten(load_file(tmp_path / "optimizer.safetensors"), read_json(tmp_path / "rest.json")))
    steps(fresh, resumed, 3, 3)
    assert all(torch.equal(one, two) for one, two in zip(straight, resumed, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(straight, members, strict=True))


def test_a_resumed_optimizer_that_lost_its_state_ends_elsewhere(part) -> None:
    straight, forgetful = parameters(), parameters()
    steps(part.optimizer(straight), straight, 0, 6)
    steps(part.optimizer(forgetful), forgetful, 0, 3)
    steps(part.optimizer(forgetful), forgetful, 3, 3)
    assert not any(torch.equal(one, two) for one, two in zip(straight, forgetful, strict=True))


def test_its_state_is_in_32_or_8_bits_and_every_tensor_moves(part) -> None:
    members, before = parameters(), parameters()
    optimizer = part.optimizer(members)
    steps(optimizer, members, 0, 2)
    tensors, _ = flatten(optimizer.state_dict())
    assert {tensor.dtype for tensor in tensors.values()} <= {torch.float32, torch.uint8}
    assert not any(torch.equal(one, two) for one, two in zip(before, members, strict=True))


def test_8_bit_moments_are_kept_for_large_tensors_only() -> None:
    pytest.importorskip("bitsandbytes")
    members = parameters()
    optimizer = PARTS["adamw8bit"]().optimizer(members)
    steps(optimizer, members, 0, 1)
    assert [optimizer.state[member]["state1"].dtype for member in members] == [torch.uint8, torch.float32, torch.uint8]


def test_8_bit_moments_follow_32_bit_ones() -> None:
    pytest.importorskip("bitsandbytes")
    eight, full, start = parameters(), parameters(), parameters()
    steps(PARTS["adamw8bit"]().optimizer(eight), eight, 0, 5)
    steps(adamw(weight_decay=0.1).optimizer(full), full, 0, 5)
    for one, two, before in zip(eight, full, start, strict=True):
        assert (one - two).norm() < 0.1 * (two - before).norm()


def test_prodigy_finds_a_rate_larger_than_its_first_guess() -> None:
    pytest.importorskip("prodigyopt")
    point = torch.nn.Parameter(torch.full((8,), 3.0))
    optimizer = PARTS["prodigy"]().optimizer([point])
    for _ in range(150):
        point.grad = point.detach().clone()  # of |x|^2 / 2
        optimizer.step()
    assert optimizer.param_groups[0]["d"] > 1e-3
    assert point.norm() < 1.0


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_package_that_is_not_installed_is_named_with_the_pip_line(name, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)  # import then fails as if it were not there
    with pytest.raises(ValueError, match=rf"optim={name} needs {PACKAGES[name]}: pip install {PACKAGES[name]}"):
        PARTS[name]().optimizer(parameters())


def test_a_setting_that_is_a_tensor_is_refused_rather_than_lost() -> None:
    state = {"state": {}, "param_groups": [{"params": [0], "lr": torch.tensor(1.0)}]}
    with pytest.raises(ValueError, match="keeps a tensor of shape"):
        flatten(state)


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0.0), ("betas", (0.9,)), ("betas", (0.9, 1.0)), ("schedule", "step"), ("warmup_steps", -1)],
)
def test_an_optimizer_setting_that_makes_no_sense_is_refused_by_name(key, value) -> None:
    with pytest.raises(ValueError, match=f"{key} must be"):
        adamw(**{key: value})


def test_the_rate_warms_up_and_then_follows_its_schedule() -> None:
    rates = [adamw(warmup_steps=4).rate_at(step, 12) for step in range(12)]
    assert rates[:5] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rates[8] == pytest.approx(0.5e-3)  # half way from the end of the warm-up: cos(pi / 2)
    assert rates[11] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert adamw(warmup_steps=4, schedule="linear").rate_at(8, 12) == pytest.approx(0.5e-3)
    assert adamw(warmup_steps=4, schedule="constant").rate_at(11, 12) == pytest.approx(1e-3)
    assert adamw(warmup_steps=0).rate_at(0, 12) == pytest.approx(1e-3)


def test_one_step_equals_adamw_written_out() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw(weight_decay=0.1).optimizer([parameter])
    parameter.grad = torch.tensor([0.5, -0.25])
    optimizer.step()
    # after one step the bias-corrected moments are the gradient and its square
    wanted = [w * (1 - 1e-3 * 0.1) - 1e-3 * g / (abs(g) + 1e-8) for w, g in ((1.0, 0.5), (-2.0, -0.25))]
    assert parameter.tolist() == pytest.approx(wanted, rel=1e-6)
