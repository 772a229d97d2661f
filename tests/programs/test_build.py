"""`data_recipes/build.py` as a user runs it: a process, a kill, and plain `datasets` afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenhand.files import read_jsonl
from evenhand.paths import program_path
from tests.tiny import tiny_pipeline

# A base of random weights and a reader that sees which of red and blue is stronger, and errs in half of the images:
# about every second attempt is refused, so that slots are tried again.
TINY = (
    "recipe=tinytown_self",
    "reader=planted",
    "reader.colors.presentation.woman=[255,0,0]",
    "reader.colors.presentation.man=[0,0,255]",
    "reader.max_distance=1000",
    "reader.confusion=0.5",
    "recipe.concept_attribute=null",
    "recipe.max_attempts_factor=200",
    "sampling.steps=1",
    "recipe.batch_size=2",
    "suite.concepts.train=[mechanic,nurse]",
    "recipe.plan.images_per_concept=4",
    "recipe.preserve.captions=[a car]",
    "recipe.preserve.empty=2",
)
FEW_RENDERS = ("recipe=tinytown_renders", "suite.concepts.train=[mechanic,nurse]", "recipe.plan.images_per_concept=4")
READ_WITH_DATASETS = """
import json, sys
sys.modules["evenhand"] = None  # importing it would fail
from datasets import load_dataset
read = load_dataset("imagefolder", data_dir=sys.argv[1])
by_card = load_dataset(sys.argv[1])
first = read["train"][0]
print(json.dumps({
    "splits": {name: len(part) for name, part in read.items()},
    "same": by_card["train"]["text"] == read["train"]["text"],
    "preserve": len(load_dataset(sys.argv[1], "preserve", split="train")),
    "columns": read["train"].column_names, "labels": first["labels"], "size": first["image"].size,
}))
"""


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(program_path("data_recipes/build")), *overrides]


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(f"run_folder={folder}", *overrides), capture_output=True, text=True, env=environment(folder.parent)
    )


def images_and_rows(folder: Path) -> dict[str, bytes]:
    """Everything but what tells of the run itself."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "provenance.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_build_killed_at_a_random_moment_is_finished_by_the_same_command_with_the_same_bytes(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "base")
    overrides = (f"base.model={base}", *TINY)
    whole = run(tmp_path / "whole", *overrides)
    assert whole.returncode == 0, whole.stderr
    attempts = tmp_path / "killed" / "attempts.jsonl"
    with subprocess.Popen(
        command(f"run_folder={tmp_path / 'killed'}", *overrides),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(tmp_path),
    ) as process:
        num_batches = len(read_jsonl(tmp_path / "whole" / "attempts.jsonl"))
        wanted = random.Random(time.time()).randint(1, num_batches - 1)
        while len(read_jsonl(attempts)) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the build ended before it could be killed"
    assert not (tmp_path / "killed" / "certificate.json").exists()
    again = run(tmp_path / "killed", *overrides)
    assert again.returncode == 0, again.stderr
    assert images_and_rows(tmp_path / "killed") == images_and_rows(tmp_path / "whole")

    certificate = json.loads((tmp_path / "killed" / "certificate.json").read_text())
    assert certificate["passed"]
    assert sum(entry["attempts"] for entry in certificate["acceptance"]) > 8  # some images were refused

    # A finished build is left as it is to the byte, provenance included: its hash is an input of what comes next.
    before = {path: path.read_bytes() for path in (tmp_path / "killed").rglob("*") if path.is_file()}
    third = run(tmp_path / "killed", *overrides)
    assert third.returncode == 0, third.stderr
    assert third.stdout == again.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "killed").rglob("*") if path.is_file()} == before

    # With another base in the same place the set would be another one.
    tiny_pipeline(base, seed=1)
    fourth = run(tmp_path / "killed", *overrides)
    assert fourth.returncode == 2
    assert "holds a run with another base" in fourth.stderr


def test_a_built_set_loads_with_plain_datasets_where_evenhand_is_not_installed(tmp_path: Path) -> None:
    built = run(tmp_path / "test set", *FEW_RENDERS)
    assert built.returncode == 0, built.stderr
    assert "8 images to train on" in built.stdout
    read = subprocess.run(
        [sys.executable, "-c", READ_WITH_DATASETS, str(tmp_path / "test set")],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    assert found["splits"] == {"train": 8}
    assert found["same"]
    assert found["preserve"] == len(read_jsonl(tmp_path / "test set" / "preserve" / "metadata.jsonl"))
    assert found["columns"] == ["image", "text", "concept", "labels", "template", "source", "seed", "license"]
    assert found["labels"] == {"presentation": "woman"}
    assert found["size"] == [64, 64]
    provenance = json.loads((tmp_path / "test set" / "provenance.json").read_text())
    assert provenance["finished"] is not None


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["recipe.plan.concepts=[mechanic,wizard]"], "knows no occupation=wizard"),
        (["recipe.plan.concepts=[{name: mechanic, nuon: x}]"], "unknown key 'nuon'"),
        (["attribute=season", "reader=planted", "recipe.concept_attribute=null"], "does not read 'season'"),
        (["recipe.plan.images_per_concept=1"], "quota of mechanic, cell presentation=woman"),
        (["recipe.plan.templates=['a woman, {a_concept}']"], "captions leak: 'woman'"),
        (["recipe.plan.imags_per_concept=3"], "imags_per_concept"),
        (["+recipe.plan.note=3"], "unknown key recipe.plan.note"),
        (["+note=3"], "nothing reads the key 'note'"),
        (["recipe=no_such"], "tinytown_renders"),
    ],
)
def test_a_wrong_config_ends_in_one_line_and_makes_no_folder(
    tmp_path: Path, overrides: list[str], problem: str
) -> None:
    result = run(tmp_path / "set", *overrides)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert len(errors) == 1, result.stderr
    assert problem in errors[0]
    assert not (tmp_path / "set" / "provenance.json").exists()


def test_a_folder_with_another_set_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path / "set", *FEW_RENDERS).returncode == 0
    result = run(tmp_path / "set", *FEW_RENDERS, "seed=1")
    assert result.returncode == 2
    assert "holds a run with another config" in result.stderr
