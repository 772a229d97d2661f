"""train/lora.py method=distill as people start it, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from evenhand.files import read_jsonl, write_jsonl_atomic
from evenhand.paths import program_path
from tests.tiny_set import tiny_set

SHORT = ["train.steps=4", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=2"]


def train(home: Path, base: Path, data: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(program_path("train/lora")), "base.name=tiny", f"base.model={base}", f"data={data}"]
    return subprocess.run(
        [*command, "lora.rank=2", *SHORT, *overrides], cwd=home, env=environment, capture_output=True, text=True
    )


def test_one_command_makes_the_adapter(tiny_folder, tiny_set_folder, tmp_path) -> None:
    done = train(tmp_path, tiny_folder, tiny_set_folder, "method=distill", "run_name=one")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "default" / "one"
    card = json.loads((folder / "adapter" / "card.json").read_text())
    assert (card["method"], card["steps"], card["concepts"]) == ("distill", 4, ["doctor", "mechanic", "nurse"])
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line["distill"] > 0 and line["loss"] >= line["distill"] for line in lines)
    timesteps = json.loads((folder / "provenance.json").read_text())["config"]["timesteps"]
    assert timesteps["_target_"] == "evenhand.data.timesteps.Beta"  # the method chose noisy ones itself


EXTRA = {
    "text": "a mechanic with glasses",
    "explicit": "a female mechanic with glasses",
    "concept": "mechanic",
    "labels": {"presentation": "woman"},
}
TRAINED_TEXT = ["lora.text_encoder=attention", "method.virtual_concepts=0"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [TRAINED_TEXT, []], ids=["text", "virtual"])
def test_processes_and_parts_change_no_loss(tiny_folder, tiny_set_folder, tmp_path, more) -> None:
    write_jsonl_atomic(tmp_path / "words" / "train" / "captions.jsonl", [EXTRA])
    chosen = ["method=distill", "train.log_every_steps=1", *more]
    chosen += ["augmentation=captions", "augmentation.captions=words"]
    parts = ["launch.num_processes=2", "train.grad_accumulation=2"]
    losses = []
    for name, cut in (("one", []), ("two", parts)):
        done = train(tmp_path, tiny_folder, tiny_set_folder, *chosen, *cut, f"run_name={name}")
        assert done.returncode == 0, done.stderr
        losses.append([line["loss"] for line in read_jsonl(tmp_path / "runs" / "default" / name / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len(set(losses[0])) == 4


def test_a_text_encoder_is_trained_too_on_captions_that_have_no_pictures(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    write_jsonl_atomic(tmp_path / "words" / "train" / "captions.jsonl", [EXTRA])
    chosen = ["method=distill", "lora.text_encoder=attention", "run_name=text", "augmentation=captions"]
    chosen += ["method.virtual_concepts=0"]
    done = train(tmp_path, tiny_folder, tiny_set_folder, *chosen, "augmentation.captions=words")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "default" / "text"
    weights = load_file(folder / "adapter" / "pytorch_lora_weights.safetensors")
    ups = {name.split(".")[0] for name, value in weights.items() if "lora_B" in name and value.any()}
    assert ups == {"unet", "text_encoder"}
    assert EXTRA["text"] in json.loads((folder / "adapter" / "captions.json").read_text())["train"]
    assert set(json.loads((folder / "provenance.json").read_text())["inputs"]) == {"data", "captions"}


@pytest.mark.parametrize(
    ("column", "overrides", "message"),
    [
        (False, ["method=distill"], "12 of 12 rows lack explicit, the caption that names what the image shows"),
        (
            True,
            ["method=distill", "lora.text_encoder=attention"],
            "virtual concepts are words that the base's own text encoders read, so these cannot be trained with them",
        ),
        (
            True,
            ["method=distill", "method.rows_per_noise=3"],
            "train.batch_size=4 cannot be cut into 3 rows of the same noise each: make it a multiple",
        ),
        (
            True,
            ["augmentation=captions", "augmentation.captions=set"],
            "augmentation pairs neutral with explicit captions, which method curated does not use",
        ),
        (
            True,
            ["method=distill", "augmentation=captions", "augmentation.captions=set"],
            "has no train/captions.jsonl: build captions with data_recipes/build.py recipe=captions_only",
        ),
    ],
)
def test_what_does_not_fit_the_method_is_refused_before_anything_is_written(
    tiny_folder, tmp_path, column, overrides, message
) -> None:
    data = tiny_set(tmp_path / "set")
    path = data / "train" / "metadata.jsonl"
    if not column:
        write_jsonl_atomic(path, [{k: v for k, v in row.items() if k != "explicit"} for row in read_jsonl(path)])
    done = train(tmp_path, tiny_folder, data, *overrides)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("labels", [{}, {"skin": "dark"}])
def test_noise_cannot_be_coupled_with_values_that_some_rows_lack(tiny_folder, tmp_path, labels) -> None:
    data = tiny_set(tmp_path / "set")
    path = data / "train" / "metadata.jsonl"
    rows = read_jsonl(path)
    write_jsonl_atomic(path, [*rows[:-1], {**rows[-1], "labels": labels}])
    done = train(tmp_path, tiny_folder, data, "method=distill", "run_name=coupled")
    assert done.returncode == 2
    name = rows[-1]["file_name"]
    message = f"row {name} has labels of {', '.join(labels) or 'nothing'}, and {rows[0]['file_name']} of presentation"
    assert f"{message}: noise is coupled with values, which all rows then need" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert train(tmp_path, tiny_folder, data, "method=distill", "method.coupled_noise=false").returncode == 0


def test_virtual_concepts_of_a_set_whose_captions_never_name_them_are_refused_in_one_line(
    tiny_folder, tmp_path
) -> None:
    data = tiny_set(tmp_path / "set")
    path = data / "train" / "metadata.jsonl"
    write_jsonl_atomic(path, [{**row, "concept": f"old {row['concept']}"} for row in read_jsonl(path)])
    done = train(tmp_path, tiny_folder, data, "method=distill", "run_name=named")
    assert done.returncode == 2
    assert "no row's two captions have its concept word for word (the first: 'old " in done.stderr
    assert train(tmp_path, tiny_folder, data, "method=distill", "method.virtual_concepts=0").returncode == 0


def test_a_set_about_a_single_thing_is_refused_where_it_would_be_learned_of_everything(tiny_folder, tmp_path) -> None:
    data = tiny_set(tmp_path / "set")
    path = data / "train" / "metadata.jsonl"
    write_jsonl_atomic(path, [row for row in read_jsonl(path) if row["concept"] == "doctor"])
    done = train(tmp_path, tiny_folder, data, "method=distill", "run_name=single")
    assert done.returncode == 2
    assert "every row is about 'doctor'" in done.stderr
    assert "for a single thing set method.virtual_concepts=0" in done.stderr
    single = ["method=distill", "method.virtual_concepts=0", "method.rows_per_noise=1"]
    assert train(tmp_path, tiny_folder, data, *single).returncode == 0
