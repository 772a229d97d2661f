from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from evenhand.interfaces import TextEmbedding
from tests.data.synthetic import CAPTIONS, dealer, rows_of, synthetic

NUM_ROWS = 12
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "batches.json"
BUCKETS = (5, 4, 3)
FIELDS = (
    "latents_BCHW",
    "noise_BCHW",
    "timesteps_B",
    "size_B6",
    "preserve_latents_BCHW",
    "preserve_noise_BCHW",
    "preserve_timesteps_B",
    "preserve_size_B6",
)


def numbers(text: TextEmbedding) -> list[int]:
    """Which captions these embeddings are of."""
    return text.hidden_BLD[:, 0, 0].int().tolist()


def golden_steps() -> list[dict[str, object]]:
    """What the golden file holds of each step: rows and captions by number, timesteps, and sums of the noise.

    The file was written by the loader before it had buckets, and a change of it changes every training.
    For a new version: python -c "from tests.data.test_batches import *; write_golden()"
    """
    batches = dealer(synthetic(std=0.5), synthetic(7, std=0.5), dropout=0.25, seed=3)
    steps = []
    for step in (0, 1, 2, 3, 10, 997):
        batch = batches.at(step)
        entry: dict[str, object] = {"step": step}
        for prefix, name in (("", "train"), ("preserve_", "preserve")):
            entry[f"{prefix}rows"] = [int(file.split(".")[0]) for file in batch.files][slice(*_part(name))]
            entry[f"{prefix}timesteps"] = getattr(batch, f"{prefix}timesteps_B").tolist()
            entry[f"{prefix}captions"] = numbers(getattr(batch, f"{prefix}text"))
            for kind in ("noise", "latent"):
                tensor = getattr(batch, f"{prefix}{kind if kind == 'noise' else 'latents'}_BCHW")
                entry[f"{prefix}{kind}_sums"] = [round(value, 4) for value in tensor.double().sum((1, 2, 3)).tolist()]
        steps.append(entry)
    return steps


def _part(name: str) -> tuple[int, int]:
    return (0, 8) if name == "train" else (8, 12)


def write_golden() -> None:
    GOLDEN.write_text(json.dumps({"steps": golden_steps()}) + "\n")


def test_without_buckets_every_draw_is_that_of_the_golden_file() -> None:
    for got, wanted in zip(golden_steps(), json.loads(GOLDEN.read_text())["steps"], strict=True):
        assert got.keys() == wanted.keys()
        for name, values in wanted.items():
            assert got[name] == (pytest.approx(values, abs=2e-4) if name.endswith("sums") else values), name


def test_another_seed_is_not_that_of_the_golden_file() -> None:
    wanted = json.loads(GOLDEN.read_text())["steps"][0]
    batch = dealer(synthetic(std=0.5), seed=4).at(0)
    assert batch.timesteps_B.tolist() != wanted["timesteps"]
    assert rows_of(batch.latents_BCHW) != wanted["rows"]


@pytest.mark.parametrize("bucket_sizes", [(), BUCKETS], ids=["square", "buckets"])
@pytest.mark.parametrize("num_parts", [2, 4])
def test_the_parts_of_a_batch_are_together_the_whole_batch(num_parts, bucket_sizes) -> None:
    batches = dealer(synthetic(bucket_sizes=bucket_sizes), synthetic(7), noise_offset=0.1)
    for step in range(5):
        whole = batches.at(step)
        parts = [batches.at(step, part=part, num_parts=num_parts) for part in range(num_parts)]
        for name in FIELDS:
            woven = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            assert torch.equal(woven, getattr(whole, name)), name
        for name in ("text", "preserve_text"):
            texts = torch.stack([getattr(part, name).hidden_BLD for part in parts], dim=1).flatten(0, 1)
            assert torch.equal(texts, getattr(whole, name).hidden_BLD)
        assert sorted(file for part in parts for file in part.files) == sorted(whole.files)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    one, again, other_step = dealer().at(5), dealer().at(5), dealer().at(6)
    other_seed = dealer(seed=1).at(5)
    assert torch.equal(one.noise_BCHW, again.noise_BCHW)
    assert torch.equal(one.latents_BCHW, again.latents_BCHW)
    assert not torch.equal(one.noise_BCHW, other_step.noise_BCHW)
    assert not torch.equal(one.noise_BCHW, other_seed.noise_BCHW)


