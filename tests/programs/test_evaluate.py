"""The evaluation programs as a person runs them, on a tiny real pipeline, with real adapters and the planted reader."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.files import read_jsonl
from tests.folders import drawn_readings, plan_row, prompt_row, write_folder
from tests.tiny_evaluation import saved_adapter
from tests.tiny_readers import save_clip, save_siglip

ROOT = Path(__file__).resolve().parents[2]
EXIT_USER_ERROR, EXIT_GUARD_FAILED = 2, 3
SUITE = {
    "_target_": "evenhand.evaluation.suites.Suites",
    "concepts": {"people": ["mechanic", "nurse"], "objects": ["car"]},
    "num_seeds": {"heldout": 3, "explicit": 1, "unrelated": 2},
    "groups": [
        {"suite": "heldout", "concepts": "people", "templates": ["a portrait of {a_concept}"]},
        {"suite": "explicit", "concepts": "people", "templates": ["a portrait of {a_concept}"], "name": "presentation"},
        {"suite": "unrelated", "concepts": "objects", "templates": ["a photo of {a_concept}"]},
    ],
}


def start(program: str, *overrides: str, cwd: Path, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "EVENHAND_CACHE": str(cwd / "cache")}
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "evaluate" / program), *overrides],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(program: str, *overrides: str, cwd: Path, launcher: Sequence[str] = ()) -> tuple[int, str, str]:
    process = start(program, *overrides, cwd=cwd, launcher=launcher)
    out, err = process.communicate()
    return process.returncode, out, err


def shift_overrides(tiny_folder: Path, adapter: Path, cwd: Path) -> list[str]:
    """A small evaluation: 4 heldout-like prompts, 12 images an arm, in batches of 4."""
    (cwd / "choices" / "suite").mkdir(parents=True, exist_ok=True)
    (cwd / "choices" / "suite" / "tiny.yaml").write_text("# tiny\n" + yaml.safe_dump(SUITE))
    return [
        f"--config-dir={cwd / 'choices'}",
        "suite=tiny",
        "reader=planted",
        "reader.max_distance=500.0",  # what a random pipeline paints is nearest to one colour or the other
        "scorer=none",
        "num_processes=1",
        f"base.model={tiny_folder}",
        f"adapter={adapter}",
        "sampling.steps=2",
        "sampling.height_px=32",
        "sampling.width_px=32",
        "evaluation.side_attributes=[]",
        "evaluation.guard_attributes=[]",
        "evaluation.batch_size=4",
        "device=cpu",
    ]


def test_a_null_adapter_is_measured_from_plan_to_report_as_no_change(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=0.0)
    code, out, err = run("shift.py", *shift_overrides(tiny_folder, adapter, tmp_path), "run_name=zeros", cwd=tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "shift" / "zeros"
    assert out.strip().endswith("runs/shift/zeros/report.html")
    results = json.loads((folder / "results.json").read_text())
    assert out.startswith(results["answer"])
    (verdict,) = [row for row in results["verdicts"] if row["arm"] == "shift"]
    assert verdict["verdict"] in ("no detectable change", "inconclusive")
    shifts = [
        row for row in results["estimates"] if row["arm"] == "shift" and row["name"] in ("share:woman", "gap", "tv")
    ]
    assert len(shifts) >= 3
    assert {row["value"] for row in shifts} == {0.0}
    assert {guard["name"]: guard["value"] for guard in results["guards"]} == {
        "explicit": 0.0,
        "unread": 0.0,
        "unrelated_similarity": 0.0,
    }
    images = read_jsonl(folder / "images.jsonl")
    assert len(images) == 24
    assert [row["sha256"] for row in images[:12]] == [row["sha256"] for row in images[12:]]
    assert "data:image/webp" in (folder / "report.html").read_text()
    assert {"plan.json", "readings.jsonl", "provenance.json", "report.md"} <= {path.name for path in folder.iterdir()}


def test_a_reader_that_chose_the_weights_is_known_from_the_card_when_it_judges(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=0.0)
    card = adapter.parent / "card.json"
    for name, readers in (("circular", ["planted"]), ("honest", ["another"])):
        card.write_text(json.dumps({**json.loads(card.read_text()), "training_readers": readers}))
        overrides = [*shift_overrides(tiny_folder, adapter, tmp_path), "suite.num_seeds.heldout=2", f"run_name={name}"]
        code, _, err = run("shift.py", *overrides, cwd=tmp_path)
        assert code == 0, err
        folder = tmp_path / "runs" / "shift" / name
        assert json.loads((folder / "plan.json").read_text())["training_reader"] == readers[0]
        circular = "Circular: planted was used in training and judges here" in (folder / "report.md").read_text()
        assert circular == (name == "circular")


SD_EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("sd_*.yaml"))


@pytest.fixture(scope="module")
def tiny_readers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A CLIP and a SigLIP with random weights, in place of those of the hub."""
    folder = tmp_path_factory.mktemp("readers")
    return save_clip(folder / "clip"), save_siglip(folder / "siglip")


