from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.data.encoded import EncodedSet, encode_set
from evenhand.data.rows import read_examples, read_split
from evenhand.files import read_jsonl, write_jsonl_atomic
from tests.tiny import load_sd, randomize
from tests.tiny_set import IMAGES, tiny_batches, tiny_set

LOGGER = "evenhand.data.shards"
WIDE = replace(IMAGES, max_aspect=2.0)  # 64 px and a step of 8 px: 80x48, 72x56, 64x64 and so on


def encoded(base, folder: Path, cache: Path, *, split: str = "train", images=IMAGES, **ranks: int) -> EncodedSet:
    return encode_set(base, read_split(folder, split), images=images, cache_folder=cache, **ranks)


@contextmanager
def counted(base) -> Iterator[dict[str, int]]:
    """How often each part of a base computes inside."""
    pipeline = base.pipeline
    parts = {"unet": pipeline.unet, "vae": pipeline.vae.encoder, "text_encoder": pipeline.text_encoder}
    if hasattr(pipeline, "text_encoder_2"):
        parts["text_encoder_2"] = pipeline.text_encoder_2
    calls = dict.fromkeys(parts, 0)

    def count(name: str):
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def of_many_forms(folder: Path) -> Path:
    """A tiny set whose images have three forms: five squares, four lying, three standing."""
    tiny_set(folder)
    for row, size in enumerate([(64, 64)] * 5 + [(144, 112)] * 4 + [(100, 160)] * 3):
        path = folder / "train" / f"{row:06d}.png"
        Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)
    return folder


def by_pil(path: Path, left: int, top: int, right: int, bottom: int, width: int, height: int) -> torch.Tensor:
    image = Image.open(path).convert("RGB").crop((left, top, right, bottom)).resize((width, height), Image.LANCZOS)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def test_the_set_holds_what_the_base_gives(sd, tiny_set_folder, tmp_path) -> None:
    rows = encoded(sd, tiny_set_folder, tmp_path)
    examples = read_examples(tiny_set_folder, "train")
    assert len(rows) == 12
    for index in (0, 7, 11):  # of two files
        image = np.asarray(Image.open(tiny_set_folder / "train" / examples[index].file_name), dtype=np.float32)
        wanted = sd.encode_images(torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1)[None])
        got = rows.posterior([index])
        torch.testing.assert_close(got.mean_BCHW, wanted.mean_BCHW, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.std_BCHW, wanted.std_BCHW, rtol=1e-4, atol=1e-5)
        assert rows.caption_N[index] == examples[index].text
        assert rows.files[index] == f"train/{examples[index].file_name}"
    captions = [examples[index].text for index in (11, 0)] + [""]
    wanted_text = sd.encode_text(captions)
    torch.testing.assert_close(rows.text(captions).hidden_BLD, wanted_text.hidden_BLD, rtol=1e-4, atol=1e-5)
    assert rows.text(captions).pooled_BD is None
    assert len(rows.place_U) == 4  # three captions and the empty one


def test_explicit_captions_are_embedded_once_beside_the_images_that_other_methods_share(
    sd, tiny_set_folder, tmp_path
) -> None:
    plain = encoded(sd, tiny_set_folder, tmp_path)
    assert plain.explicit_N == ()
    with counted(sd) as first:
        rows = encoded(sd, tiny_set_folder, tmp_path, explicit=True)
    assert (first["vae"], first["text_encoder"] > 0) == (0, True)
    with counted(sd) as again:
        encoded(sd, tiny_set_folder, tmp_path, explicit=True)
    assert set(again.values()) == {0}
    examples = read_examples(tiny_set_folder, "train")
    assert list(rows.explicit_N) == [example.explicit for example in examples]
    wanted = sd.encode_text([example.explicit for example in examples]).hidden_BLD
    torch.testing.assert_close(rows.text(rows.explicit_N).hidden_BLD, wanted, rtol=1e-4, atol=1e-5)
    neutral = [example.text for example in examples]
    assert rows.text(neutral).hidden_BLD.equal(plain.text(neutral).hidden_BLD)
    assert rows.siblings_N == plain.siblings_N


