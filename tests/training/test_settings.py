from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from evenhand.training.settings import AdamW, TrainSettings

GOOD = {
    "steps": 10,
    "batch_size": 8,
    "preserve_batch_size": 4,
    "grad_accumulation": 1,
    "max_grad_norm": 1.0,
    "caption_dropout": 0.0,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "resolution_px": None,
    "encode_batch_size": 4,
    "log_every_steps": 1,
    "checkpoint_every_steps": 5,
    "keep_checkpoints": 2,
}


def adamw(**changes: object) -> AdamW:
    good = {"learning_rate": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 4}
    return AdamW(**{**good, "schedule": "cosine", **changes})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("preserve_batch_size", -1),
        ("grad_accumulation", 0),
        ("max_grad_norm", 0.0),
        ("caption_dropout", 1.0),
        ("mixed_precision", "fp8"),
        ("resolution_px", 0),
        ("encode_batch_size", 0),
        ("log_every_steps", 0),
        ("checkpoint_every_steps", 0),
        ("keep_checkpoints", 0),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(key, value) -> None:
    TrainSettings(**GOOD)
    with pytest.raises(ValueError, match=f"{key} must be .*got {value}"):
        TrainSettings(**{**GOOD, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0.0), ("betas", (0.9,)), ("betas", (0.9, 1.0)), ("schedule", "step"), ("warmup_steps", -1)],
)
def test_an_optimizer_setting_that_makes_no_sense_is_refused_by_name(key, value) -> None:
    with pytest.raises(ValueError, match=f"{key} must be"):
        adamw(**{key: value})


def test_batches_that_cannot_be_dealt_out_evenly_are_refused_with_the_multiple() -> None:
    settings = TrainSettings(**{**GOOD, "grad_accumulation": 2})
    settings.check(uses_preserve=True, num_processes=2)
    with pytest.raises(ValueError, match=r"train.preserve_batch_size=4 .*make it a multiple of 6"):
        dataclasses.replace(settings, batch_size=6).check(uses_preserve=True, num_processes=3)


def test_preserve_rows_and_method_must_agree() -> None:
    with pytest.raises(ValueError, match="needs preserve rows"):
        TrainSettings(**{**GOOD, "preserve_batch_size": 0}).check(uses_preserve=True, num_processes=1)
    with pytest.raises(ValueError, match="must be 0 for a method without preserve, got 4"):
        TrainSettings(**GOOD).check(uses_preserve=False, num_processes=1)


def test_the_rate_warms_up_and_then_follows_its_schedule() -> None:
    rates = [adamw().rate_at(step, 12) for step in range(12)]
    assert rates[:5] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rates[8] == pytest.approx(0.5e-3)  # half way from the end of the warm-up: cos(pi / 2)
    assert rates[11] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert adamw(schedule="linear").rate_at(8, 12) == pytest.approx(0.5e-3)
    assert adamw(schedule="constant").rate_at(11, 12) == pytest.approx(1e-3)
    assert adamw(warmup_steps=0).rate_at(0, 12) == pytest.approx(1e-3)


def test_one_step_equals_adamw_written_out() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw(weight_decay=0.1).optimizer([parameter])
    parameter.grad = torch.tensor([0.5, -0.25])
    optimizer.step()
    # after one step the bias-corrected moments are the gradient and its square
    wanted = [w * (1 - 1e-3 * 0.1) - 1e-3 * g / (abs(g) + 1e-8) for w, g in ((1.0, 0.5), (-2.0, -0.25))]
    assert parameter.tolist() == pytest.approx(wanted, rel=1e-6)
