"""What is checked before images are made, with a real tiny pipeline: identity at scale 0, keys of the adapter, room."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evenhand.adapters import lora
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.files import sha256_file
from evenhand.generation.arms import Work, generate_arms
from evenhand.generation.check import check_adapter, check_disk, require_identity, take_stock
from tests.tiny_evaluation import Counting, saved_adapter, tiny_plan


@pytest.fixture
def work(sd: LoadedStableDiffusion, tmp_path: Path) -> Work:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    (tmp_path / "cache").mkdir()
    (tmp_path / "run").mkdir()
    return Work(
        plan=tiny_plan(sd, adapter), folder=tmp_path / "run", adapter=adapter, check_base=True, cache=tmp_path / "cache"
    )


def test_the_check_passes_a_sound_adapter_and_keeps_the_bases_first_batch(
    sd: LoadedStableDiffusion, work: Work
) -> None:
    counting = Counting(sd)
    assert check_adapter(work, counting) > 0  # type: ignore[arg-type]  # it stands for the base
    # The first batch of the base arm, and again at scale 0; the first is a part of the arm, so the rest are eight.
    assert [len(call) for call in counting.calls] == [4, 4]
    assert generate_arms(work, sd) == 8


def test_a_difference_in_one_pixel_is_found() -> None:
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    other = image.copy()
    other.putpixel((7, 7), (1, 2, 4))
    require_identity([image], [image.copy()])
    with pytest.raises(ValueError, match="image 1 of the plan is not the base's"):
        require_identity([image, image], [image, other])


def test_an_adapter_that_is_fused_into_the_base_is_found(sd: LoadedStableDiffusion, work: Work) -> None:
    """The base's images were made before; then somebody fused the adapter into the base's weights."""
    generate_arms(work, sd, arms=["base"])
    lora.load(sd, work.adapter)
    sd.unet.fuse_lora()
    sd.unet.unload_lora()
    with pytest.raises(ValueError, match="with the adapter at scale 0, image 0 of the plan is not the base's"):
        check_adapter(work, sd)


def test_cached_images_that_this_machine_does_not_make_are_found(sd: LoadedStableDiffusion, work: Work) -> None:
    """What the key does not know of, such as a faulty library, shows in the first batch."""
    generate_arms(work, sd, arms=["base"])
    (picture,) = (work.cache or Path()).glob("base_arms/*/0003.png")
    entry = picture.parent / "batch.json"
    old = shutil.copy(picture, work.folder / "old.png")
    Image.open(old).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    entry.write_text(entry.read_text().replace(sha256_file(old), sha256_file(picture)))
    fresh = replace(work, folder=work.folder.with_name("fresh"))
    with pytest.raises(ValueError, match="image 3 of the plan is not the base's.*cache=false"):
        check_adapter(fresh, sd)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")  # what a program would only have printed
@pytest.mark.parametrize(("old", "new"), [("to_q", "to_query"), ("lora_A", "lora_a"), ("unet.", "unet.model.")])
def test_an_adapter_with_renamed_keys_fails_loudly_and_makes_no_image(
    sd: LoadedStableDiffusion, work: Work, tmp_path: Path, old: str, new: str
) -> None:
    with safe_open(work.adapter, framework="pt") as opened:
        header = opened.metadata()
    renamed = {key.replace(old, new): value for key, value in load_file(work.adapter).items()}
    save_file(renamed, tmp_path / "renamed.safetensors", header)
    broken = replace(work, adapter=tmp_path / "renamed.safetensors")
    with pytest.raises(ValueError, match="renamed.safetensors"):
        check_adapter(broken, sd)
    assert not list(work.folder.rglob("*.png"))


def test_stock_is_counted_by_where_the_images_are(sd: LoadedStableDiffusion, work: Work) -> None:
    before = take_stock(work)
    assert (before.num_finished, before.num_cached, before.num_new, before.num_new_batches) == (0, 0, 12, 4)
    generate_arms(work, sd, arms=["base"])
    after = take_stock(replace(work, folder=work.folder.with_name("fresh")))
    assert (after.num_finished, after.num_cached, after.num_new, after.num_ready) == (0, 6, 6, 6)
    assert take_stock(work).num_finished == 6
    assert take_stock(replace(work, folder=work.folder.with_name("fresh"), cache=None)).num_new == 12


class Usage(NamedTuple):
    free: int


def test_a_disk_without_room_is_refused_before_the_first_image(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 images of 32 x 32 x 3 bytes in the folder and at most as many in the cache, on one disk: 73,728 bytes."""
    stock = take_stock(work)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free=73_728))
    check_disk(work, stock)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free=73_727))
    with pytest.raises(ValueError, match="0.00 GB free.*make room"):
        check_disk(work, stock)
    check_disk(replace(work, cache=None), stock)
