"""Every method of conf/method through one behaviour suite, for one tiny step on the CPU."""

from __future__ import annotations

import pytest
import torch
import yaml

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.construct import build
from evenhand.data.batches import Batches
from evenhand.paths import conf_folder
from tests.tiny import randomize
from tests.tiny_set import tiny_batches

FILES = sorted((conf_folder() / "method").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def method(request):
    """The method as its YAML says."""
    return build(yaml.safe_load(request.param.read_text(encoding="utf-8")))


@pytest.fixture
def adapted(sd):
    """A base with an adapter that changes what it predicts."""
    adapter = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    randomize(adapter)
    return sd, adapter


@pytest.fixture
def batches(sd, method, tiny_set_folder, tmp_path) -> Batches:
    kept = 4 if method.uses_preserve else 0
    return tiny_batches(sd, tiny_set_folder, tmp_path, preserve_batch_size=kept)


def test_the_loss_is_a_finite_scalar_with_detached_parts(method, adapted, batches) -> None:
    terms = method.loss(adapted[0], batches.at(0))
    assert terms.total.shape == ()
    assert terms.total.requires_grad
    assert terms.total.isfinite()
    assert terms.parts
    assert not any(part.requires_grad for part in terms.parts.values())


def test_gradients_reach_the_adapter_and_nothing_else(method, adapted, batches) -> None:
    base, adapter = adapted
    method.loss(base, batches.at(0)).total.backward()
    assert {name for name, p in base.unet.named_parameters() if p.grad is not None} == set(adapter.parameters)
    assert all(p.grad.isfinite().all() for p in adapter.parameters.values())
    assert any(p.grad.any() for p in adapter.parameters.values())


def test_the_base_stays_bit_for_bit_after_an_optimizer_step(method, adapted, batches) -> None:
    base, adapter = adapted
    before = adapter.tensors()
    method.loss(base, batches.at(0)).total.backward()
    torch.optim.AdamW(adapter.parameters.values(), lr=1e-3).step()
    assert weights_fingerprint(base.unet) == base.fingerprint
    assert not all(torch.equal(before[name], value) for name, value in adapter.tensors().items())


def test_the_mean_over_two_processes_is_the_loss_of_one(method, adapted, batches) -> None:
    base, _ = adapted
    whole = method.loss(base, batches.at(0)).total.item()
    halves = [method.loss(base, batches.at(0, part=part, num_parts=2)).total.item() for part in range(2)]
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-4)


def test_the_same_batch_gives_the_same_loss(method, adapted, batches) -> None:
    base, _ = adapted
    losses = {method.loss(base, batches.at(0)).total.item() for _ in range(2)}
    assert len(losses) == 1
