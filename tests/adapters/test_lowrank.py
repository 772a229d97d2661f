"""The lean LoRA layer against PEFT's own, which is the reference here, and against finite differences."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch.utils._python_dispatch import TorchDispatchMode

from evenhand.adapters.lora import attach, detach, scaled
from evenhand.adapters.lowrank import LeanLinear, lean_layers, plain_layers
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.bases.unet import adapters_off

RANK, INPUTS, OUTPUTS = 4, 12, 20
CLOSE = 1e-6  # relative to the largest element: float32 sums in another order


class Operations(TorchDispatchMode):
    """The names of the operations inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def lora_layer(*, bias: bool = True, alpha: float = 6.0, dtype: torch.dtype = torch.float32, **more: Any) -> Linear:
    """PEFT's layer on a frozen linear one, with weights that change what it gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = torch.nn.Linear(INPUTS, OUTPUTS, bias=bias).requires_grad_(False)
        layer = Linear(base, "default", LoraConfig(r=RANK, lora_alpha=alpha, **more), r=RANK, lora_alpha=alpha)
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    return layer.to(dtype)


def drawn(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def passed(layer: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """A layer's output, and the gradients of its input and parameters, for one gradient from above."""
    x = x.clone().requires_grad_(True)
    layer.zero_grad()
    y = layer(x)
    y.backward(drawn(*y.shape, seed=2).to(y.dtype))
    assert x.grad is not None
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients}


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def both(layer: Linear, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """PEFT's results and the lean ones."""
    wanted = passed(layer, x)
    assert lean_layers(layer) == 1
    found = passed(layer, x)
    assert found.keys() == wanted.keys()
    return found, wanted


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, INPUTS), (2, 9, INPUTS), (2, 3, 5, INPUTS), (1, 1, INPUTS)])
@pytest.mark.parametrize("alpha", [4.0, 6.0])
def test_outputs_and_gradients_equal_pefts(bias: bool, shape: tuple[int, ...], alpha: float) -> None:
    found, wanted = both(lora_layer(bias=bias, alpha=alpha), drawn(*shape))
    assert set(found) == {"y", "x", "lora_A.default.weight", "lora_B.default.weight"}
    assert max(error(found[name], wanted[name]) for name in wanted) < CLOSE


def test_an_input_that_is_not_contiguous_gives_the_same() -> None:
    found, wanted = both(lora_layer(), drawn(2, INPUTS, 9).transpose(1, 2))
    assert max(error(found[name], wanted[name]) for name in wanted) < CLOSE


def test_the_comparison_finds_a_wrong_scale() -> None:
    """The control: a scale that is one part in ten thousand off is seen in everything that it enters."""
    layer = lora_layer()
    wanted = passed(layer, drawn(2, 9, INPUTS))
    lean_layers(layer)
    layer.scaling["default"] *= 1.0001
    found = passed(layer, drawn(2, 9, INPUTS))
    assert min(error(found[name], wanted[name]) for name in wanted) > 10 * CLOSE


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_finite_differences(bias: bool) -> None:
    layer = lora_layer(bias=bias, dtype=torch.float64)
    lean_layers(layer)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = drawn(2, 3, INPUTS, dtype=torch.float64).requires_grad_(True)
    with Operations() as operations:
        layer(x)
    assert "addmm_" in operations.names  # it is the lean forward that is checked
    # gradcheck moves the tensors in place, and the layer reads its own
    assert torch.autograd.gradcheck(lambda x, down, up: layer(x), (x, down, up))


def test_it_takes_six_operations_where_peft_takes_ten_or_more() -> None:
    def count(layer: torch.nn.Module) -> int:
        x = drawn(2, 9, INPUTS).requires_grad_(True)
        layer.zero_grad(set_to_none=True)
        with Operations() as operations:
            layer(x).sum().backward()
        views = {"t", "view", "_unsafe_view", "detach", "expand", "transpose", "alias"}
        return len([name for name in operations.names if name not in views])

    layer = lora_layer()
    bare, peft = count(layer.base_layer), count(layer)
    lean_layers(layer)
    assert count(layer) - bare == 6
    assert peft - bare >= 10