def test_an_explicit_caption_that_is_also_neutral_has_one_embedding(sd, tmp_path) -> None:
    folder = tiny_set(tmp_path / "set")
    path = folder / "train" / "metadata.jsonl"
    write_jsonl_atomic(path, [{**row, "explicit": row["text"]} for row in read_jsonl(path)])
    rows = encoded(sd, folder, tmp_path / "cache", explicit=True)
    assert rows.text(rows.explicit_N).hidden_BLD.equal(rows.text(rows.caption_N).hidden_BLD)


def test_sdxl_has_pooled_text_and_is_told_the_sizes(sdxl, tmp_path) -> None:
    rows = encoded(sdxl, of_many_forms(tmp_path / "set"), tmp_path / "cache")
    captions = ["a portrait of a nurse", ""]
    wanted = sdxl.encode_text(captions)
    torch.testing.assert_close(rows.text(captions).pooled_BD, wanted.pooled_BD, rtol=1e-4, atol=1e-5)
    assert rows.size_N6[0].tolist() == [64, 64, 0, 0, 64, 64]
    assert rows.size_N6[5].tolist() == [112, 144, 0, 9, 64, 64]  # 16 px off each side of 144, at 64/112
    assert rows.size_N6[11].tolist() == [160, 100, 19, 0, 64, 64]  # 30 px off the top, at 64/100


def test_with_buckets_each_image_is_cut_to_its_own_form_and_encoded_so(sd, tmp_path) -> None:
    folder = of_many_forms(tmp_path / "set")
    rows = encoded(sd, folder, tmp_path / "cache", images=WIDE)
    assert sorted(rows.buckets) == [(0, 1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11)]
    assert [tuple(rows.posterior([row]).mean_BCHW.shape[1:]) for row in (0, 5, 9)] == [
        (4, 16, 16),
        (4, 14, 18),  # 72x56 px, the form of 144x112
        (4, 20, 12),  # 48x80 px: of 160 px height none is lost, of 100 px width two on each side
    ]
    for row, pixels in (
        (6, by_pil(folder / "train" / "000006.png", 0, 0, 144, 112, 72, 56)),
        (10, by_pil(folder / "train" / "000010.png", 2, 0, 98, 160, 48, 80)),
    ):
        wanted = sd.encode_images(pixels)
        torch.testing.assert_close(rows.posterior([row]).mean_BCHW, wanted.mean_BCHW, rtol=1e-3, atol=1e-4)
    assert rows.size_N6[10].tolist() == [160, 100, 0, 1, 80, 48]


def test_without_buckets_all_forms_share_the_square(sd, tmp_path) -> None:
    rows = encoded(sd, of_many_forms(tmp_path / "set"), tmp_path / "cache")
    assert rows.buckets == (tuple(range(12)),)
    assert rows.posterior(range(12)).mean_BCHW.shape == (12, 4, 16, 16)


def test_squares_are_encoded_alike_with_and_without_buckets(sd, tiny_set_folder, tmp_path) -> None:
    one = encoded(sd, tiny_set_folder, tmp_path / "one")
    other = encoded(sd, tiny_set_folder, tmp_path / "other", images=WIDE)
    assert one.buckets == other.buckets
    assert torch.equal(one.posterior(range(12)).mean_BCHW, other.posterior(range(12)).mean_BCHW)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_with_a_warm_cache_neither_encoding_nor_a_step_calls_vae_or_text_encoder(
    request, tiny_set_folder, tmp_path, name
) -> None:
    base = request.getfixturevalue(name)
    with counted(base) as cold:
        tiny_batches(base, tiny_set_folder, tmp_path, preserve_batch_size=2)
    assert min(count for part, count in cold.items() if part != "unet") > 0
    with counted(base) as warm:
        batches = tiny_batches(base, tiny_set_folder, tmp_path, preserve_batch_size=2)
        for step in range(3):
            batch = batches.at(step)
            noisy = base.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
            base.denoise(noisy, batch.timesteps_B, batch.text, size_B6=batch.size_B6)
    assert warm == {**dict.fromkeys(cold, 0), "unet": 3}