def test_the_rows_of_a_bucketed_batch_have_one_shape_and_belong_to_their_captions_files_and_sizes() -> None:
    batches = dealer(synthetic(bucket_sizes=BUCKETS), synthetic(7))
    shapes = set()
    for step in range(12):
        batch = batches.at(step)
        rows = rows_of(batch.latents_BCHW)
        shapes.add(tuple(batch.latents_BCHW.shape[1:]))
        assert batch.noise_BCHW.shape == batch.latents_BCHW.shape
        assert numbers(batch.text) == [row % 2 + 1 for row in rows]
        assert batch.files[:8] == tuple(f"{row:06d}.png" for row in rows)
        assert batch.size_B6[:, 0].int().tolist() == rows
        assert batch.preserve_latents_BCHW.shape[1:] == (4, 2, 2)
    assert shapes == {(4, 2, 2), (4, 2, 3), (4, 2, 4)}


@pytest.mark.parametrize("bucket_sizes", [(), BUCKETS])
def test_labels_belong_to_their_rows_and_a_set_without_any_has_none(bucket_sizes) -> None:
    """Row k is labelled k, and its latents are k."""
    labelled = dataclasses.replace(
        synthetic(NUM_ROWS, bucket_sizes=bucket_sizes), labels_N=[{"row": str(k)} for k in range(NUM_ROWS)]
    )
    seen = set()
    for step in range(4):
        for part in range(2):
            batch = dealer(labelled, batch_size=4).at(step, part=part, num_parts=2)
            assert [int(labels["row"]) for labels in batch.labels] == rows_of(batch.latents_BCHW)
            seen |= set(rows_of(batch.latents_BCHW))
    assert len(seen) > 2
    assert dealer(synthetic(NUM_ROWS), batch_size=4).at(0).labels == ()