@pytest.mark.parametrize(
    "experiment", [SD_EXPERIMENTS[-1], *(pytest.param(name, marks=pytest.mark.slow) for name in SD_EXPERIMENTS[:-1])]
)
def test_an_experiment_measures_an_adapter_of_stable_diffusion_to_its_report(
    sd: LoadedStableDiffusion,
    tiny_folder: Path,
    tiny_readers: tuple[Path, Path],
    tiny_set_folder: Path,
    tmp_path: Path,
    experiment: str,
) -> None:
    """Random weights in the classes of the real ones, the smallest tier; suite, readers and scorer are the file's."""
    clip, siglip = tiny_readers
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    models = [f"base.model={tiny_folder}", f"reader.model={clip}", f"second_readers.one.model={siglip}"]
    models += [f"scorer.model={clip}", "reader.revision=null", "second_readers.one.revision=null"]
    small = ["tier=smoke", "sampling.steps=1", "sampling.height_px=32", "sampling.width_px=32", "num_processes=1"]
    command = ["base=sd15", f"experiment={experiment}", f"adapter={adapter}", f"training_set={tiny_set_folder}"]
    code, out, err = run("shift.py", *command, *models, "scorer.revision=null", *small, "device=cpu", cwd=tmp_path)
    assert code in (0, EXIT_GUARD_FAILED), err
    assert f"training set: {tiny_set_folder}" in err
    folder = tmp_path / "runs" / experiment / "sd15-s0"
    plan, results = (json.loads((folder / name).read_text()) for name in ("plan.json", "results.json"))
    assert out.startswith(results["answer"])
    assert plan["generation"]["base"] == "sd15"
    assert plan["suite"]["name"] in ("stable_diffusion", experiment)
    num_images = len(read_jsonl(folder / "images.jsonl"))
    assert num_images == 2 * sum(map(len, plan["generation"]["seeds"].values())) == 48
    rows = read_jsonl(folder / "readings.jsonl")
    for reader in (plan["reader"], *plan["second_readers"]):
        assert len({(row["arm"], row["prompt_id"], row["seed"]) for row in rows if row["reader"] == reader}) == 48
    assert len(read_jsonl(folder / "scores.jsonl")) == len(read_jsonl(folder / "copies.jsonl")) == num_images
    assert "report.html" in out


FILES = ("results.json", "readings.jsonl", "images.jsonl", "plan.json", "similarities.jsonl")


