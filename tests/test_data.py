from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evenhand.data import Batches, EncodedSet, encode_set, load_pixels, read_examples
from evenhand.interfaces import TextEmbedding
from tests.tiny import IMAGE_PX, load_sd
from tests.tiny_set import tiny_set

CPU = torch.device("cpu")
NUM_ROWS = 12


def encoded(base, folder: Path, cache: Path, *, split: str = "train", resolution_px: int = IMAGE_PX) -> EncodedSet:
    return encode_set(
        base,
        read_examples(folder, split),
        folder / split,
        resolution_px=resolution_px,
        batch_size=5,
        cache_folder=cache,
        is_main=True,
    )


def synthetic(num_rows: int = NUM_ROWS, *, num_captions: int = 3) -> EncodedSet:
    """An encoded set whose means and texts are the row's and the caption's number."""
    return EncodedSet(
        mean_NCHW=torch.arange(float(num_rows)).view(-1, 1, 1, 1).expand(-1, 4, 2, 2).contiguous(),
        std_NCHW=torch.full((num_rows, 4, 2, 2), 1e-6),
        text_U=TextEmbedding(hidden_BLD=torch.arange(float(num_captions)).view(-1, 1, 1).expand(-1, 2, 3).contiguous()),
        caption_N=torch.arange(num_rows) % (num_captions - 1) + 1,
        empty_caption=0,
    )


def batches(*, batch_size: int = 8, dropout: float = 0.0, seed: int = 0, preserve: bool = False) -> Batches:
    return Batches(
        train=synthetic(),
        preserve=synthetic(7) if preserve else None,
        batch_size=batch_size,
        preserve_batch_size=4 if preserve else 0,
        caption_dropout=dropout,
        num_train_timesteps=1000,
        seed=seed,
        device=CPU,
    )


def rows_of(batch) -> list[int]:
    return batch.latents_BCHW[:, 0, 0, 0].round().int().tolist()


def test_rows_are_read_as_records(tiny_set_folder) -> None:
    examples = read_examples(tiny_set_folder, "train")
    assert len(examples) == NUM_ROWS
    assert (examples[0].text, examples[0].labels) == ("a portrait of a mechanic", {"presentation": "woman"})
    assert {example.text for example in read_examples(tiny_set_folder, "preserve")} >= {"", "a tree"}


def test_the_same_set_loads_with_plain_datasets(tiny_set_folder) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("imagefolder", data_dir=str(tiny_set_folder), split="train")
    assert list(rows["text"]) == [example.text for example in read_examples(tiny_set_folder, "train")]


def test_a_set_without_its_part_is_refused_by_name(tmp_path) -> None:
    folder = tiny_set(tmp_path / "set", preserve=False)
    with pytest.raises(ValueError, match=r"has no preserve/metadata\.jsonl"):
        read_examples(folder, "preserve")


def test_a_row_without_a_column_or_an_image_is_refused_with_its_line(tmp_path) -> None:
    folder = tiny_set(tmp_path / "set")
    path = folder / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[2]["concept"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"metadata\.jsonl line 3 lacks concept"):
        read_examples(folder, "train")
    rows[2]["concept"] = "mechanic"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train" / rows[4]["file_name"]).unlink()
    with pytest.raises(ValueError, match="line 5: image 000004.png does not exist"):
        read_examples(folder, "train")


def test_pixels_are_the_centre_square_between_minus_one_and_one(tmp_path) -> None:
    levels = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(4, 8, 3)
    Image.fromarray(levels).save(tmp_path / "wide.png")
    wanted = (levels[:, 2:6].astype(np.float64) / 255 * 2 - 1).transpose(2, 0, 1)
    np.testing.assert_allclose(load_pixels(tmp_path / "wide.png", 4).numpy(), wanted, atol=1e-6)
    assert load_pixels(tmp_path / "wide.png", 16).shape == (3, 16, 16)


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image"):
        load_pixels(tmp_path / "bad.png", 8)


