from __future__ import annotations

import gc
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.training.loaded_validation import LoadedValidation
from evenhand.training.validation import ImageGrids
from tests.tiny import load_sd, randomize
from tests.tiny_validation import NUM_IMAGES, RED, Remember, color_reader, tiny_choice, tiny_validation


@pytest.fixture
def adapter(sd: LoadedStableDiffusion) -> Adapter:
    """An adapter that changes pictures."""
    made = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    randomize(made, std=0.5)
    return made


class Calls:
    """Counts the images that a base makes."""

    def __init__(self, base: LoadedStableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_images = 0
        generate = base.generate

        def counted(captions, seeds, sampling):
            self.num_images += len(captions)
            return generate(captions, seeds, sampling)

        monkeypatch.setattr(base, "generate", counted)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "validation" / "scores.jsonl").read_text().splitlines()]


def base_line(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "validation" / "base.json").read_text())


def pictures(base: LoadedStableDiffusion) -> list[Image.Image]:
    """The images of the tiny validation, made by hand."""
    choice = tiny_choice()
    images, size = choice.images.images(), choice.images.batch_size
    found = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        sampling = choice.images.sampling(default_px=1)
        found += base.generate([image.text for image in batch], [image.seed for image in batch], sampling)
    return [each.image for each in found]


def redness(image: Image.Image) -> bool:
    """What the colour reader calls a woman."""
    return bool(np.asarray(image, dtype=np.float64)[..., 0].mean() >= RED)


def test_the_score_is_that_of_the_same_images_made_and_read_by_hand(sd, adapter, tmp_path) -> None:
    tracker = Remember()
    validation = tiny_validation(sd, adapter, tmp_path, tracker)
    assert validation.base_score is None
    score = validation.run(2)

    def by_hand() -> tuple[list[float], float, float]:
        red = [redness(image) for image in pictures(sd)]
        shares = [sum(red[start : start + 3]) / 3 for start in (0, 3, 6)]
        told = (sum(red[9:11]) + sum(not each for each in red[11:13])) / 4  # the female prompt, then the male one
        # each share's two squares about one half, less p (1 - p) / (n - 1) of each value
        distance = sum(2 * (share - 0.5) ** 2 - 2 * share * (1 - share) / 2 for share in shares) / 3
        return shares, told, distance

    shares, told, distance = by_hand()
    with sd.without_adapter():
        base_shares, base_told, base_distance = by_hand()
    assert shares != base_shares  # a control: the adapter does change what is read
    assert validation.base_score == base_line(tmp_path)["score"] == pytest.approx(-base_distance)
    assert score == pytest.approx(-distance - max(0.0, base_told - told))
    assert base_line(tmp_path)["seen"]["shares"]["woman"] == pytest.approx(sum(base_shares) / 3)
    (line,) = lines(tmp_path)
    assert line["seen"]["shares"] == pytest.approx({"woman": sum(shares) / 3, "man": 1 - sum(shares) / 3})
    assert (line["step"], line["score"], line["seen"]["num_images"]) == (2, score, NUM_IMAGES)
    ((step, metrics),) = tracker.lines
    assert step == 2
    assert metrics["validation/score"] == score
    assert metrics["validation/share:woman"] == pytest.approx(sum(shares) / 3)
    assert metrics["validation/shown"] == told


def test_an_adapter_that_changes_nothing_is_seen_as_its_base(sd, tmp_path) -> None:
    null = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    tiny_validation(sd, null, tmp_path).run(2)
    assert lines(tmp_path)[0]["seen"] == base_line(tmp_path)["seen"]
    cells = [np.asarray(Image.open(tmp_path / "validation" / name)) for name in ("base.png", "step-00000002.png")]
    assert np.array_equal(cells[0][30:], cells[1][30:])  # below the title


def test_images_have_the_bases_own_size_unless_told(sd, adapter, tmp_path) -> None:
    for size_px, side_px in ((None, 64), (32, 32)):
        tiny_validation(sd, adapter, tmp_path, size_px=size_px)
        plan = json.loads((tmp_path / "validation" / "plan.json").read_text())
        assert (plan["sampling"]["height_px"], plan["sampling"]["width_px"]) == (side_px, side_px)


def test_the_grid_shows_the_adapters_images_and_the_base_has_its_own(sd, adapter, tmp_path) -> None:
    tiny_validation(sd, adapter, tmp_path).run(2)
    made = pictures(sd)
    with Image.open(tmp_path / "validation" / "step-00000002.png") as grid, sd.without_adapter():
        base_made = pictures(sd)
        for number, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)]):
            left, top = 150 + column * 118, 30 + row * 132
            cell = np.asarray(grid.crop((left, top, left + 112, top + 112)), dtype=float)
            own, other = (
                np.asarray(images[number].resize((112, 112), Image.Resampling.LANCZOS), dtype=float)
                for images in (made, base_made)
            )
            assert np.abs(cell - own).max() == 0
            assert np.abs(cell - other).max() > 0
    assert (tmp_path / "validation" / "base.png").is_file()
    assert not [path for path in (tmp_path / "validation").iterdir() if path.name.startswith(".")]


