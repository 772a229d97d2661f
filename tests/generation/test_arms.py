"""Generation with a real tiny pipeline and real LoRA adapters, killed, resumed and split over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.folder import load_images
from evenhand.evaluation.plan import Dose, Plan, Sequential
from evenhand.files import sha256_file
from evenhand.generation.arms import (
    Work,
    batches,
    finish_images,
    generate_arm,
    generate_arms,
    unfinished_batches,
)
from evenhand.generation.given import adapter_file
from tests.tiny_evaluation import Dying, saved_adapter, tiny_plan


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
    work = Work(plan=plan, folder=folder, adapter=adapter)
    assert generate_arms(work, sd) == 12
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
    assert generate_arms(work, sd) == 0


def test_an_adapter_of_zeros_gives_the_bases_images(sd: LoadedStableDiffusion, tmp_path: Path) -> None:
    null = saved_adapter(sd, tmp_path / "null", strength=0.0)
    plan, folder = tiny_plan(sd, null), tmp_path / "run"
    work = Work(plan=plan, folder=folder, adapter=null)
    generate_arms(work, sd)
    records = finish_images(plan, folder)
    assert [record.sha256 for record in records[:6]] == [record.sha256 for record in records[6:]]


def test_a_killed_run_goes_on_to_the_same_images(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    plan, whole, killed = tiny_plan(sd, adapter), tmp_path / "whole", tmp_path / "killed"
    generate_arms(Work(plan=plan, folder=whole, adapter=adapter), sd)
    expected = [(record.path, record.sha256) for record in finish_images(plan, whole)]
    work = Work(plan=plan, folder=killed, adapter=adapter)
    with pytest.raises(KeyboardInterrupt):
        generate_arm(work, Dying(sd, 1), arm="base")
    # A kill may also have torn the last line, and left a picture that was not recorded.
    with (killed / "images.jsonl").open("a") as file:
        file.write('{"prompt_id": "heldout-nu')
    Image.new("RGB", (32, 32)).save(killed / "images/base/heldout-mechanic-00/1.png")
    assert len(unfinished_batches(plan, killed, "base")) == 2
    generate_arms(work, sd)
    assert [(record.path, record.sha256) for record in finish_images(plan, killed)] == expected
    assert (killed / "images.jsonl").read_bytes() == (whole / "images.jsonl").read_bytes()
    assert pixels(killed) == pixels(whole)


def test_a_missing_image_has_its_whole_batch_made_again(
    sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path
) -> None:
    plan, folder = tiny_plan(sd, adapter), tmp_path / "run"
    work = Work(plan=plan, folder=folder, adapter=adapter)
    generate_arms(work, sd)
    before = pixels(folder)
    (folder / "images/adapted/heldout-nurse-00/8.png").unlink()
    assert [batch.index for batch in unfinished_batches(plan, folder, "adapted")] == [0]
    assert unfinished_batches(plan, folder, "base") == []
    assert generate_arms(work, sd) == 4
    assert pixels(folder) == before


def test_two_ranks_make_the_images_of_one(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    plan, one, two = tiny_plan(sd, adapter), tmp_path / "one", tmp_path / "two"
    generate_arms(Work(plan=plan, folder=one, adapter=adapter), sd)
    work = Work(plan=plan, folder=two, adapter=adapter)
    made = [generate_arms(work, sd, rank=rank, num_ranks=2) for rank in (1, 0)]
    assert sorted(made) == [4, 8]
    finish_images(plan, one)
    finish_images(plan, two)
    assert (one / "images.jsonl").read_bytes() == (two / "images.jsonl").read_bytes()
    assert not list(two.glob("images.rank*"))


def test_the_base_is_as_it_was_after_generation(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in sd.unet.state_dict().items()}
    generate_arms(Work(plan=dosed(tiny_plan(sd, adapter)), folder=tmp_path / "run", adapter=adapter), sd)
    after = sd.unet.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_missing_images_and_unequal_noise_are_refused(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    plan, folder = tiny_plan(sd, adapter), tmp_path / "run"
    work = Work(plan=plan, folder=folder, adapter=adapter)
    generate_arm(work, sd, arm="base")
    with pytest.raises(ValueError, match="6 images are missing, the first is .'adapted'"):
        finish_images(plan, folder)
    generate_arm(work, sd, arm="adapted")
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


def dosed(plan: Plan) -> Plan:
    """The plan with the adapter at half, its own and one and a half times its scale, for one seed of each prompt."""
    return replace(plan, dose=Dose(scales=(0.5, 1.0, 1.5), num_seeds=1))


def test_dose_arms_show_the_adapter_at_other_scales_on_the_first_seeds_of_the_headline(
    sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path
) -> None:
    """Its own scale is the adapted arm, so it makes no images of its own."""
    plan = dosed(tiny_plan(sd, adapter))
    assert plan.dose_arms == {"adapted@0.5": 0.5, "adapted@1.5": 1.5}
    work = Work(plan=plan, folder=tmp_path / "run", adapter=adapter)
    assert generate_arms(work, sd) == 12 + 2 * 2
    records = finish_images(plan, work.folder)
    assert [record.arm for record in records] == ["base"] * 6 + ["adapted"] * 6 + ["adapted@0.5"] * 2 + [
        "adapted@1.5"
    ] * 2
    assert [(record.prompt_id, record.seed) for record in records[12:14]] == [
        ("heldout-mechanic-00", 1),
        ("heldout-nurse-00", 8),
    ]
    images = {key: path for key, path in pixels(work.folder).items() if key[1:] == ("heldout-mechanic-00", 1)}
    assert len(images) == len(set(images.values())) == 4


def test_a_dose_at_the_adapters_scale_repeats_the_adapted_arm(
    sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path
) -> None:
    """A control of the scales: with an adapter scale of 0.5, the dose arm of 1 has what scale 1 gave in its own run."""
    whole = replace(tiny_plan(sd, adapter), dose=Dose(scales=(0.5,), num_seeds=2))
    generation = whole.generation
    assert generation is not None
    half = replace(whole, generation=replace(generation, adapter_scale=0.5), dose=Dose(scales=(1.0,), num_seeds=2))
    for plan, name in ((whole, "whole"), (half, "half")):
        work = Work(plan=plan, folder=tmp_path / name, adapter=adapter)
        generate_arms(work, sd)
    one, other = pixels(tmp_path / "whole"), pixels(tmp_path / "half")
    keys = [("heldout-mechanic-00", 1), ("heldout-mechanic-00", 2), ("heldout-nurse-00", 8), ("heldout-nurse-00", 9)]
    # The first batch is the same four images in each of these arms.
    assert [one["adapted", prompt, seed] for prompt, seed in keys] == [
        other["adapted@1", prompt, seed] for prompt, seed in keys
    ]
    assert [one["adapted@0.5", prompt, seed] for prompt, seed in keys] == [
        other["adapted", prompt, seed] for prompt, seed in keys
    ]


def test_a_sequential_plan_makes_one_seed_of_every_prompt_in_a_round(
    sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path
) -> None:
    plan = replace(tiny_plan(sd, adapter), sequential=Sequential())
    work = Work(plan=plan, folder=tmp_path / "run", adapter=adapter)
    layout = [[(prompt.concept, seed) for prompt, seed in batch.images] for batch in batches(plan, "base")]
    assert layout == [[("mechanic", 1), ("nurse", 8), ("car", 15)], [("mechanic", 2), ("nurse", 9), ("car", 16)]]
    assert generate_arms(work, sd, num_rounds=1) == 6
    assert len(finish_images(plan, work.folder, num_rounds=1)) == 6
    with pytest.raises(ValueError, match="6 images are missing"):
        finish_images(plan, work.folder)
    assert generate_arms(work, sd, num_rounds=2) == 6
    assert len(finish_images(plan, work.folder)) == 12


def test_an_arm_that_is_not_planned_is_refused(sd: LoadedStableDiffusion, adapter: Path, tmp_path: Path) -> None:
    work = Work(plan=dosed(tiny_plan(sd, adapter)), folder=tmp_path / "run", adapter=adapter)
    with pytest.raises(ValueError, match="'adapted@2' is not in the plan, which has base, adapted, adapted@0.5"):
        generate_arm(work, sd, arm="adapted@2")


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pytorch_lora_weights.safetensors does not exist"):
        adapter_file(tmp_path)
