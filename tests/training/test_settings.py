from __future__ import annotations

import dataclasses

import pytest

from evenhand.training.settings import TrainSettings

GOOD = {
    "steps": 10,
    "batch_size": 8,
    "preserve_batch_size": 4,
    "grad_accumulation": 1,
    "max_grad_norm": 1.0,
    "ema_decay": None,
    "noise_offset": 0.0,
    "caption_dropout": 0.0,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "compile": False,
    "shard_base": False,
    "log_every_steps": 1,
    "checkpoint_every_steps": 5,
    "keep_checkpoints": 2,
    "keep": "last",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("preserve_batch_size", -1),
        ("grad_accumulation", 0),
        ("max_grad_norm", 0.0),
        ("ema_decay", 1.0),
        ("keep", "first"),
        ("caption_dropout", 1.0),
        ("mixed_precision", "fp8"),
        ("noise_offset", -0.1),
        ("log_every_steps", 0),
        ("checkpoint_every_steps", 0),
        ("keep_checkpoints", 0),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(key, value) -> None:
    TrainSettings(**GOOD)
    with pytest.raises(ValueError, match=f"{key} must be .*got {value}"):
        TrainSettings(**{**GOOD, key: value})


def test_batches_that_cannot_be_dealt_out_evenly_are_refused_with_the_multiple() -> None:
    settings = TrainSettings(**{**GOOD, "grad_accumulation": 2})
    settings.check(uses_preserve=True, validates=False, num_processes=2)
    with pytest.raises(ValueError, match=r"train.preserve_batch_size=4 .*make it a multiple of 6"):
        dataclasses.replace(settings, batch_size=6).check(uses_preserve=True, validates=False, num_processes=3)


def test_preserve_rows_and_method_must_agree() -> None:
    with pytest.raises(ValueError, match="needs preserve rows"):
        TrainSettings(**{**GOOD, "preserve_batch_size": 0}).check(uses_preserve=True, validates=False, num_processes=1)
    with pytest.raises(ValueError, match="must be 0 for a method without preserve, got 4"):
        TrainSettings(**GOOD).check(uses_preserve=False, validates=False, num_processes=1)


def test_the_best_weights_need_a_validation_that_tells_which_they_are() -> None:
    best = TrainSettings(**{**GOOD, "keep": "best"})
    best.check(uses_preserve=True, validates=True, num_processes=1)
    with pytest.raises(ValueError, match="train.keep=best needs a validation"):
        best.check(uses_preserve=True, validates=False, num_processes=1)


def test_a_base_is_spread_over_several_processes_without_a_validation_or_compilation() -> None:
    spread = TrainSettings(**{**GOOD, "shard_base": True})
    spread.check(uses_preserve=True, validates=False, num_processes=2)
    with pytest.raises(ValueError, match="over several processes, and there is one only"):
        spread.check(uses_preserve=True, validates=False, num_processes=1)
    with pytest.raises(ValueError, match="a validation, whose processes make different numbers of images"):
        spread.check(uses_preserve=True, validates=True, num_processes=2)
    with pytest.raises(ValueError, match="shard_base=true and train.compile"):
        dataclasses.replace(spread, compile=True).check(uses_preserve=True, validates=False, num_processes=2)


def test_a_batch_that_rows_of_the_same_noise_do_not_divide_is_refused_with_the_cure() -> None:
    settings = TrainSettings(**{**GOOD, "batch_size": 8})
    settings.check(uses_preserve=True, validates=False, num_processes=1, rows_per_noise=4)
    message = r"batch_size=8 cannot be cut into 3 rows of the same noise each: .* multiple of method\.rows_per_noise"
    with pytest.raises(ValueError, match=message):
        settings.check(uses_preserve=True, validates=False, num_processes=1, rows_per_noise=3)


def test_more_rows_at_once_than_the_method_takes_are_refused_with_the_cure() -> None:
    settings = TrainSettings(**{**GOOD, "batch_size": 8, "grad_accumulation": 1})
    settings.check(uses_preserve=True, validates=False, num_processes=1)
    settings.check(uses_preserve=True, validates=False, num_processes=2, max_rows=4)
    dataclasses.replace(settings, grad_accumulation=2).check(
        uses_preserve=True, validates=False, num_processes=1, max_rows=4
    )
    with pytest.raises(ValueError, match=r"batch_size=8 gives each process 8 rows .* at most 4: train\.batch_size=2"):
        settings.check(uses_preserve=True, validates=False, num_processes=1, max_rows=4)


def test_what_a_method_that_makes_its_own_pictures_does_not_use_is_refused() -> None:
    shifted = TrainSettings(**{**GOOD, "noise_offset": 0.1})
    shifted.check(uses_preserve=True, validates=False, num_processes=1)
    with pytest.raises(ValueError, match=r"train\.noise_offset=0\.1 .* pictures of its own"):
        shifted.check(uses_preserve=True, validates=False, num_processes=1, makes_pictures=True)