def test_nothing_of_a_training_is_touched(sd, adapter, tmp_path) -> None:
    validation = tiny_validation(sd, adapter, tmp_path)
    unet: Any = sd.unet
    unet.train()
    unet.down_blocks[0].eval()
    unet.enable_gradient_checkpointing()
    for parameter in adapter.parameters.values():
        parameter.grad = torch.ones_like(parameter)

    def state() -> list[Any]:
        modes = [module.training for root in (sd.unet, sd.pipeline.text_encoder) for module in root.modules()]
        wants = [parameter.requires_grad for parameter in sd.unet.parameters()]
        gradients = [float(p.grad.sum()) for p in adapter.parameters.values()]
        weights = {name: value.tolist() for name, value in adapter.tensors().items()}
        draws = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
        return [modes, wants, gradients, weights, draws, torch.is_grad_enabled()]

    before = state()
    validation.run(2)
    assert state() == before
    assert any(before[0])


def test_modes_come_back_also_when_something_fails(sd, adapter, tmp_path, monkeypatch) -> None:
    validation = tiny_validation(sd, adapter, tmp_path)
    sd.unet.train()

    def fails(captions, seeds, sampling):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sd, "generate", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        validation.run(2)
    assert all(module.training for module in sd.unet.modules())
    assert not (tmp_path / "validation" / "scores.jsonl").exists()


def test_images_are_made_in_evaluation_mode(tiny_folder, tmp_path) -> None:
    """With dropout in the base, a mode that was left on would change the picture."""
    scores, grids = [], []
    for training in (False, True):
        base = load_sd(tiny_folder)
        adapter = attach(base, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
        unet: Any = base.unet
        unet.mid_block.resnets[0].dropout.p = 0.5
        base.unet.train(training)
        folder = tmp_path / str(training)
        scores.append(tiny_validation(base, adapter, folder).run(2))
        grids.append((folder / "validation" / "step-00000002.png").read_bytes())
    assert scores[0] == scores[1]
    assert grids[0] == grids[1]


def test_the_same_weights_are_not_made_again_and_the_tracker_hears_the_same(sd, adapter, tmp_path, monkeypatch) -> None:
    first, second, calls = Remember(), Remember(), Calls(sd, monkeypatch)
    score = tiny_validation(sd, adapter, tmp_path, first).run(2)
    assert calls.num_images == 2 * NUM_IMAGES  # the base's and the adapter's
    before = (tmp_path / "validation" / "scores.jsonl").read_bytes()
    again = tiny_validation(sd, adapter, tmp_path, second)
    assert again.run(2) == score
    assert again.base_score == base_line(tmp_path)["score"]
    assert calls.num_images == 2 * NUM_IMAGES
    assert (tmp_path / "validation" / "scores.jsonl").read_bytes() == before
    assert second.lines == first.lines


def test_other_weights_of_the_same_step_replace_its_line(sd, adapter, tmp_path, monkeypatch) -> None:
    validation, calls = tiny_validation(sd, adapter, tmp_path), Calls(sd, monkeypatch)
    validation.run(2)
    first = lines(tmp_path)
    randomize(adapter, seed=5, std=0.5)
    validation.run(4)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]
    validation.run(2)
    assert calls.num_images == 4 * NUM_IMAGES
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]
    assert lines(tmp_path)[0]["adapter_sha256"] == lines(tmp_path)[1]["adapter_sha256"] != first[0]["adapter_sha256"]
    assert lines(tmp_path)[0]["seen"] == lines(tmp_path)[1]["seen"]