def test_batches_go_on_after_the_encoders_were_released(sd, tiny_set_folder, tmp_path) -> None:
    batches = tiny_batches(sd, tiny_set_folder, tmp_path, preserve_batch_size=2)
    before = batches.at(1)
    sd.release_encoders()
    assert torch.equal(batches.at(1).text.hidden_BLD, before.text.hidden_BLD)
    with pytest.raises(ValueError, match="released"):
        encoded(sd, tiny_set_folder, tmp_path / "elsewhere")


def test_what_has_changed_is_encoded_anew_and_named(
    sd, tiny_folder, tiny_epsilon_folder, tmp_path, caplog, monkeypatch
) -> None:
    folder = tiny_set(tmp_path / "set")
    caplog.set_level(logging.INFO, logger=LOGGER)

    def said() -> str:
        text = caplog.text
        caplog.clear()
        return text

    first = encoded(sd, folder, tmp_path / "cache")
    assert "encoding 12 images of " in said()
    shutil.copy(folder / "train" / "000001.png", folder / "train" / "000000.png")
    changed = encoded(sd, folder, tmp_path / "cache").posterior([0, 1]).mean_BCHW
    assert "changed: images)" in said()
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], first.posterior([0]).mean_BCHW[0])
    encoded(load_sd(tiny_epsilon_folder), folder, tmp_path / "cache")
    assert "changed: base encoders)" in said()
    encoded(sd, folder, tmp_path / "cache", images=replace(IMAGES, resolution_px=32))
    assert "changed: transform)" in said()
    encoded(sd, folder, tmp_path / "cache", images=replace(IMAGES, resolution_px=64))  # the base's own
    assert said() == ""
    rescaled = load_sd(tiny_folder)
    rescaled.pipeline.vae.register_to_config(scaling_factor=1.0)
    encoded(rescaled, folder, tmp_path / "cache")
    assert "changed: base encoders)" in said()
    encoded(load_sd(tiny_folder), folder, tmp_path / "cache", images=replace(IMAGES, encode_batch_size=3))
    assert said() == ""


def test_how_many_images_are_encoded_at_once_changes_nothing_but_the_last_bits(sd, tiny_set_folder, tmp_path) -> None:
    one = encoded(sd, tiny_set_folder, tmp_path / "one", images=replace(IMAGES, encode_batch_size=1))
    other = encoded(sd, tiny_set_folder, tmp_path / "other", images=replace(IMAGES, encode_batch_size=5))
    for name in ("mean_BCHW", "std_BCHW"):
        torch.testing.assert_close(
            getattr(one.posterior(range(12)), name), getattr(other.posterior(range(12)), name), rtol=1e-4, atol=1e-5
        )


def test_a_latent_that_is_not_finite_is_refused_with_its_file(sd, tiny_set_folder, tmp_path) -> None:
    with torch.no_grad():
        sd.pipeline.vae.encoder.conv_in.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"NaN or infinity for .*000000\.png"):
        encoded(sd, tiny_set_folder, tmp_path)
    assert not list(tmp_path.rglob("images-*.safetensors"))


def test_an_image_that_is_too_small_is_refused_before_anything_is_encoded(sd, tmp_path) -> None:
    folder = tiny_set(tmp_path / "set")
    Image.new("RGB", (30, 30)).save(folder / "train" / "000004.png")
    with counted(sd) as calls, pytest.raises(ValueError, match=r"000004\.png is 30x30 px and would be enlarged 2\.13"):
        encoded(sd, folder, tmp_path / "cache")
    assert not any(calls.values())
    encoded(sd, folder, tmp_path / "cache", images=replace(IMAGES, max_enlargement=3.0))


