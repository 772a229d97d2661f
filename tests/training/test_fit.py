from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from evenhand.adapters import Adapter, LoraSettings, attach
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.data import Batches, encode_set, read_examples
from evenhand.methods.curated import Curated
from evenhand.training.fit import FitResult, fit, start_accelerator
from evenhand.training.settings import AdamW, TrainSettings
from evenhand.training.state import latest_checkpoint
from tests.tiny import IMAGE_PX, load_sd

CONFIG = "c" * 64
SETTINGS = {
    "steps": 6,
    "batch_size": 4,
    "preserve_batch_size": 2,
    "grad_accumulation": 1,
    "max_grad_norm": 1.0,
    "caption_dropout": 0.1,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "resolution_px": None,
    "encode_batch_size": 8,
    "log_every_steps": 2,
    "checkpoint_every_steps": 3,
    "keep_checkpoints": 4,
}


class Remember:
    """A tracker that keeps its lines, and calls ``then`` after each."""

    def __init__(self, then=None) -> None:
        self.lines: dict[int, dict[str, float]] = {}
        self.then = then

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.lines[step] = dict(metrics)
        if self.then is not None:
            self.then(step)

    def close(self) -> None:
        pass


class Stage:
    """Everything that one training needs, on a base that is loaded anew."""

    def __init__(self, tiny_folder: Path, data: Path, tmp_path: Path, **changes: object) -> None:
        rate = changes.pop("learning_rate", 1e-3)
        self.settings = TrainSettings(**{**SETTINGS, **changes})
        self.base = load_sd(tiny_folder)
        self.adapter: Adapter = attach(self.base, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
        self.accelerator: Accelerator = start_accelerator("no")
        self.optim = AdamW(
            learning_rate=rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, schedule="cosine", warmup_steps=2
        )
        encoded = {
            split: encode_set(
                self.base,
                read_examples(data, split),
                data / split,
                resolution_px=IMAGE_PX,
                batch_size=8,
                cache_folder=tmp_path / "cache",
                is_main=True,
            )
            for split in ("train", "preserve")
        }
        self.batches = Batches(
            train=encoded["train"],
            preserve=encoded["preserve"],
            batch_size=self.settings.batch_size,
            preserve_batch_size=self.settings.preserve_batch_size,
            caption_dropout=self.settings.caption_dropout,
            num_train_timesteps=1000,
            seed=0,
            device=torch.device("cpu"),
        )

    def run(self, folder: Path, tracker: Remember | None = None, *, resume: bool = False) -> FitResult:
        return fit(
            self.base,
            self.adapter,
            Curated(preserve_weight=1.0, min_snr_gamma=None),
            self.batches,
            settings=self.settings,
            optim=self.optim,
            accelerator=self.accelerator,
            tracker=tracker or Remember(),
            folder=folder,
            config_sha256=CONFIG,
            resume=latest_checkpoint(folder, config_sha256=CONFIG) if resume else None,
        )


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    return lambda **changes: Stage(tiny_folder, tiny_set_folder, tmp_path, **changes)


def equal(first: Adapter, second: Adapter) -> bool:
    one, two = first.tensors(), second.tensors()
    return all(torch.equal(one[name], two[name]) for name in one)


def test_training_lowers_the_loss_of_the_same_batches_and_leaves_the_base_bit_for_bit(stage, tmp_path) -> None:
    long = stage(steps=24, learning_rate=2e-2, log_every_steps=8, checkpoint_every_steps=24)
    method = Curated(preserve_weight=1.0, min_snr_gamma=None)

    def loss() -> float:
        with torch.no_grad():
            return sum(method.loss(long.base, long.batches.at(step)).total.item() for step in range(4)) / 4

    before, tracker = loss(), Remember()
    result = long.run(tmp_path / "checkpoints", tracker)
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
    result = first.run(tmp_path / "checkpoints")
    again, tracker = stage(), Remember()
    assert again.run(tmp_path / "checkpoints", tracker, resume=True) == result
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


def test_a_loss_that_is_not_finite_ends_the_run_and_writes_no_checkpoint(stage, tmp_path) -> None:
    broken = stage()
    object.__setattr__(broken.batches.train, "mean_NCHW", torch.full_like(broken.batches.train.mean_NCHW, torch.nan))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        broken.run(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


def test_the_signal_handler_of_before_is_put_back(stage, tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stage(steps=1, log_every_steps=1).run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before


def test_jobs_of_a_sweep_may_differ_in_precision_within_one_process() -> None:
    assert [start_accelerator(precision).mixed_precision for precision in ("no", "bf16", "no")] == ["no", "bf16", "no"]
