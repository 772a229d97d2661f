"""What is trained and what is not: every tensor of every kind of adapter learns, and nothing of the base moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.placement import parts_of
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.interfaces import LoadedBase
from tests.adapters.variants import settings
from tests.tiny import LATENT_PX, load_sd, randomize

CAPTIONS = ["a portrait of a mechanic", "a doctor with glasses"]


def loss(base: LoadedBase) -> torch.Tensor:
    noisy = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(0))
    return base.denoise(noisy, torch.tensor([10, 900]), base.embed_text(CAPTIONS)).square().mean()


def gradients(adapter: Adapter) -> dict[str, torch.Tensor]:
    loss(adapter.base).backward()
    found = {}
    for name, parameter in adapter.parameters.items():
        assert parameter.grad is not None, f"{name} got no gradient"
        found[name], parameter.grad = parameter.grad, None
    return found


@pytest.mark.parametrize("name", ["all_layers", "dora_all_layers", "text_feedforward_patterns", "text_dora"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_tensor_gets_the_same_gradient_with_and_without_recomputation(
    request: pytest.FixtureRequest, name: str, family: str
) -> None:
    base: Any = request.getfixturevalue(family)
    adapter = attach(base, settings(name), seed=0)
    randomize(adapter, std=0.02)
    plain = gradients(adapter)
    base.checkpoint_gradients()
    recomputed = gradients(adapter)
    for key, value in plain.items():
        assert value.abs().max() > 0, f"the gradient of {key} is 0"
        torch.testing.assert_close(recomputed[key], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["all_layers", "text_dora"])
def test_training_moves_every_tensor_of_the_adapter_and_no_bit_of_the_base(sd, name) -> None:
    adapter = attach(sd, settings(name), seed=0)
    frozen = {
        f"{part}.{key}": value.clone()
        for part, module in {**parts_of(sd), "vae": sd.pipeline.vae}.items()
        for key, value in module.state_dict().items()
        if ".lora_" not in key
    }
    before = adapter.tensors()
    optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=1e-2)
    for _ in range(2):  # at the first step B is 0, so A has no gradient yet
        loss(sd).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = adapter.tensors()
    assert [key for key in before if torch.equal(before[key], after[key])] == []
    now = {
        f"{part}.{key}": value
        for part, module in {**parts_of(sd), "vae": sd.pipeline.vae}.items()
        for key, value in module.state_dict().items()
    }
    assert [key for key, value in frozen.items() if not torch.equal(now[key], value)] == []
    assert weights_fingerprint(sd.unet) == sd.fingerprint
    assert weights_fingerprint(sd.pipeline.vae, sd.pipeline.text_encoder) == sd.encoders_fingerprint


def test_a_moved_weight_of_the_base_would_be_seen(sd) -> None:
    attach(sd, settings("text_dora"), seed=0)
    with torch.no_grad():
        sd.text_encoders["text_encoder"].get_submodule(sd.text_lora_targets("attention")["text_encoder"][0]).weight[
            0, 0
        ] += 0.1
    assert weights_fingerprint(sd.pipeline.vae, sd.pipeline.text_encoder) != sd.encoders_fingerprint


@pytest.mark.parametrize("name", ["plain", "text_dora", "orthogonal"])
def test_trainables_are_float32_on_a_base_in_bfloat16(tiny_folder, name) -> None:
    base = load_sd(tiny_folder)
    for module in (base.unet, base.pipeline.text_encoder):
        module.to(torch.bfloat16)
    adapter = attach(base, settings(name), seed=0)
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    trainable = {id(p) for part in parts_of(base).values() for p in part.parameters() if p.requires_grad}
    assert trainable == {id(parameter) for parameter in adapter.parameters.values()}
    assert base.unet.conv_in.weight.dtype == torch.bfloat16
