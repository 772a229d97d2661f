"""The probe in the real training loop, at tiny size: what it times, what it counts, and that it changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.benchmark import timing as benchmark_timing
from evenhand.benchmark.probe import CACHED, KINDS, LOG_EVERY_STEPS, PEFT, UNCACHED, StepPlan
from evenhand.benchmark.steps import StepFigures, bare_copy, measure_steps, training_of_noise
from evenhand.data.batches import Batches
from evenhand.methods.curated import Curated
from evenhand.training.processes import start_accelerator
from tests.tiny import IMAGE_PX

MOST_UPDATE_OPERATIONS = 20
PAUSE_SECONDS = 10.0
TICK_SECONDS = 0.001


def plan(*, pairs: int = 2, kinds: tuple[str, ...] = KINDS) -> StepPlan:
    return StepPlan(batch_size=2, resolution_px=IMAGE_PX, pairs=pairs, warmup=1, kinds=kinds)


def measured(base: LoadedStableDiffusion, folder: Path, chosen: StepPlan) -> StepFigures:
    return measure_steps(base, chosen, folder=folder, accelerator=start_accelerator("no"), seed=0, overrides=[])


class FakeTime:
    """A clock that goes on by a tick when it is read, and by as much as work is said to take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += TICK_SECONDS
        return self.now

    def slower(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **kwargs: Any) -> Any:
            self.now += PAUSE_SECONDS
            return work(*args, **kwargs)

        return paused


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Whatever else the machine does, what is slow is what a test makes slow."""
    fake = FakeTime()
    monkeypatch.setattr(benchmark_timing, "time", fake)
    return fake


@pytest.fixture(scope="module")
def figures(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StepFigures:
    from tests.tiny import load_sd

    return measured(load_sd(tiny_folder), tmp_path_factory.mktemp("steps"), plan())


def test_every_kind_has_its_pairs(figures: StepFigures) -> None:
    assert {kind: found.n for kind, found in figures.ratios.items()} == dict.fromkeys(KINDS, 2)
    assert figures.bare.n == 6
    assert all(found.median > 0 for found in (figures.bare, *figures.steps.values()))
    assert 0 < figures.loader_share.median < 1


def test_clipping_and_optimizer_take_few_operations_and_the_loop_waits_for_no_value(figures: StepFigures) -> None:
    assert 4 <= figures.update_operations <= MOST_UPDATE_OPERATIONS
    assert figures.host_syncs == 0


def test_the_lean_lora_takes_fewer_operations_than_pefts(figures: StepFigures) -> None:
    assert figures.bare_operations < figures.operations[CACHED] < figures.operations[PEFT]
    # Without caches the same passes are made, and the encoders' work comes before them.
    assert figures.operations[UNCACHED] == figures.operations[CACHED]


def test_memory_is_that_of_the_training(figures: StepFigures) -> None:
    assert figures.memory["adapter"] > 0
    assert figures.memory["optimizer"] >= 2 * figures.memory["adapter"]  # two moments of each weight
    assert figures.memory["base"]["unet"] > figures.memory["adapter"]


def test_a_slow_loss_is_seen_in_the_step_and_not_in_the_bare_pass(
    sd: LoadedStableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime
) -> None:
    """The control: something known to be slow around the passes must be found, and all of it in its place."""
    monkeypatch.setattr(Curated, "loss", fake_time.slower(Curated.loss))
    found = measured(sd, tmp_path, plan(pairs=1, kinds=(CACHED,)))
    assert found.bare.median == pytest.approx(TICK_SECONDS)
    assert found.steps[CACHED].median == pytest.approx(PAUSE_SECONDS + 2 * TICK_SECONDS)
    assert found.loader_share.median * PAUSE_SECONDS == pytest.approx(TICK_SECONDS, rel=0.01)


def test_a_slow_loader_is_seen_as_waiting(
    sd: LoadedStableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime
) -> None:
    monkeypatch.setattr(Batches, "at", fake_time.slower(Batches.at))
    found = measured(sd, tmp_path, plan(pairs=1, kinds=(CACHED,)))
    assert found.loader_share.median == pytest.approx(1.0, abs=0.01)
    assert found.bare.median == pytest.approx(TICK_SECONDS)


def test_encoding_is_seen_in_the_step_without_caches_alone(
    sd: LoadedStableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_time: FakeTime
) -> None:
    monkeypatch.setattr(sd, "encode_text", fake_time.slower(sd.encode_text))
    found = measured(sd, tmp_path, plan(pairs=1, kinds=(CACHED, UNCACHED)))
    assert found.steps[UNCACHED].median == pytest.approx(PAUSE_SECONDS + 2 * TICK_SECONDS)
    assert found.steps[CACHED].median == pytest.approx(2 * TICK_SECONDS)


def test_the_base_is_as_it_was_afterwards(sd: LoadedStableDiffusion, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in sd.unet.state_dict().items()}
    measured(sd, tmp_path, plan(pairs=1, kinds=(CACHED,)))
    after = sd.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_bare_copy_shares_weights_and_gets_no_adapter(sd: LoadedStableDiffusion) -> None:
    bare = bare_copy(sd)
    weights = {id(parameter) for parameter in sd.unet.parameters()}
    attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    assert {id(parameter) for parameter in bare.unet.parameters()} == weights
    assert not any("lora" in name for name, _ in bare.unet.named_modules())
    assert copy.copy(sd).unet is not bare.unet


def test_counted_steps_come_behind_the_timed_ones_and_log_nothing() -> None:
    for pairs in range(1, 12):
        chosen = plan(pairs=pairs)
        steps = range(chosen.num_steps)
        timed, counts = [s for s in steps if chosen.is_timed(s)], [s for s in steps if chosen.is_counted(s)]
        assert [chosen.kind(step) for step in timed] == list(KINDS) * pairs
        assert [chosen.kind(step) for step in counts] == list(KINDS)
        assert max(timed) < min(counts)
        assert max(counts) == chosen.num_steps - 2
        assert not any((step + 1) % LOG_EVERY_STEPS == 0 for step in counts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"pairs": 0}, "pairs"), ({"kinds": ("fast",)}, "unknown kinds"), ({"kinds": (PEFT,)}, "must be among")],
)
def test_a_plan_that_measures_nothing_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepPlan(**{"batch_size": 2, "resolution_px": 64, "pairs": 1, "warmup": 1, **changed})


@pytest.mark.parametrize("method", ["distill", "closed_form"])
def test_a_method_that_noise_cannot_train_is_refused_and_the_default_is_not(method: str) -> None:
    taken = {"steps": 2, "batch_size": 2, "resolution_px": 64, "num_images": 2}
    with pytest.raises(ValueError, match=f"method {method} cannot"):
        training_of_noise(**taken, overrides=[f"method={method}"])
    assert training_of_noise(**taken, overrides=[]).num_images == 2