def test_the_cache_holds_what_the_base_gives(sd, tiny_set_folder, tmp_path) -> None:
    rows = encoded(sd, tiny_set_folder, tmp_path)
    examples = read_examples(tiny_set_folder, "train")
    for index in (0, 7, 11):
        image = np.asarray(Image.open(tiny_set_folder / "train" / examples[index].file_name), dtype=np.float32)
        pixels = torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1)[None]
        posterior = sd.encode_images(pixels)
        torch.testing.assert_close(rows.mean_NCHW[index], posterior.mean_BCHW[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.std_NCHW[index], posterior.std_BCHW[0], rtol=1e-4, atol=1e-5)
        hidden = sd.encode_text([examples[index].text]).hidden_BLD[0]
        torch.testing.assert_close(rows.text_U.hidden_BLD[rows.caption_N[index]], hidden, rtol=1e-4, atol=1e-5)
    empty = sd.encode_text([""]).hidden_BLD[0]
    torch.testing.assert_close(rows.text_U.hidden_BLD[rows.empty_caption], empty, rtol=1e-4, atol=1e-5)
    assert len(rows.text_U.hidden_BLD) == 4  # three captions and the empty one


def test_a_second_call_reads_the_cache_and_encodes_nothing(sd, tiny_set_folder, tmp_path, monkeypatch) -> None:
    first = encoded(sd, tiny_set_folder, tmp_path)
    monkeypatch.setattr(sd.pipeline, "vae", None)
    monkeypatch.setattr(sd.pipeline, "text_encoder", None)
    second = encoded(sd, tiny_set_folder, tmp_path)
    assert torch.equal(first.mean_NCHW, second.mean_NCHW)
    assert torch.equal(first.text_U.hidden_BLD, second.text_U.hidden_BLD)


def test_what_has_changed_is_encoded_anew_and_named(sd, tiny_folder, tiny_epsilon_folder, tmp_path, caplog) -> None:
    folder = tiny_set(tmp_path / "set")
    caplog.set_level(logging.INFO, logger="evenhand.data")

    def said() -> str:
        text = caplog.text
        caplog.clear()
        return text

    first = encoded(sd, folder, tmp_path / "cache")
    assert "encoding 12 images" in said()
    shutil.copy(folder / "train" / "000001.png", folder / "train" / "000000.png")
    changed = encoded(sd, folder, tmp_path / "cache")
    assert "changed: images)" in said()
    assert torch.equal(changed.mean_NCHW[0], changed.mean_NCHW[1])
    assert not torch.equal(changed.mean_NCHW[0], first.mean_NCHW[0])
    encoded(load_sd(tiny_epsilon_folder), folder, tmp_path / "cache")
    assert "changed: base encoders)" in said()
    encoded(sd, folder, tmp_path / "cache", resolution_px=32)
    assert "changed: transform)" in said()
    encoded(load_sd(tiny_folder), folder, tmp_path / "cache")
    assert said() == ""


def test_a_latent_that_is_not_finite_is_refused_with_its_file(sd, tiny_set_folder, tmp_path) -> None:
    with torch.no_grad():
        sd.pipeline.vae.encoder.conv_in.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"NaN or infinity for .*000000\.png"):
        encoded(sd, tiny_set_folder, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("num_parts", [2, 4])
def test_the_parts_of_a_batch_are_together_the_whole_batch(num_parts) -> None:
    dealer = batches(preserve=True)
    whole = dealer.at(3)
    parts = [dealer.at(3, part=part, num_parts=num_parts) for part in range(num_parts)]
    for name in ("latents_BCHW", "noise_BCHW", "timesteps_B", "preserve_latents_BCHW", "preserve_noise_BCHW"):
        woven = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(woven, getattr(whole, name)), name
    texts = torch.stack([part.text.hidden_BLD for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(texts, whole.text.hidden_BLD)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    one, again, other_step = batches().at(5), batches().at(5), batches().at(6)
    other_seed = batches(seed=1).at(5)
    assert torch.equal(one.noise_BCHW, again.noise_BCHW)
    assert torch.equal(one.latents_BCHW, again.latents_BCHW)
    assert not torch.equal(one.noise_BCHW, other_step.noise_BCHW)
    assert not torch.equal(one.noise_BCHW, other_seed.noise_BCHW)


def test_every_pass_shows_every_row_once_in_an_order_of_its_own() -> None:
    dealer = batches()
    seen = [row for step in range(9) for row in rows_of(dealer.at(step))]
    passes = [seen[start : start + NUM_ROWS] for start in range(0, 72, NUM_ROWS)]
    assert all(sorted(one) == list(range(NUM_ROWS)) for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)


def test_timesteps_are_spread_evenly_over_every_batch() -> None:
    dealer = batches()
    for step in range(20):
        timesteps = dealer.at(step).timesteps_B
        assert [int(timestep) // 125 for timestep in timesteps] == list(range(8))
    drawn = torch.cat([dealer.at(step).timesteps_B for step in range(200)]).double()
    assert abs(drawn.mean().item() - 499.5) < 5  # the standard error of stratified draws is below 1
    assert drawn.min() < 10
    assert drawn.max() > 989


def test_captions_belong_to_their_rows_and_are_dropped_in_the_wanted_share() -> None:
    for batch in (batches().at(step) for step in range(10)):
        assert [row % 2 + 1 for row in rows_of(batch)] == batch.text.hidden_BLD[:, 0, 0].int().tolist()
    dropped = [batches(dropout=0.25).at(step).text.hidden_BLD[:, 0, 0].eq(0).float().mean() for step in range(250)]
    share = torch.stack(dropped).mean().item()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5  # four standard errors of 2000 draws


def test_latents_are_drawn_anew_from_their_posterior() -> None:
    rows = synthetic()
    wide = EncodedSet(
        mean_NCHW=rows.mean_NCHW,
        std_NCHW=torch.full_like(rows.std_NCHW, 2.0),
        text_U=rows.text_U,
        caption_N=rows.caption_N,
        empty_caption=0,
    )
    narrow, spread = batches(), batches()
    object.__setattr__(spread, "train", wide)
    errors = torch.cat([spread.at(step).latents_BCHW - narrow.at(step).latents_BCHW for step in range(200)])
    assert abs(errors.mean().item()) < 0.05
    assert abs(errors.std().item() - 2.0) < 0.05
    noise = torch.cat([spread.at(step).noise_BCHW for step in range(200)])
    correlation = torch.corrcoef(torch.stack([errors.flatten(), noise.flatten()]))[0, 1].item()
    assert abs(correlation) < 0.03  # the posterior's draw is not the step's noise


def test_preserve_rows_have_an_order_and_noise_of_their_own_and_keep_their_captions() -> None:
    dealer = batches(preserve=True, dropout=0.9)
    batch = dealer.at(0)
    assert batch.preserve_latents_BCHW.shape[0] == 4
    assert not torch.equal(batch.preserve_noise_BCHW, batch.noise_BCHW[:4])
    assert all((dealer.at(step).preserve_text.hidden_BLD > 0).all() for step in range(10))
    assert batches().at(0).preserve_latents_BCHW is None
