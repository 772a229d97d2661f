"""Factors that are cast together against layers that cast their own, and against a count by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from evenhand.adapters.lora import attach, detach
from evenhand.adapters.lowrank import HOOKS, LeanLinear
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.benchmark.operations import counted
from tests.tiny import randomize

CAPTIONS = ["a portrait of a mechanic", ""]


@pytest.fixture
def half(sd: LoadedStableDiffusion) -> LoadedStableDiffusion:
    """A base in bf16 with an adapter in fp32, as bf16 training has it."""
    sd.unet.to(torch.bfloat16)
    adapter = attach(sd, LoraSettings(rank=4, alpha=6.0, targets="attention"), seed=0)
    randomize(adapter, std=0.1)
    return sd


def layers(base: LoadedStableDiffusion) -> list[LeanLinear]:
    return [layer for layer in base.unet.modules() if isinstance(layer, LeanLinear)]


def shapes(base: LoadedStableDiffusion) -> set[torch.Size]:
    return {
        factor.weight.shape for layer in layers(base) for factor in (layer.lora_A["default"], layer.lora_B["default"])
    }


def each_by_itself(base: LoadedStableDiffusion) -> None:
    """Without the hooks every layer casts its own."""
    for hook in base.unet.__dict__.pop(HOOKS):
        hook.remove()


def step(base: LoadedStableDiffusion, *, autocast: bool = True) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """The prediction and the gradients of two forwards, and how many operations of each name they took."""
    base.unet.zero_grad(set_to_none=True)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    text = base.encode_text(CAPTIONS)
    with counted() as counter:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            first = base.denoise(latents, torch.tensor([10, 900]), text)
            second = base.denoise(-latents, torch.tensor([500, 20]), text)
            loss = first.float().square().mean() + second.float().square().mean()
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in base.unet.named_parameters() if p.grad is not None}
    names: Counter[str] = Counter()
    for (_, name), number in counter.counts.items():
        names[name] += number
    return {"prediction": first.detach(), **gradients}, names


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_numbers_are_those_of_layers_that_cast_their_own_bit_for_bit(
    half: LoadedStableDiffusion, checkpointing: bool
) -> None:
    if checkpointing:
        unet: Any = half.unet
        unet.enable_gradient_checkpointing()
        unet.train()
    found, _ = step(half)
    each_by_itself(half)
    wanted, _ = step(half)
    assert found.keys() == wanted.keys()
    assert len(found) == 1 + 2 * len(layers(half))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {value.dtype for name, value in found.items() if name != "prediction"} == {torch.float32}


def test_a_forward_takes_four_operations_for_each_shape_and_not_for_each_layer(half: LoadedStableDiffusion) -> None:
    _, together = step(half)
    each_by_itself(half)
    _, alone = step(half)
    num_layers, num_shapes = len(layers(half)), len(shapes(half))
    assert num_layers > 4 * num_shapes  # else there would be nothing to see
    # two forwards: A, B and their gradients by themselves, or each shape once there and once back
    assert alone["_to_copy"] - together["_to_copy"] == 2 * 4 * num_layers - 2 * 2 * num_shapes
    assert together["stack"] - alone["stack"] == 2 * 2 * num_shapes
    assert together.total() - alone.total() == 2 * 4 * num_shapes - 2 * 4 * num_layers


def test_in_full_precision_nothing_is_cast_and_no_operation_is_added(sd: LoadedStableDiffusion) -> None:
    randomize(attach(sd, LoraSettings(rank=4, alpha=6.0, targets="attention"), seed=0), std=0.1)
    found, hooked = step(sd, autocast=False)
    each_by_itself(sd)
    wanted, bare = step(sd, autocast=False)
    assert hooked == bare
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_the_optimizer_moved_is_seen_by_the_next_forward_and_by_a_layer_alone(half: LoadedStableDiffusion) -> None:
    before, _ = step(half)
    assert all(layer.narrow is None for layer in layers(half))
    with torch.no_grad():
        for layer in layers(half):
            layer.lora_B["default"].weight.zero_()
    after, _ = step(half)
    assert not torch.equal(before["prediction"], after["prediction"])
    layer = layers(half)[0]
    x = torch.ones(3, layer.in_features, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer.base_layer(x))


def test_a_forward_that_fails_leaves_no_factors_behind(half: LoadedStableDiffusion) -> None:
    last = layers(half)[-1]
    seen: list[bool] = []

    def fails(module: torch.nn.Module, args: Any) -> None:
        seen.append(last.narrow is not None)
        raise RuntimeError("out of memory")

    hook = last.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        step(half)
    hook.remove()
    assert seen == [True]
    assert all(layer.narrow is None for layer in layers(half))


def test_a_base_whose_adapter_was_taken_off_has_no_hook(half: LoadedStableDiffusion) -> None:
    assert half.unet._forward_pre_hooks
    detach(half)
    assert not half.unet._forward_pre_hooks
    assert not half.unet._forward_hooks
    attach(half, LoraSettings(rank=4, alpha=6.0, targets="attention"), seed=0)
    assert len(half.unet._forward_pre_hooks) == 1
