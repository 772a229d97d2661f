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


OF_THE_RUN = ("provenance.json", "command.txt", "accelerate.json", ".lock")


def images_and_rows(folder: Path) -> dict[str, bytes]:
    """Everything but what tells of the run itself."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_THE_RUN]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def num_batches_of(folder: Path) -> int:
    """How many batches of a build are noted, in whole rounds or in those under way."""
    lines = [read_jsonl(path) for path in [folder / "attempts.jsonl", *(folder / "attempts").glob("*.jsonl")]]
    return len({json.dumps(line) for found in lines for line in found})


def test_a_build_killed_at_a_random_moment_is_finished_by_the_same_command_with_the_same_bytes(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "base")
    overrides = (f"base.model={base}", *TINY)
    whole = run(tmp_path / "whole", *overrides)
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen(
        command(f"run_folder={tmp_path / 'killed'}", *overrides),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(tmp_path),
    ) as process:
        num_batches = len(read_jsonl(tmp_path / "whole" / "attempts.jsonl"))
        wanted = random.Random(time.time()).randint(1, num_batches - 1)
        while num_batches_of(tmp_path / "killed") < wanted and process.poll() is None:
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
    assert found["columns"] == [
        "image",
        "text",
        "concept",
        "labels",
        "template",
        "source",
        "seed",
        "license",
        "explicit",
    ]
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
        (
            [f"recipe.plan.templates=['a portrait of {{a_concept}} {' '.join(map(str, range(100)))}']"],
            "but the text encoder reads",
        ),
        (["reader@second_readers.one=tinytown_a"], "reader tinytown_a is asked twice"),
        (["device=gpu"], "device must be one of auto, cpu, cuda, got 'gpu'"),
        (["launch.num_processes=0"], "num_processes must be >= 1 or null, got 0"),
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


def killed_again_and_again(folder: Path, *overrides: str, num_batches: int) -> int:
    """Start a build and end its processes at random moments, by turns with SIGKILL and SIGTERM; how often it was."""
    dice = random.Random(time.time())
    for kills in range(4):
        with subprocess.Popen(
            command(f"run_folder={folder}", *overrides),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(folder.parent),
            start_new_session=True,
        ) as process:
            wanted = num_batches_of(folder) + dice.randint(1, max(1, num_batches // 5))
            while num_batches_of(folder) < wanted and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is not None:
                return kills
            if kills % 2:
                process.terminate()  # to the driver, as a scheduler does
            else:
                process.kill()
            _, errors = process.communicate()
        assert kills % 2 == 0 or b"stopped: the same command goes on from" in errors, errors.decode()
    return 4


@pytest.mark.slow
def test_two_processes_and_kills_at_random_moments_give_the_set_of_one_process(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "base")
    overrides = (f"base.model={base}", *TINY, "recipe.plan.images_per_concept=12")
    alone = run(tmp_path / "alone", *overrides)
    assert alone.returncode == 0, alone.stderr
    together = run(tmp_path / "together", *overrides, "launch.num_processes=2")
    assert together.returncode == 0, together.stderr
    assert images_and_rows(tmp_path / "together") == images_and_rows(tmp_path / "alone")
    assert json.loads((tmp_path / "together" / "provenance.json").read_text())["world_size"] == 2
    assert [line.replace("together", "alone") for line in together.stdout.splitlines()[-1:]] == [
        alone.stdout.splitlines()[-1]
    ]

    num_batches = num_batches_of(tmp_path / "alone")
    kills = killed_again_and_again(tmp_path / "killed", *overrides, "launch.num_processes=2", num_batches=num_batches)
    assert kills >= 2
    finished = run(tmp_path / "killed", *overrides)  # by one process, what two began
    assert finished.returncode == 0, finished.stderr
    assert images_and_rows(tmp_path / "killed") == images_and_rows(tmp_path / "alone")


@pytest.mark.slow
def test_a_budget_that_two_processes_spend_ends_in_one_line_of_the_driver(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "base")
    never = ("reader.confusion=0", "reader.colors.presentation.woman=[255,0,255]", "reader.max_distance=1")
    overrides = (*TINY, *never, "recipe.max_attempts_factor=2", "launch.num_processes=2")
    result = run(tmp_path / "set", f"base.model={base}", *overrides)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: budget spent for mechanic, cell presentation=woman: 0 of 2 confirmed in 4 attempts")
    assert "raise max_attempts_factor (now 2; the same command then goes on)" in last
    assert not (tmp_path / "set" / "certificate.json").exists()


def test_other_processes_than_were_asked_for_are_refused(tmp_path: Path) -> None:
    command_line = command(f"run_folder={tmp_path / 'set'}", *FEW_RENDERS, "launch.num_processes=2")
    one = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    result = subprocess.run(command_line, capture_output=True, text=True, env={**environment(tmp_path), **one})
    assert result.returncode == 2
    assert "launch.num_processes=2, but 1 were started" in result.stderr
    assert not (tmp_path / "set").exists()


def test_a_build_that_is_told_to_stop_says_so_and_goes_on(tmp_path: Path) -> None:
    many = (*FEW_RENDERS, "recipe.plan.images_per_concept=400")
    with subprocess.Popen(
        command(f"run_folder={tmp_path / 'set'}", *many), stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as process:
        while len(list((tmp_path / "set").glob("train/*.png"))) < 20 and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "stopped: the same command goes on from there"
    assert 20 <= len(list((tmp_path / "set").glob("train/*.png"))) < 800
    assert not (tmp_path / "set" / "train" / "metadata.jsonl").exists()