def test_no_gradient_is_made_of_what_is_frozen_or_needs_none() -> None:
    layer = lora_layer()
    lean_layers(layer)
    layer.lora_A["default"].requires_grad_(False)
    layer(drawn(2, 9, INPUTS)).sum().backward()
    gradients = {name for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert gradients == {"lora_B.default.weight"}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cast_base", [True, False])
def test_autocast_gives_what_peft_gives_in_it(precision: torch.dtype, cast_base: bool) -> None:
    """To the last bits of the half precision, whose relative step is 2^-8 or 2^-11; the weights' gradients are fp32."""
    layer = lora_layer()
    if cast_base:
        layer.base_layer.to(precision)
    x = drawn(2, 9, INPUTS, dtype=precision if cast_base else torch.float32)
    exact = passed(copy.deepcopy(layer).float(), x.float())
    with torch.autocast("cpu", dtype=precision):
        found, wanted = both(layer, x)
    step = 2.0**-8 if precision == torch.bfloat16 else 2.0**-11
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        assert error(found[name], exact[name]) < 4 * step, name
        assert error(found[name], exact[name]) < 2 * error(wanted[name], exact[name]) + step, name
    assert found["lora_A.default.weight"].dtype == torch.float32


def test_mixed_precision_without_autocast_goes_pefts_way() -> None:
    layer = lora_layer()
    layer.base_layer.to(torch.bfloat16)
    found, wanted = both(layer, drawn(2, 9, INPUTS, dtype=torch.bfloat16))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def not_plain(kind: str) -> Linear:
    """A layer to which the formulas of the lean forward do not apply."""
    more: dict[str, Any] = {"dora": {"use_dora": True}, "dropout": {"lora_dropout": 0.5}, "bias": {"lora_bias": True}}
    layer = lora_layer(**more.get(kind, {}))
    if kind == "two adapters":
        layer.update_layer("second", RANK, lora_alpha=2.0, config=LoraConfig(r=RANK, init_lora_weights="gaussian"))
        torch.nn.init.ones_(layer.lora_B["second"].weight)
        layer.set_adapter(["default", "second"])
    elif kind == "merged":
        layer.merge()
    elif kind == "hooked":
        layer.lora_B["default"].register_forward_hook(lambda module, args, output: output + 1.0)
    return layer


@pytest.mark.parametrize("kind", ["dora", "dropout", "bias", "two adapters", "merged", "hooked"])
def test_what_is_not_plain_goes_pefts_way_bit_for_bit(kind: str) -> None:
    layer, x = not_plain(kind), drawn(2, 9, INPUTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)  # dropout draws from the global generator
        wanted = layer(x)
        lean_layers(layer)
        torch.manual_seed(3)
        with Operations() as operations:
            found = layer(x)
    assert torch.equal(found, wanted)
    assert "addmm_" not in operations.names
    if kind != "merged":
        assert not torch.equal(found, lora_layer()(x))  # the kind does change what comes out


def test_a_disabled_adapter_leaves_the_frozen_layer_bit_for_bit() -> None:
    layer, x = lora_layer(), drawn(2, 9, INPUTS)
    lean_layers(layer)
    with adapters_off(layer):
        assert torch.equal(layer(x), layer.base_layer(x))
    assert not torch.equal(layer(x), layer.base_layer(x))


def test_a_scale_of_zero_gives_the_frozen_layer_bit_for_bit() -> None:
    layer, x = lora_layer(), drawn(2, 9, INPUTS)
    lean_layers(layer)
    layer.set_scale("default", 0.0)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_copies_and_pickles_are_layers_of_their_own() -> None:
    layer, x = lora_layer(), drawn(2, 9, INPUTS)
    lean_layers(layer)
    content = io.BytesIO()
    torch.save(layer, content)
    content.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(content, weights_only=False)):
        assert type(twin) is LeanLinear
        assert torch.equal(twin(x), layer(x))
        with torch.no_grad():
            twin.lora_B["default"].weight.zero_()
        assert torch.equal(twin(x), layer.base_layer(x))
        assert not torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.slow
def test_a_compiled_layer_gives_the_same() -> None:
    layer = lora_layer()
    wanted = passed(layer, drawn(2, 9, INPUTS))
    lean_layers(layer)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = passed(compiled, drawn(2, 9, INPUTS))
    assert error(found["y"], wanted["y"]) < CLOSE
    assert error(found["x"], wanted["x"]) < CLOSE


def unet_gradients(base: LoadedStableDiffusion, captions: list[str]) -> dict[str, torch.Tensor]:
    """The prediction of a base with its adapter, and the adapter's gradients."""
    base.unet.zero_grad()
    prediction = base.denoise(drawn(2, 4, 16, 16), torch.tensor([10, 900]), base.encode_text(captions))
    prediction.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in base.unet.named_parameters() if p.grad is not None}
    return {"prediction": prediction.detach(), **gradients}


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_unet_predicts_and_learns_as_with_peft(sd: LoadedStableDiffusion, targets: Any, checkpointing: bool) -> None:
    adapter = attach(sd, LoraSettings(rank=RANK, alpha=6.0, targets=targets), seed=0)
    generator = torch.Generator().manual_seed(0)
    adapter.set_tensors(
        {name: torch.randn(p.shape, generator=generator) * 0.1 for name, p in adapter.parameters.items()}
    )
    captions = ["a portrait of a mechanic", ""]
    plain_layers(sd.unet)
    wanted = unet_gradients(sd, captions)
    assert set(wanted) - {"prediction"} == set(adapter.parameters)
    assert lean_layers(sd.unet) > 0
    if checkpointing:
        unet: Any = sd.unet
        unet.enable_gradient_checkpointing()
        unet.train()
    found = unet_gradients(sd, captions)
    assert found.keys() == wanted.keys()
    assert error(found["prediction"], wanted["prediction"]) < 10 * CLOSE  # through some thirty layers
    assert max(error(found[name], wanted[name]) for name in wanted) < 100 * CLOSE


def test_an_attached_adapter_is_lean_and_comes_off_whole(sd: LoadedStableDiffusion) -> None:
    names = [name for name, _ in sd.unet.named_modules()]
    attach(sd, LoraSettings(rank=RANK, alpha=6.0, targets="attention"), seed=0)
    layers = [layer for layer in sd.unet.modules() if isinstance(layer, Linear)]
    assert layers
    assert {type(layer) for layer in layers} == {LeanLinear}
    with scaled(sd, 0.5):
        assert {layer.scaling["default"] for layer in layers} == {0.5 * 6.0 / RANK}
    detach(sd)
    assert [name for name, _ in sd.unet.named_modules()] == names