KILLED = """
import sys, time
from pathlib import Path
from dataclasses import replace
from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.data.encoded import encode_set
from evenhand.data.rows import read_split
from tests.tiny import load_sd, randomize
from tests.tiny_set import IMAGES
base = load_sd(Path(sys.argv[1]))
base.pipeline.vae.encoder.register_forward_hook(lambda *_: time.sleep(0.3))
images = replace(IMAGES, shard_images=2)
encode_set(base, read_split(Path(sys.argv[2]), "train"), images=images, cache_folder=Path(sys.argv[3]))
"""


def test_an_encoding_killed_at_any_moment_goes_on_to_the_same_set(sd, tiny_folder, tiny_set_folder, tmp_path) -> None:
    images = replace(IMAGES, shard_images=2)
    whole = encoded(sd, tiny_set_folder, tmp_path / "whole", images=images)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tiny_folder), str(tiny_set_folder), str(tmp_path / "killed")],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("killed/*/images-*"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = len(list(tmp_path.glob("killed/*/images-*")))
    assert 2 <= there < 6
    with counted(sd) as calls:
        resumed = encoded(sd, tiny_set_folder, tmp_path / "killed", images=images)
    assert calls["vae"] == 6 - there
    assert torch.equal(resumed.posterior(range(12)).mean_BCHW, whole.posterior(range(12)).mean_BCHW)
    assert torch.equal(
        resumed.text(["", "a portrait of a nurse"]).hidden_BLD, whole.text(["", "a portrait of a nurse"]).hidden_BLD
    )


def test_two_ranks_encode_each_image_once_and_hold_the_set_of_one(tiny_folder, tiny_set_folder, tmp_path) -> None:
    """In threads: two bases, one cache, and nothing but files between them."""
    import threading

    images = replace(IMAGES, shard_images=2, encode_batch_size=2)
    bases = [load_sd(tiny_folder), load_sd(tiny_folder)]
    alone = encoded(bases[0], tiny_set_folder, tmp_path / "alone", images=images)
    results: list[EncodedSet | None] = [None, None]

    def work(rank: int) -> None:
        results[rank] = encoded(bases[rank], tiny_set_folder, tmp_path / "two", images=images, rank=rank, num_ranks=2)

    with counted(bases[0]) as first, counted(bases[1]) as second:
        threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    assert (first["vae"], second["vae"]) == (3, 3)
    for one in results:
        assert one is not None
        assert torch.equal(one.posterior(range(12)).mean_BCHW, alone.posterior(range(12)).mean_BCHW)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_an_adapter_on_the_text_encoder_gets_gradients_and_the_teacher_the_bases_own_text(
    request, tiny_set_folder, tmp_path, name
) -> None:
    base = request.getfixturevalue(name)
    plain = tiny_batches(base, tiny_set_folder, tmp_path, preserve_batch_size=2).at(1)
    trained = tiny_batches(base, tiny_set_folder, tmp_path, preserve_batch_size=2, embed_text=base.embed_text)
    settings = LoraSettings(rank=2, alpha=2.0, targets="attention", text_encoder="attention")
    adapter = attach(base, settings, seed=0)
    before = trained.at(1)  # a new adapter changes nothing
    torch.testing.assert_close(before.text.hidden_BLD, plain.text.hidden_BLD, rtol=1e-4, atol=1e-5)
    randomize(adapter)
    batch = trained.at(1)
    assert not torch.allclose(batch.text.hidden_BLD, plain.text.hidden_BLD, rtol=1e-2)
    assert torch.equal(batch.preserve_teacher_text.hidden_BLD, plain.preserve_text.hidden_BLD)
    (batch.text.hidden_BLD.square().mean() + batch.preserve_text.hidden_BLD.square().mean()).backward()
    with_gradient = {key for key, value in adapter.parameters.items() if value.grad is not None and value.grad.any()}
    of_text = {key for key in adapter.parameters if key.startswith("text_encoder")}
    assert of_text
    assert with_gradient <= of_text
    assert {key.split(".")[0] for key in with_gradient} == {key.split(".")[0] for key in of_text}