def different_files(one: Path, other: Path, *more: str) -> list[str]:
    return [name for name in (*FILES, *more) if (one / name).read_bytes() != (other / name).read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_evaluation_killed_three_times_at_random_goes_on_to_the_same_results(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path, num_processes: int
) -> None:
    """Three kills, each at a random moment after more images; the whole run has no cache to take images from."""
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    overrides = [*shift_overrides(tiny_folder, adapter, tmp_path), "evaluation.dose_scales=[0.5]"]
    overrides += ["evaluation.batch_size=1", "read_batch_size=4"]
    whole, killed = (tmp_path / "runs" / "shift" / name for name in ("whole", "killed"))
    assert run("shift.py", *overrides, "run_name=whole", "cache=false", cwd=tmp_path)[0] in (0, EXIT_GUARD_FAILED)
    rng = random.Random(num_processes)
    num_images = [0]
    for _ in range(3):
        process = start("shift.py", *overrides, "run_name=killed", f"num_processes={num_processes}", cwd=tmp_path)
        moment = num_images[-1] + rng.randint(1, 8)
        while len(list((killed / "images").rglob("*.png"))) < moment and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        num_images.append(len(list((killed / "images").rglob("*.png"))))
    assert num_images == sorted(set(num_images)), num_images
    assert not (killed / "results.json").exists()
    code, _, err = run("shift.py", *overrides, "run_name=killed", f"num_processes={num_processes}", cwd=tmp_path)
    assert code in (0, EXIT_GUARD_FAILED), err
    assert not different_files(whole, killed)
    # Nothing is left to do: not one image is made, nor read.
    before = {path: path.stat().st_mtime_ns for path in (killed / "images").rglob("*.png")}
    code, _, err = run("shift.py", *overrides, "run_name=killed", cwd=tmp_path)
    assert code in (0, EXIT_GUARD_FAILED), err
    assert {path: path.stat().st_mtime_ns for path in (killed / "images").rglob("*.png")} == before
    assert not different_files(whole, killed)
    # Another plan is refused in the same folder.
    code, _, err = run("shift.py", *overrides, "run_name=killed", "evaluation.alpha=0.1", cwd=tmp_path)
    assert code == EXIT_USER_ERROR
    assert "evaluation.alpha" in err


LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.mark.slow
def test_two_launched_processes_give_what_one_gives(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    overrides = [*shift_overrides(tiny_folder, adapter, tmp_path), "sequential=true"]
    assert run("shift.py", *overrides, "run_name=one", "cache=false", cwd=tmp_path)[0] in (0, EXIT_GUARD_FAILED)
    code, _, err = run("shift.py", *overrides, "run_name=two", cwd=tmp_path, launcher=LAUNCH)
    assert code in (0, EXIT_GUARD_FAILED, 1), err  # the launcher gives 1 for whatever a process ended with
    one, two = (tmp_path / "runs" / "shift" / name for name in ("one", "two"))
    assert not different_files(one, two, "sequential.jsonl")


@pytest.mark.slow
def test_a_sequential_run_stops_early_and_says_so(sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path) -> None:
    """A width of 1.99 of 2 is reached after few rounds; then there are images of these rounds only."""
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=0.0)
    overrides = [*shift_overrides(tiny_folder, adapter, tmp_path), "sequential=true", "suite.num_seeds.heldout=8"]
    code, out, err = run("shift.py", *overrides, "sequential_width=1.5", "run_name=early", cwd=tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "shift" / "early"
    (*_, last) = read_jsonl(folder / "sequential.jsonl")
    assert last["stopped"] == "narrow"
    assert 1 < last["round"] < 8
    # Two headline prompts in every round, four explicit ones in the first, a car in the first two; in both arms.
    assert len(read_jsonl(folder / "images.jsonl")) == 2 * (2 * last["round"] + 4 + 2)
    results = json.loads((folder / "results.json").read_text())
    assert results["verdicts"]
    assert "nan" not in out.lower()
    # A further reader reads what was made.
    reader = ["reader=planted", "reader.max_distance=500.0", "reader.name=second", "device=cpu"]
    code, out, err = run("read.py", f"run={folder}", *reader, cwd=tmp_path)
    assert code == 0, err
    assert f"{len(read_jsonl(folder / 'images.jsonl'))} images read now by second" in out


@pytest.mark.slow
def test_the_stages_alone_give_what_shift_gives(sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    second = [
        "+reader@second_readers.one=planted",
        "second_readers.one.name=second",
        "second_readers.one.confusion=0.2",
    ]
    second = [override.removeprefix("+") for override in second]
    overrides = [*shift_overrides(tiny_folder, adapter, tmp_path), *second, "second_readers.one.max_distance=500.0"]
    code, _, err = run("shift.py", *overrides, "run_name=whole", cwd=tmp_path)
    assert code in (0, EXIT_GUARD_FAILED), err
    code, out, err = run("generate.py", *overrides, "run_name=stages", cwd=tmp_path)
    assert code == 0, err
    assert "images of 2 arms, 12 in each" in out
    assert "(12 are there already)" in err  # the base's, in the cache
    folder = tmp_path / "runs" / "shift" / "stages"
    reader = ["reader=planted", "reader.max_distance=500.0", "device=cpu"]
    for more in (["reader.name=second", "reader.confusion=0.2"], []):
        code, out, err = run("read.py", f"run={folder}", *reader, *more, cwd=tmp_path)
        assert code == 0, err
        assert "24 images read now" in out
    assert run("report.py", f"run={folder}", cwd=tmp_path)[0] in (0, EXIT_GUARD_FAILED)
    whole = tmp_path / "runs" / "shift" / "whole"
    assert different_files(whole, folder) == ["results.json"]
    # They differ in nothing but the commands that made them.
    one, other = (json.loads((place / "results.json").read_text()) for place in (whole, folder))
    assert one.pop("reproduction") != other.pop("reproduction")
    assert one == other


def foreign_folder(folder: Path, *, adapted: float) -> Path:
    """What another tool may bring: a plan and readings, no images, with explicit prompts that are obeyed in 95 %."""
    prompts = [prompt_row("heldout", f"c{index}") for index in range(6)]
    prompts += [prompt_row("explicit", f"c{index}", expects={"presentation": "woman"}) for index in range(6)]
    shares = {arm: dict.fromkeys((row["id"] for row in prompts[:6]), 0.9) for arm in ("base", "adapted")}
    for arm, share in (("base", 0.95), ("adapted", adapted)):
        shares[arm] |= dict.fromkeys((row["id"] for row in prompts[6:]), share)
    rows = drawn_readings(prompts, shares, num_seeds=16, rng=np.random.default_rng(0))
    return write_folder(folder, plan_row(prompts), rows)


def test_a_failed_guard_ends_with_its_exit_code_after_the_report(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "foreign", adapted=0.5)
    code, out, _ = run("report.py", f"run={folder}", cwd=tmp_path)
    assert code == EXIT_GUARD_FAILED
    assert out.startswith("A guard failed: explicit prompts obeyed")
    assert (folder / "report.html").is_file()


def test_readings_of_another_tool_are_reported_without_images(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "foreign", adapted=0.95)
    code, out, err = run("report.py", f"run={folder}", cwd=tmp_path)
    assert code == 0, err
    assert "reader oracle" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("program", "overrides", "message"),
    [
        ("report.py", [], "run has no value; set run="),
        ("report.py", ["run=nowhere"], "nowhere/plan.json"),
        ("shift.py", [], "adapter has no value; set adapter="),
        ("shift.py", ["adapter=nowhere"], "nowhere does not exist"),
        ("shift.py", ["adapter={here}", "reader=planted"], "reader planted does not read"),
        ("shift.py", ["adapter={here}", "suite.num_seeds.heldout=0"], "num_seeds.heldout must be >= 1"),
        ("shift.py", ["adapter={here}", "evaluation.margins.explicit=5"], "margins.explicit must be"),
        ("shift.py", ["adapter={here}", "training_set=nowhere"], "training images nowhere: there is no image"),
        ("shift.py", ["adapter={here}", "training_set=x", "scorer=none"], "training_set=x is compared"),
        ("generate.py", ["adapter={here}", "sequential=true"], "use evaluate/shift.py"),
        ("shift.py", ["adapter={here}", "sequential_width=0.1"], "is for sequential=true"),
        ("shift.py", ["adapter={here}", "num_threads=0"], "num_threads must be >= 1"),
        ("shift.py", ["adapter={here}", "num_processes=0"], "num_processes must be >= 1"),
        ("shift.py", ["adapter={here}", "device=tpu"], "device must be one of auto, cpu, cuda"),
    ],
)
def test_what_a_user_can_fix_is_said_in_one_line(
    tmp_path: Path, program: str, overrides: list[str], message: str
) -> None:
    here = tmp_path / "some.safetensors"
    here.write_bytes(b"")
    code, out, err = run(program, *(text.replace("{here}", str(here)) for text in overrides), cwd=tmp_path)
    assert code == EXIT_USER_ERROR
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in err