def test_timesteps_are_spread_evenly_over_every_batch() -> None:
    batches = dealer()
    for step in range(20):
        timesteps = batches.at(step).timesteps_B
        assert [int(timestep) // 125 for timestep in timesteps] == list(range(8))
    drawn = torch.cat([batches.at(step).timesteps_B for step in range(200)]).double()
    assert abs(drawn.mean().item() - 499.5) < 5  # the standard error of stratified draws is below 1
    assert drawn.min() < 10
    assert drawn.max() > 989


def test_captions_belong_to_their_rows_and_are_dropped_in_the_wanted_share() -> None:
    for batch in (dealer().at(step) for step in range(10)):
        assert [row % 2 + 1 for row in rows_of(batch.latents_BCHW)] == numbers(batch.text)
    dropped = [dealer(dropout=0.25).at(step).text.hidden_BLD[:, 0, 0].eq(0).float().mean() for step in range(250)]
    share = torch.stack(dropped).mean().item()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5  # four standard errors of 2000 draws


def test_latents_are_drawn_anew_from_their_posterior() -> None:
    narrow, spread = dealer(), dealer(synthetic(std=2.0))
    errors = torch.cat([spread.at(step).latents_BCHW - narrow.at(step).latents_BCHW for step in range(200)])
    assert abs(errors.mean().item()) < 0.05
    assert abs(errors.std().item() - 2.0) < 0.05
    noise = torch.cat([spread.at(step).noise_BCHW for step in range(200)])
    correlation = torch.corrcoef(torch.stack([errors.flatten(), noise.flatten()]))[0, 1].item()
    assert abs(correlation) < 0.03  # the posterior's draw is not the step's noise


def test_offset_noise_shifts_each_channel_of_the_train_rows_by_one_normal_number() -> None:
    """Guttenberg 2023: noise + offset * randn(B, C, 1, 1); the variance of a channel's mean grows by offset squared."""
    plain, shifted = dealer(preserve=synthetic(7)), dealer(preserve=synthetic(7), noise_offset=0.5)
    shifts = []
    for step in range(100):
        one, other = plain.at(step), shifted.at(step)
        difference = other.noise_BCHW - one.noise_BCHW
        torch.testing.assert_close(difference, difference[:, :, :1, :1].expand_as(difference), rtol=0, atol=1e-6)
        shifts.append(difference[:, :, 0, 0])
        for name in set(FIELDS) - {"noise_BCHW"}:
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    drawn = torch.cat(shifts)
    assert abs(drawn.mean().item()) < 4 * 0.5 / drawn.numel() ** 0.5
    assert abs(drawn.std().item() - 0.5) < 4 * 0.5 / (2 * drawn.numel()) ** 0.5
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.15  # a number for each channel


def test_preserve_rows_have_an_order_and_noise_of_their_own_and_keep_their_captions() -> None:
    batches = dealer(preserve=synthetic(7), dropout=0.9)
    batch = batches.at(0)
    assert batch.preserve_latents_BCHW.shape[0] == 4
    assert not torch.equal(batch.preserve_noise_BCHW, batch.noise_BCHW[:4])
    assert all((batches.at(step).preserve_text.hidden_BLD > 0).all() for step in range(10))
    assert dealer().at(0).preserve_latents_BCHW is None
    assert dealer().at(0).preserve_size_B6 is None


class Encoder:
    """A text encoder with one weight: it doubles a caption's number."""

    def __init__(self) -> None:
        self.weight = torch.tensor(2.0, requires_grad=True)
        self.calls: list[list[str]] = []

    def __call__(self, captions) -> TextEmbedding:
        self.calls.append(list(captions))
        drawn = torch.tensor([float(CAPTIONS.index(caption)) for caption in captions]) * self.weight
        return TextEmbedding(hidden_BLD=drawn.view(-1, 1, 1).expand(-1, 2, 3), pooled_BD=drawn.view(-1, 1))


def test_a_trained_text_encoder_embeds_each_different_caption_once_with_gradients() -> None:
    encoder = Encoder()
    batches = dealer(preserve=synthetic(7), embed_text=encoder)
    plain = dealer(preserve=synthetic(7)).at(3)
    batch = batches.at(3)
    assert [sorted(set(call)) for call in encoder.calls] == encoder.calls
    assert len(encoder.calls) == 1
    for name in ("text", "preserve_text"):
        cached, trained = getattr(plain, name).hidden_BLD, getattr(batch, name).hidden_BLD
        assert torch.equal(trained.detach(), 2 * cached)
        assert torch.equal(getattr(batch, name).pooled_BD[:, 0], trained[:, 0, 0])
    (batch.text.hidden_BLD.sum() + 10 * batch.preserve_text.hidden_BLD.sum()).backward()
    wanted = plain.text.hidden_BLD.sum() + 10 * plain.preserve_text.hidden_BLD.sum()
    torch.testing.assert_close(encoder.weight.grad, wanted)


def test_the_teacher_of_a_trained_text_encoder_sees_the_bases_own_embedding() -> None:
    batch = dealer(preserve=synthetic(7), embed_text=Encoder()).at(3)
    plain = dealer(preserve=synthetic(7)).at(3)
    assert torch.equal(batch.preserve_teacher_text.hidden_BLD, plain.preserve_text.hidden_BLD)
    assert not batch.preserve_teacher_text.hidden_BLD.requires_grad
    assert plain.preserve_teacher_text is None
    assert dealer(embed_text=Encoder()).at(3).preserve_teacher_text is None


def test_a_trained_text_encoder_changes_nothing_but_the_text() -> None:
    one, other = dealer(preserve=synthetic(7)).at(3), dealer(preserve=synthetic(7), embed_text=Encoder()).at(3)
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)
    changed = {field.name for field in dataclasses.fields(one) if isinstance(getattr(other, field.name), TextEmbedding)}
    assert changed == {"text", "preserve_text", "preserve_teacher_text"}