def test_a_kill_between_the_picture_and_its_line_is_made_good(sd, adapter, tmp_path, monkeypatch) -> None:
    straight = tmp_path / "straight"
    tiny_validation(sd, adapter, straight).run(2)

    def killed(self, row):
        raise KeyboardInterrupt

    broken = tiny_validation(sd, adapter, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(LoadedValidation, "_add", killed)
        with pytest.raises(KeyboardInterrupt):
            broken.run(2)
    assert not (tmp_path / "killed" / "validation" / "scores.jsonl").exists()
    tiny_validation(sd, adapter, tmp_path / "killed").run(2)
    for name in ("scores.jsonl", "base.json", "plan.json", "step-00000002.png", "base.png"):
        assert (tmp_path / "killed" / "validation" / name).read_bytes() == (straight / "validation" / name).read_bytes()


@pytest.mark.parametrize("name", ["base.png", "base.json", "step-00000002.png"])
def test_a_file_that_was_removed_comes_back(sd, adapter, tmp_path, name) -> None:
    tiny_validation(sd, adapter, tmp_path).run(2)
    path = tmp_path / "validation" / name
    before = path.read_bytes()
    path.unlink()
    tiny_validation(sd, adapter, tmp_path).run(2)
    assert path.read_bytes() == before


def test_another_plan_is_validated_anew(sd, adapter, tmp_path, monkeypatch) -> None:
    calls = Calls(sd, monkeypatch)
    tiny_validation(sd, adapter, tmp_path).run(2)
    tiny_validation(sd, adapter, tmp_path, seed=1).run(2)
    assert calls.num_images == 4 * NUM_IMAGES
    (line,) = lines(tmp_path)
    assert line["plan_sha256"] == base_line(tmp_path)["plan_sha256"]


def test_where_nothing_is_read_there_is_no_score(sd, adapter, tmp_path) -> None:
    tracker = Remember()
    assert tiny_validation(sd, adapter, tmp_path, tracker, reader=color_reader(max_distance=0.0)).run(2) is None
    (line,) = lines(tmp_path)
    assert (line["score"], line["seen"]["num_unread"]) == (None, NUM_IMAGES)
    assert tracker.lines == [(2, {"validation/unread": 1.0, "validation/shown": 0.0})]


def test_grids_without_a_reader_are_pictures_alone(sd, adapter, tmp_path) -> None:
    choice = ImageGrids(
        every_steps=1,
        prompts=["a portrait of a nurse", "a tree"],
        num_seeds=2,
        evaluation_suites=[],
        steps=1,
        guidance=1.0,
        size_px=32,
        batch_size=3,
        seed=0,
    )
    tracker = Remember()
    loaded = choice.load(sd, adapter, accelerator=Accelerator(cpu=True), tracker=tracker, folder=tmp_path)
    assert loaded.run(1) is None
    assert tracker.lines == []
    with Image.open(tmp_path / "validation" / "step-00000001.png") as grid:
        assert grid.size == (150 + 2 * 118, 30 + 2 * 132)
    assert lines(tmp_path)[0]["score"] is None


def test_the_base_is_shown_without_the_adapter_on_its_text_encoder(sd, tiny_folder, tmp_path) -> None:
    everywhere = LoraSettings(rank=2, alpha=2.0, targets="attention", text_encoder="attention")
    adapter = attach(sd, everywhere, seed=0)
    randomize(adapter, std=0.5)
    tiny_validation(sd, adapter, tmp_path / "adapted").run(2)
    bare = load_sd(tiny_folder)
    null = attach(bare, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    tiny_validation(bare, null, tmp_path / "bare").run(2)
    one, two = (tmp_path / name / "validation" / "base.png" for name in ("adapted", "bare"))
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "adapted" / "validation" / "step-00000002.png").read_bytes()[-1000:] != one.read_bytes()[-1000:]


def test_a_base_with_two_text_encoders_is_validated_as_well(sdxl, tmp_path) -> None:
    adapter = attach(sdxl, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    randomize(adapter, std=0.5)
    tiny_validation(sdxl, adapter, tmp_path).run(2)
    (line,) = lines(tmp_path)
    assert line["seen"]["num_images"] == NUM_IMAGES
    one, two = (np.asarray(Image.open(tmp_path / "validation" / name)) for name in ("base.png", "step-00000002.png"))
    assert not np.array_equal(one[30:], two[30:])


def test_half_precision_weights_under_a_full_precision_adapter_are_validated(sd, tmp_path) -> None:
    adapter = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    for module in (sd.unet, sd.pipeline.text_encoder, sd.pipeline.vae):
        for name, parameter in module.named_parameters():
            if ".lora_" not in name:
                parameter.data = parameter.data.to(torch.bfloat16)
    score = tiny_validation(sd, adapter, tmp_path).run(2)
    assert score is not None
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}


def num_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def test_twenty_validations_leave_no_memory_behind(sd, adapter, tmp_path) -> None:
    validation, process = tiny_validation(sd, adapter, tmp_path), psutil.Process()
    for step in range(1, 4):
        randomize(adapter, seed=step, std=0.5)
        validation.run(step)
    tensors, resident = num_tensors(), process.memory_info().rss
    for step in range(4, 24):
        randomize(adapter, seed=step, std=0.5)
        validation.run(step)
    assert num_tensors() == tensors
    assert process.memory_info().rss - resident < 20 * 2**20  # 20 rounds of 13 images keep nothing of 3 MiB each
    assert len(lines(tmp_path)) == 23
