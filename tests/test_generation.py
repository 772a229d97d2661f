"""Generation with a real tiny pipeline and real LoRA adapters, killed, resumed and split over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evenhand import adapters
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.folder import load_images
from evenhand.evaluation.plan import GenerationPlan, Plan, parse_plan
from evenhand.files import sha256_file
from evenhand.generation import (
    adapter_file,
    batches,
    check_adapter,
    finish_images,
    generate_arm,
    generate_arms,
    require_identity,
    unfinished_batches,
)
from tests.folders import plan_row, prompt_row

PROMPTS = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse"), prompt_row("unrelated", "car")]


def tiny_plan(base: LoadedStableDiffusion, adapter: Path) -> Plan:
    """Three prompts, two seeds, batches of four: the second batch is half full."""
    generation = GenerationPlan(
        seeds={row["id"]: (7 * index + 1, 7 * index + 2) for index, row in enumerate(PROMPTS)},
        batch_size=4,
        steps=2,
        guidance=2.0,
        height_px=32,
        width_px=32,
        dtype="float32",
        device="cpu",
        base=base.name,
        base_fingerprint=base.fingerprint,
        encoders_fingerprint=base.encoders_fingerprint,
        adapter_sha256=sha256_file(adapter),
        adapter_scale=1.0,
    )
    return replace(parse_plan(plan_row(PROMPTS), "test"), generation=generation)


def saved_adapter(base: LoadedStableDiffusion, folder: Path, *, strength: float) -> Path:
    """An adapter whose B is ``strength`` times random numbers; at 0 it changes nothing."""
    settings = adapters.LoraSettings(rank=2, alpha=2.0, targets="attention")
    adapter = adapters.attach(base, settings, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.copy_(strength * torch.randn(parameter.shape, generator=generator))
    card = adapters.AdapterCard(
        name="test",
        base=base.name,
        base_model="tiny",
        method="none",
        steps=0,
        seed=0,
        concepts=(),
        data_sha256="",
        config_sha256="",
        version="0",
    )
    file = adapter.save(folder, card)
    adapters.detach(base)
    return file


class Dying:
    """A base that is killed at its ``after``-th batch; everything else is the real one."""

    def __init__(self, base: LoadedStableDiffusion, after: int) -> None:
        self._base = base
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def generate(self, *args: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._base.generate(*args)


def pixels(folder: Path) -> dict[tuple[str, str, int], str]:
    """sha256 of every recorded image, as it lies on the disk."""
    return {key: sha256_file(folder / record.path) for key, record in load_images(folder).items()}


@pytest.fixture
def adapter(sd: LoadedStableDiffusion, tmp_path: Path) -> Path:
    return saved_adapter(sd, tmp_path / "adapter", strength=3.0)


def test_arms_start_from_the_same_noise_and_an_adapter_changes_images(
    sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path
) -> None:
    plan, folder = tiny_plan(sd, adapter), tmp_path / "run"
    assert generate_arms(plan, folder, sd, adapter) == 12
    records = finish_images(plan, folder)
    assert [(record.arm, record.prompt_id) for record in records][:3] == [
        ("base", "heldout-mechanic-00"),
        ("base", "heldout-mechanic-00"),
        ("base", "heldout-nurse-00"),
    ]
    base, adapted = records[:6], records[6:]
    assert [record.noise_sha256 for record in base] == [record.noise_sha256 for record in adapted]
    assert len({record.noise_sha256 for record in base}) == 6
    assert all(one.sha256 != other.sha256 for one, other in zip(base, adapted, strict=True))
    assert generate_arms(plan, folder, sd, adapter) == 0


def test_an_adapter_of_zeros_gives_the_bases_images(sd: LoadedStableDiffusion, tmp_path: Path) -> None:
    null = saved_adapter(sd, tmp_path / "null", strength=0.0)
    plan, folder = tiny_plan(sd, null), tmp_path / "run"
    generate_arms(plan, folder, sd, null)
    records = finish_images(plan, folder)
    assert [record.sha256 for record in records[:6]] == [record.sha256 for record in records[6:]]


def test_a_killed_run_goes_on_to_the_same_images(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    plan, whole, killed = tiny_plan(sd, adapter), tmp_path / "whole", tmp_path / "killed"
    generate_arms(plan, whole, sd, adapter)
    expected = [(record.path, record.sha256) for record in finish_images(plan, whole)]
    with pytest.raises(KeyboardInterrupt):
        generate_arm(plan, killed, Dying(sd, 1), arm="base")
    # A kill may also have torn the last line, and left a picture that was not recorded.
    with (killed / "images.jsonl").open("a") as file:
        file.write('{"prompt_id": "heldout-nu')
    Image.new("RGB", (32, 32)).save(killed / "images/base/heldout-mechanic-00/1.png")
    assert len(unfinished_batches(plan, killed, "base")) == 2
    generate_arms(plan, killed, sd, adapter)
    assert [(record.path, record.sha256) for record in finish_images(plan, killed)] == expected
    assert (killed / "images.jsonl").read_bytes() == (whole / "images.jsonl").read_bytes()
    assert pixels(killed) == pixels(whole)


def test_a_missing_image_has_its_whole_batch_made_again(
    sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path
) -> None:
    plan, folder = tiny_plan(sd, adapter), tmp_path / "run"
    generate_arms(plan, folder, sd, adapter)
    before = pixels(folder)
    (folder / "images/adapted/heldout-nurse-00/8.png").unlink()
    assert [batch.index for batch in unfinished_batches(plan, folder, "adapted")] == [0]
    assert unfinished_batches(plan, folder, "base") == []
    assert generate_arms(plan, folder, sd, adapter) == 4
    assert pixels(folder) == before


def test_two_ranks_make_the_images_of_one(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    plan, one, two = tiny_plan(sd, adapter), tmp_path / "one", tmp_path / "two"
    generate_arms(plan, one, sd, adapter)
    made = [generate_arms(plan, two, sd, adapter, rank=rank, num_ranks=2) for rank in (1, 0)]
    assert sorted(made) == [4, 8]
    finish_images(plan, one)
    finish_images(plan, two)
    assert (one / "images.jsonl").read_bytes() == (two / "images.jsonl").read_bytes()
    assert not list(two.glob("images.rank*"))


def test_the_base_is_as_it_was_after_generation(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in sd.unet.state_dict().items()}
    generate_arms(tiny_plan(sd, adapter), tmp_path / "run", sd, adapter)
    after = sd.unet.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_check_passes_a_sound_adapter_and_refuses_any_pixel_of_difference(
    sd: LoadedStableDiffusion, adapter: Path
) -> None:
    check_adapter(tiny_plan(sd, adapter), sd, adapter, check_base=True)
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    other = image.copy()
    other.putpixel((7, 7), (1, 2, 4))
    require_identity([image], [image.copy()])
    with pytest.raises(ValueError, match="at scale 0 changes image 1"):
        require_identity([image, image], [image, other])


def test_missing_images_and_unequal_noise_are_refused(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    plan, folder = tiny_plan(sd, adapter), tmp_path / "run"
    generate_arm(plan, folder, sd, arm="base")
    with pytest.raises(ValueError, match="6 images are missing, the first is .'adapted'"):
        finish_images(plan, folder)
    generate_arm(plan, folder, sd, arm="adapted")
    text = (folder / "images.jsonl").read_text().splitlines()
    noise = load_images(folder)["adapted", "heldout-nurse-00", 8].noise_sha256
    changed = [line.replace(noise, "f" * 64) if '"adapted"' in line else line for line in text]
    (folder / "images.jsonl").write_text("\n".join(changed) + "\n")
    with pytest.raises(ValueError, match="did not start from the noise of arm base"):
        finish_images(plan, folder)


def test_batches_are_cut_alike_for_both_arms(sd: LoadedStableDiffusion, adapter: Path) -> None:
    plan = tiny_plan(sd, adapter)

    def layout(arm: str) -> Sequence[Sequence[tuple[str, int]]]:
        return [[(prompt.id, seed) for prompt, seed in batch.images] for batch in batches(plan, arm)]

    assert layout("base") == layout("adapted")
    assert [len(batch) for batch in layout("base")] == [4, 2]


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pytorch_lora_weights.safetensors does not exist"):
        adapter_file(tmp_path)
