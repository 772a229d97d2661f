"""train/lora.py calibration=reader as people start it, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from evenhand.compose import compose_config
from evenhand.data.rows import read_split
from evenhand.evaluation.training_set import training_reader
from evenhand.files import read_jsonl, write_jsonl_atomic
from evenhand.paths import program_path
from evenhand.training.parts import Training
from tests.tiny_set import tiny_set
from tests.tiny_validation import RED

SHORT = ["train.steps=4", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=1"]
COLORS = f"{{presentation:{{woman:[{RED + 1},143,148],man:[{RED - 1},143,148]}}}}"
LOOKS = ["calibration=reader", "calibration.first_step=1", "calibration.every_steps=2", "calibration.num_images=10"]
LOOKS += ["calibration.batch_size=3", "calibration.steps=2", "calibration.size_px=32"]
LOOKS += ["reader@calibration.reader=planted", f"calibration.reader.colors={COLORS}"]
LOOKS += ["calibration.reader.max_distance=1000.0"]


def arguments(base: Path, data: Path, *overrides: str) -> list[str]:
    return ["base.name=tiny", f"base.model={base}", f"data={data}", "lora.rank=2", *SHORT, *overrides]


def train(home: Path, base: Path, data: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(program_path("train/lora")), *arguments(base, data, *overrides)]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)


def test_one_command_trains_with_looks_whose_reader_stands_on_the_card_and_judges_no_more(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    done = train(tmp_path, tiny_folder, tiny_set_folder, "method=distill", "run_name=one", *LOOKS)
    assert done.returncode == 0, done.stderr
    assert "calibration after step 3: man " in done.stderr
    folder = tmp_path / "runs" / "default" / "one"
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "calibration/unread" in line]
    assert [line["step"] for line in lines] == [1, 3]
    for line in lines:
        assert line["calibration/seen/woman"] + line["calibration/seen/man"] == pytest.approx(1.0)
        # the set has as many women as men
        assert line["calibration/weight/woman"] + line["calibration/weight/man"] == pytest.approx(2.0)
    adapter = folder / "adapter"
    assert json.loads((adapter / "card.json").read_text())["training_readers"] == ["planted"]
    assert [training_reader(adapter, None, reader=judge) for judge in ("planted", "tinytown_b")] == ["planted"] * 2
    assert "chosen by the readers | planted (no independent judges of it)" in (adapter / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_have_the_weights_and_losses_of_one(tiny_folder, tiny_set_folder, tmp_path) -> None:
    kept = []
    for name, cut in (("one", []), ("two", ["launch.num_processes=2"])):
        done = train(tmp_path, tiny_folder, tiny_set_folder, "method=distill", f"run_name={name}", *LOOKS, *cut)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "runs" / "default" / name
        state = json.loads((folder / "checkpoints" / "step-00000004" / "state.json").read_text())["calibration"]
        lines = read_jsonl(folder / "metrics.jsonl")
        looks = [{key: line[key] for key in line if "calibration" in key} for line in lines if "loss" not in line]
        weights = load_file(folder / "adapter" / "pytorch_lora_weights.safetensors")
        kept.append((state, looks, [line["loss"] for line in lines if "loss" in line], weights))
    (state, looks, losses, weights), (other_state, other_looks, other_losses, other_weights) = kept
    assert state["num_looks"] == 2
    assert any(abs(value) > 0.01 for value in state["log_weights"])
    assert (other_state, other_looks) == (state, looks)
    assert other_losses == pytest.approx(losses, rel=1e-3)
    for name, value in weights.items():
        assert (other_weights[name] - value).abs().max() < 1e-3


def checked(base: Path, data: Path, *overrides: str) -> None:
    """What the program checks before it loads anything, in this process."""
    config = compose_config("train", arguments(base, data, *overrides))
    training = Training(
        name="one",
        base=config.build("base"),
        lora=config.build("lora"),
        method=config.build("method"),
        timesteps=config.build("timesteps"),
        augmentation=config.build("augmentation"),
        settings=config.build("train"),
        optim=config.build("optim"),
        images=config.build("images"),
        calibration=config.build("calibration"),
        validation=config.build("validation"),
        tracker=config.build("tracker"),
        launch=config.build("launch"),
        seed=0,
        cache_folder=Path("cache"),
    )
    parts = ("train", "preserve") if training.method.uses_preserve else ("train",)
    training.check({part: read_split(data, part) for part in parts})


SOON = ["calibration=reader", "calibration.first_step=1"]
SPREAD = ["train.shard_base=true", "launch.num_processes=2"]
SAMPLING = ["train.batch_size=1", "train.preserve_batch_size=2", "method=align", "method.images_per_prompt=2"]


@pytest.mark.parametrize(
    ("labels", "overrides", "message"),
    [
        (None, ["calibration=reader"], "begins after step 200 changes nothing in a training of 4 steps"),
        (None, [*SOON, "calibration.evaluated_by=tinytown_a"], "the reader tinytown_a will evaluate"),
        (None, [*SOON, *SPREAD], "train.shard_base=true and a calibration, .* do not go together"),
        (None, [*SOON, *SAMPLING], "calibration weighs the rows of a loss, and method align has none"),
        (None, [*SOON, "method=closed_form"], "calibration weighs the rows of a loss, and method closed_form has none"),
        ({"age": "old"}, SOON, "row 000000.png has a label of age, which the reader tinytown_a does not read"),
        ({"presentation": "cat"}, SOON, "has the label presentation=cat, and the reader tinytown_a reads woman, man"),
        ({"presentation": "man"}, SOON, "all rows have the same values, so there are no shares to calibrate"),
        ({}, SOON, "row 000000.png has labels of nothing, and the first row of nothing"),
    ],
)
def test_what_a_calibration_cannot_do_is_refused_before_anything_is_loaded(
    tiny_folder, tmp_path, labels, overrides, message
) -> None:
    data = tiny_set(tmp_path / "set")
    path = data / "train" / "metadata.jsonl"
    if labels is not None:
        write_jsonl_atomic(path, [{**row, "labels": labels} for row in read_jsonl(path)])
    with pytest.raises(ValueError, match=message):
        checked(tiny_folder, data, *overrides)


def test_rows_with_labels_of_other_attributes_are_refused_by_name_and_what_fits_is_not(tiny_folder, tmp_path) -> None:
    data = tiny_set(tmp_path / "set")
    checked(tiny_folder, data, *SOON)
    checked(tiny_folder, data, *SOON, "method=distill", "train.batch_size=4")
    path = data / "train" / "metadata.jsonl"
    rows = read_jsonl(path)
    rows[3]["labels"] = {**rows[3]["labels"], "skin": "light"}
    write_jsonl_atomic(path, rows)
    message = "row 000003.png has labels of presentation, skin, and the first row of presentation: a calibration needs"
    with pytest.raises(ValueError, match=message):
        checked(tiny_folder, data, *SOON)


def test_a_refusal_leaves_nothing_behind(tiny_folder, tiny_set_folder, tmp_path) -> None:
    done = train(tmp_path, tiny_folder, tiny_set_folder, *SOON, "calibration.evaluated_by=tinytown_a")
    assert done.returncode == 2
    assert "the reader tinytown_a will evaluate (calibration.evaluated_by)" in done.stderr
    assert not (tmp_path / "runs").exists()
