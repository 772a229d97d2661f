"""Every method of conf/method through one behaviour suite, for one tiny step or solution on the CPU."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
import yaml

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.data.batches import Batches
from evenhand.data.rows import read_examples
from evenhand.interfaces import SamplingMethod
from evenhand.paths import conf_folder
from tests.tiny import randomize
from tests.tiny_set import tiny_batches

FILES = sorted((conf_folder() / "method").glob("*.yaml"))


def solves(path: Path) -> bool:
    """Whether a file names a method that solves for the adapter at once."""
    module, _, name = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"].rpartition(".")
    return hasattr(getattr(importlib.import_module(module), name), "solve")


STEPPING = [path for path in FILES if not solves(path)]
DIRECT = [path for path in FILES if solves(path)]
FEW = {"images_per_prompt": 2, "sampling_steps": 2, "gradient_steps": 2}


@pytest.fixture(params=STEPPING, ids=lambda path: path.stem)
def method(request):
    """The method as its YAML says, with fewer pictures where it makes its own."""
    node = compose_config("train", [f"method={request.param.stem}"]).plain["method"]
    return build({key: FEW.get(key, value) for key, value in node.items()})


@pytest.fixture
def adapted(sd):
    """A base with an adapter that changes what it predicts."""
    adapter = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    randomize(adapter)
    return sd, adapter


@pytest.fixture
def batches(sd, method, tiny_set_folder, tmp_path) -> Batches:
    kept = 4 if method.uses_preserve else 0
    return tiny_batches(
        sd,
        tiny_set_folder,
        tmp_path,
        preserve_batch_size=kept,
        explicit=method.uses_explicit,
        rows_per_noise=method.rows_per_noise,
        coupled_noise=method.coupled_noise,
        virtual_concepts=method.virtual_concepts,
    )


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


def test_a_method_that_learns_from_a_sets_rows_weighs_them(method, adapted, batches) -> None:
    """What a calibration relies on: a row of weight 0 has no say, and rows of weight 2 have twice theirs."""
    if isinstance(method, SamplingMethod):
        return  # `train/lora.py` refuses a calibration of it
    base, _ = adapted
    batch = batches.at(0)
    first = torch.tensor([2.0, 0.0, 0.0, 0.0])
    own = [dataclasses.replace(batch, weights_B=first.roll(place)) for place in range(4)]
    of_rows = [next(iter(method.loss(base, each).parts.values())).item() for each in own]
    whole = next(iter(method.loss(base, batch).parts.values())).item()
    assert sum(of_rows) / 2 == pytest.approx(whole, rel=1e-4)
    assert max(of_rows) > 1.001 * min(of_rows)


def test_the_same_batch_gives_the_same_loss(method, adapted, batches) -> None:
    base, _ = adapted
    losses = {method.loss(base, batches.at(0)).total.item() for _ in range(2)}
    assert len(losses) == 1


@pytest.fixture(params=DIRECT, ids=lambda path: path.stem)
def direct(request, sd, tiny_set_folder):
    """A method that takes no steps, with a base, the rows of a set and the ranks of the modules that it changes."""
    config = compose_config("train", [f"method={request.param.stem}"])
    found, lora = config.build("method"), config.build("lora")
    rows = {part: read_examples(tiny_set_folder, part) for part in ("train", "preserve")}
    assert lora.targets == found.targets  # the choice of the method chooses the adapter's place
    return found, sd, rows, dict.fromkeys(sd.lora_targets(found.targets), 2)


def test_a_solution_fits_every_module_and_leaves_the_base_bit_for_bit(direct) -> None:
    method, base, rows, ranks = direct
    method.check(rows)
    solution = method.solve(base, rows, ranks=ranks)
    assert set(solution.factors) == set(ranks)
    for name, (down, up) in solution.factors.items():
        weight = base.unet.get_submodule(name).weight
        assert (down.shape, up.shape) == ((2, weight.shape[1]), (weight.shape[0], 2))
        assert (up @ down).isfinite().all()
        assert (up @ down).any()
    assert 0.0 <= solution.figures["loss"] < 1.0
    assert weights_fingerprint(base.unet) == base.fingerprint


def test_the_same_rows_give_the_same_solution(direct) -> None:
    method, base, rows, ranks = direct
    one, other = (method.solve(base, rows, ranks=ranks) for _ in range(2))
    assert one.figures == other.figures
    assert all(torch.equal(a, b) for name in ranks for a, b in zip(one.factors[name], other.factors[name], strict=True))


def test_where_no_value_is_named_a_solution_changes_nothing(direct) -> None:
    method, base, rows, ranks = direct
    plain = {"train": [dataclasses.replace(row, explicit=row.text) for row in rows["train"]], "preserve": ()}
    solution = method.solve(base, {**rows, **plain}, ranks=ranks)
    assert not any((up @ down).any() for down, up in solution.factors.values())
