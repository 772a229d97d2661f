"""Calibration inside the loop: weights in the loss, stops and kills, checkpoints, and what it leaves untouched."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from evenhand.training.calibration import Calibration
from evenhand.training.state import CHECKPOINTS, latest_checkpoint
from tests.tiny_training import CONFIG, Remember, Stage, curated, distill, equal
from tests.tiny_validation import SIDE_PX, color_reader

FAST = {"learning_rate": 3e-2, "log_every_steps": 1, "checkpoint_every_steps": 3, "steps": 7}


def calibration(**changes) -> Calibration:
    """Looks after steps 2, 4 and 6 at pictures of the tiny base, read by mean colour."""
    good = {"first_step": 2, "every_steps": 2, "num_images": 12, "batch_size": 6, "steps": 2, "guidance": 1.0}
    arguments = {**good, "reader": color_reader(), "evaluated_by": "another", "size_px": SIDE_PX, **changes}
    return Calibration(**arguments)


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    def make(**changes) -> Stage:
        good = {**FAST, "calibration": calibration()}
        return Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **{**good, **changes})

    return make


@pytest.mark.parametrize("method", [curated, distill], ids=["curated", "distill"])
@pytest.mark.parametrize("ema_decay", [None, 0.5], ids=["last", "average"])
def test_the_weights_of_each_look_are_in_the_losses_after_it(stage, tmp_path, method, ema_decay) -> None:
    """The losses up to the first look are those without one, and those after it are not."""
    lines = {}
    for name, chosen in (("with", calibration()), ("without", None)):
        made, tracker = stage(method=method(), ema_decay=ema_decay, calibration=chosen), Remember()
        assert made.run(tmp_path / name, tracker).finished
        lines[name] = tracker.lines
    looks = [step for step, line in lines["with"].items() if "calibration/weight/woman" in line]
    assert looks == [2, 4, 6]
    assert abs(lines["with"][2]["calibration/weight/woman"] - 1) > 0.05  # there was something to see
    for step in (1, 2):
        assert lines["with"][step]["loss"] == pytest.approx(lines["without"][step]["loss"], rel=1e-6)
    for step in (3, 4, 5, 6, 7):
        assert lines["with"][step]["loss"] != pytest.approx(lines["without"][step]["loss"], rel=1e-5)


def test_the_loss_after_a_look_is_that_of_batches_with_its_weights(stage, tmp_path) -> None:
    """With a rate of nothing the adapter stands still, so each step's loss can be computed anew afterwards."""
    made, tracker = stage(learning_rate=1e-30, method=curated(preserve_weight=0.0), preserve_batch_size=0), Remember()
    made.run(tmp_path, tracker)
    weight = {1: {"woman": 1.0, "man": 1.0}}
    for step in (2, 4, 6):
        weight[step + 1] = {who: tracker.lines[step][f"calibration/weight/{who}"] for who in ("woman", "man")}
    for step in (1, 3, 5, 7):
        batch = made.batches.at(step - 1)
        noisy = made.base.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
        target = made.base.target(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
        with torch.no_grad():
            error = (made.base.denoise(noisy, batch.timesteps_B, batch.text) - target).double()
        of_rows = error.square().flatten(1).mean(dim=1).tolist()
        own = [weight[step][labels["presentation"]] for labels in batch.labels]
        wanted = sum(w * e for w, e in zip(own, of_rows, strict=True)) / len(own)
        assert tracker.lines[step]["loss"] == pytest.approx(wanted, rel=1e-5), step


def test_looks_that_change_nothing_leave_the_training_bit_for_bit(stage, tmp_path, caplog) -> None:
    """Nothing is read, so all weights stay 1: what is left of the looks is what they would have disturbed."""
    blind = calibration(reader=color_reader(max_distance=0.0))
    looked, plain = stage(calibration=blind), stage(calibration=None)
    first, second = Remember(), Remember()
    looked.run(tmp_path / "looked", first)
    plain.run(tmp_path / "plain", second)
    assert caplog.text.count("weights stay as they are") == 3
    assert equal(looked.adapter, plain.adapter)
    for step, line in second.lines.items():
        assert {name: first.lines[step][name] for name in line} == line
    seeing = stage()
    seeing.run(tmp_path / "seeing")
    assert not equal(seeing.adapter, plain.adapter)


def test_a_look_leaves_modes_random_numbers_and_weights_of_a_real_base(stage, tmp_path) -> None:
    made = stage(gradient_checkpointing=True, text_encoder="attention", steps=1)
    made.run(tmp_path)
    roots = [made.base.unet, *made.base.text_encoders.values()]
    modes = [[module.training for module in root.modules()] for root in roots]
    assert any(any(each) for each in modes)
    before, state = made.adapter.tensors(), torch.get_rng_state()
    made.calibrated.look(9)
    assert [[module.training for module in root.modules()] for root in roots] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in made.adapter.tensors().items())
    assert made.calibrated.state()["num_looks"] == 1


class Killed(BaseException):
    """The process ends here."""


# with 3, from step 3 on, looks and checkpoints meet
@pytest.mark.parametrize(
    ("ending", "every_steps", "at"), [("stop", 3, 3), ("kill", 3, 4), ("kill", 2, 4), ("stop", 1, 3)]
)
def test_a_broken_training_goes_on_to_the_same_adapter_weights_and_metrics(
    stage, tmp_path, ending, every_steps, at
) -> None:
    chosen = calibration(first_step=max(every_steps, 2), every_steps=every_steps)
    straight, remembered = stage(calibration=chosen), Remember()
    straight.run(tmp_path / "straight", remembered)

    def end(step: int) -> None:
        if step == at and ending == "kill":
            raise Killed
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    broken, lines = stage(calibration=chosen), Remember(then=end)
    if ending == "kill":
        with pytest.raises(Killed):
            broken.run(tmp_path / "broken", lines)
    else:
        assert not broken.run(tmp_path / "broken", lines).finished
    resumed, more = stage(calibration=chosen), Remember()
    assert resumed.run(tmp_path / "broken", more, resume=True).finished
    assert len(more.lines) < len(remembered.lines)
    assert equal(straight.adapter, resumed.adapter)
    assert resumed.calibrated.state() == straight.calibrated.state()
    assert {**lines.lines, **more.lines} == remembered.lines


def test_a_checkpoint_of_the_step_of_a_look_has_the_weights_after_it(stage, tmp_path) -> None:
    made, tracker = stage(calibration=calibration(first_step=3, every_steps=3), steps=4, keep_checkpoints=1), Remember()
    with pytest.raises(Killed):
        made.run(tmp_path, _killing(tracker, at=4))
    kept = latest_checkpoint(tmp_path / CHECKPOINTS, config_sha256=CONFIG)
    assert kept is not None
    assert (kept.step, kept.calibration["num_looks"]) == (3, 1)
    assert dict(kept.calibration) == made.calibrated.state()
    weights = {name: tracker.lines[3][f"calibration/weight/{name}"] for name in ("man", "woman")}
    found = dict(zip(("man", "woman"), torch.tensor(kept.calibration["log_weights"]).exp().tolist(), strict=True))
    assert found == pytest.approx(weights, rel=1e-6)


def _killing(tracker: Remember, *, at: int) -> Remember:
    def end(step: int) -> None:
        if step == at:
            raise Killed

    tracker.then = end
    return tracker


def test_a_training_without_calibration_keeps_none(stage, tmp_path) -> None:
    stage(calibration=None, steps=3).run(tmp_path)
    kept = latest_checkpoint(tmp_path / CHECKPOINTS, config_sha256=CONFIG)
    assert kept is not None
    assert kept.calibration == {}
