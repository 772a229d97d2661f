"""Training by a method that makes its own pictures: accumulated, resumed, and with its reader on the card."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from evenhand.methods.align import Align
from tests.methods.test_align import Colors, align
from tests.programs.test_train_lora import command, run
from tests.tiny_training import Remember, Stage, equal


def small() -> Align:
    return align(
        Colors(), images_per_prompt=2, sampling_steps=2, gradient_steps=2, image_weight=1.0, preserve_weight=1.0
    )


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    def make(**changes) -> Stage:
        return Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **{"steps": 4, "method": small(), **changes})

    return make


def test_parts_computed_one_after_the_other_give_the_same_losses(stage, tmp_path) -> None:
    lines = []
    for parts in (1, 2):
        tracker = Remember()
        stage(grad_accumulation=parts).run(tmp_path / str(parts), tracker)
        lines.append(tracker.lines)
    assert sorted(lines[0]) == [2, 4]
    assert all(line["align"] > 0 and line["pulled"] > 0 for line in lines[0].values())
    for step, line in lines[0].items():
        assert lines[1][step] == pytest.approx(line, rel=1e-3)


def test_a_text_encoder_is_trained_too_and_preserve_holds_it_to_the_bases_own_words(stage, tmp_path) -> None:
    trained, tracker = stage(text_encoder="attention", learning_rate=1e-2), Remember()
    before = trained.adapter.tensors()
    trained.run(tmp_path / "run", tracker)
    moved = {name for name, value in trained.adapter.tensors().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] == "text_encoder" for name in moved} == {True, False}
    assert (
        tracker.lines[4]["preserve"] > 0
    )  # were the teacher's words the trained ones, the text would be held to nothing
    batch = trained.batches.at(0)
    with trained.base.without_adapter():
        own = trained.base.encode_text(["a tree", ""]).hidden_BLD
    stored = trained.batches.preserve.text(["a tree", ""]).hidden_BLD
    torch.testing.assert_close(stored, own, rtol=1e-4, atol=1e-5)
    assert not torch.equal(batch.preserve_text.hidden_BLD, batch.preserve_teacher_text.hidden_BLD)


def test_a_training_that_goes_on_from_a_checkpoint_ends_bit_for_bit_where_one_without_a_stop_does(
    stage, tmp_path
) -> None:
    whole, first, second = stage(), stage(), stage()
    before = {name: value.clone() for name, value in whole.adapter.tensors().items()}
    whole.run(tmp_path / "whole")
    assert not all(torch.equal(value, before[name]) for name, value in whole.adapter.tensors().items())

    class Enough(Exception):
        pass

    def stop(step: int) -> None:
        if step == 4:
            raise Enough

    with pytest.raises(Enough):  # the checkpoint is that of step 3
        first.run(tmp_path / "stopped", Remember(stop))
    second.run(tmp_path / "stopped", resume=True)
    assert equal(whole.adapter, second.adapter)


def test_the_reader_in_the_loop_stands_on_the_card_of_an_adapter_for_both_parts(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    small = ["method.images_per_prompt=2", "method.sampling_steps=2", "method.gradient_steps=1", "train.steps=1"]
    arguments = command(tiny_folder, tiny_set_folder, "method=align", "run_name=align", *small)
    code, _, err = run([*arguments, "train.log_every_steps=1", "lora.text_encoder=attention"], tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "default" / "align"
    card = json.loads((folder / "adapter" / "card.json").read_text())
    assert (card["method"], card["training_readers"]) == ("align", ["tinytown_a"])
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"align", "image", "preserve", "shown", "pulled"} <= set(line)
    weights = load_file(folder / "adapter" / "pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in weights} == {"unet", "text_encoder"}


def test_a_set_with_nothing_to_align_is_refused_before_anything_is_loaded(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    arguments = command(tiny_folder, tiny_set_folder, "method=align", "target@method.target=base", "train.batch_size=2")
    code, _, err = run(arguments, tmp_path)
    assert code == 2
    assert "every concept of the set is to stay as the base has it (mechanic, nurse, doctor)" in err
    assert not (tmp_path / "runs").exists()


def test_the_usual_batch_is_refused_before_anything_is_loaded_with_the_cure(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    arguments = command(tiny_folder, tiny_set_folder, "method=align", "run_name=many", "train.batch_size=32")
    code, _, err = run(arguments, tmp_path)
    assert code == 2
    assert "batch_size=32 gives each process 32 rows at once" in err
    assert "takes at most 4: train.batch_size=2 train.preserve_batch_size=8" in err
    assert not (tmp_path / "runs" / "default" / "many").exists()
