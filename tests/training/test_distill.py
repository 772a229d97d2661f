"""Training by explicit captions, virtual concepts, shared noise and noisy timesteps: whole, in parts, and stopped."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.data.rows import read_examples
from evenhand.data.timesteps import Beta
from tests.tiny_training import Remember, Stage, distill, equal


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    def make(**changes) -> Stage:
        good = {"method": distill(), "timesteps": Beta(alpha=2.0, beta=1.0)}
        return Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **{**good, **changes})

    return make


def test_training_lowers_the_distance_to_the_teachers_and_leaves_the_base_bit_for_bit(stage, tmp_path) -> None:
    long = stage(steps=20, learning_rate=1e-2, log_every_steps=10, checkpoint_every_steps=20, caption_dropout=0.0)

    def distance() -> float:
        with torch.no_grad():
            parts = [long.method.loss(long.base, long.batches.at(step)).parts for step in range(3)]
        return sum(part["distill"].item() for part in parts) / 3

    before = distance()
    assert long.run(tmp_path / "run").finished
    assert distance() < 0.7 * before  # the rest is the variance of the teachers, and what preserve costs
    assert weights_fingerprint(long.base.unet) == long.base.fingerprint


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_adapter(stage, tmp_path) -> None:
    straight = stage(steps=4)
    straight.run(tmp_path / "straight")

    def stop(step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    broken = stage(steps=4)
    assert not broken.run(tmp_path / "broken", Remember(then=stop)).finished
    resumed = stage(steps=4)
    assert resumed.run(tmp_path / "broken", resume=True).finished
    assert equal(straight.adapter, resumed.adapter)


def test_batches_computed_in_parts_give_the_same_adapter(stage, tmp_path) -> None:
    whole, parts = stage(steps=4), stage(steps=4, grad_accumulation=2)
    whole.run(tmp_path / "whole")
    parts.run(tmp_path / "parts")
    after = parts.adapter.tensors()
    for name, value in whole.adapter.tensors().items():
        torch.testing.assert_close(after[name], value, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [{"virtual_concepts": 0.0}, {"rows_per_noise": 1}, {"coupled_noise": False}],
    ids=["virtual", "shared", "coupled"],
)
def test_virtual_concepts_and_shared_and_coupled_noise_change_what_is_learned(stage, tmp_path, changed) -> None:
    one, other, again = stage(steps=2), stage(steps=2, method=distill(**changed)), stage(steps=2)
    for name, each in (("one", one), ("other", other), ("again", again)):
        each.run(tmp_path / name)
    assert not equal(one.adapter, other.adapter)
    assert equal(one.adapter, again.adapter)


def test_student_and_teacher_read_the_same_virtual_word(stage) -> None:
    """With every concept virtual: the words of the seeds, one for two rows of the same noise, embedded one by one."""
    made = stage(method=distill(virtual_concepts=1.0), caption_dropout=0.0, preserve_batch_size=4)
    base, batch = made.base, made.batches.at(0)
    examples = {f"train/{row.file_name}": row for row in read_examples(made.data, "train")}
    explicit = [examples[file].explicit for file in batch.files[: len(batch.captions)]]
    words = base.virtual_words(sorted({row.concept for row in examples.values()}))
    shared = [batch.row_seeds[place - place % 2] for place in range(len(batch.captions))]
    for text, captions in ((batch.text, batch.captions), (batch.explicit_text, explicit)):
        wanted = torch.cat(
            [
                words.embed([caption], [concept], [seed]).hidden_BLD
                for caption, concept, seed in zip(captions, batch.concepts, shared, strict=True)
            ]
        )
        torch.testing.assert_close(text.hidden_BLD, wanted, rtol=1e-4, atol=1e-5)
        assert (text.hidden_BLD - base.encode_text(captions).hidden_BLD).abs().max() > 1e-3


def test_a_trained_text_encoder_speaks_for_the_student_and_the_base_itself_for_the_teacher(stage, tmp_path) -> None:
    """The loss after training, from its equation, with the base's own words for n+v and trained ones for n."""
    method = distill(virtual_concepts=0.0)
    trained = stage(steps=4, learning_rate=3e-2, text_encoder="attention", method=method, preserve_batch_size=4)
    before = trained.adapter.tensors()
    assert trained.run(tmp_path / "run").finished
    moved = {name for name, value in trained.adapter.tensors().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("text_encoder") for name in moved)
    base, batch = trained.base, trained.batches.at(1)
    examples = {f"train/{row.file_name}": row for row in read_examples(trained.data, "train")}
    explicit = [examples[file].explicit for file in batch.files[: len(batch.captions)]]
    noisy = base.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
    with torch.no_grad():
        with base.without_adapter():
            own, plain = base.encode_text(explicit), base.encode_text(batch.captions)
            teacher = base.denoise(noisy, batch.timesteps_B, own)
        words = base.encode_text(batch.captions)
        student = base.denoise(noisy, batch.timesteps_B, words)
    assert (words.hidden_BLD - plain.hidden_BLD).abs().max() > 1e-3  # the encoder has learned something
    torch.testing.assert_close(batch.explicit_text.hidden_BLD, own.hidden_BLD, rtol=1e-4, atol=1e-5)
    terms = trained.method.loss(base, batch)
    assert terms.parts["distill"].item() == pytest.approx((student - teacher).square().mean().item(), rel=1e-3)
    terms.total.backward()
    of_text = [p for name, p in trained.adapter.parameters.items() if name.startswith("text_encoder")]
    assert all(p.grad is not None and p.grad.any() for p in of_text)
