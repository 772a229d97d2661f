"""Several processes, several machines and whole sweeps, through the launchers that people use, on a tiny base."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenhand.paths import program_path
from evenhand.processes import lock_holder

pytestmark = pytest.mark.slow

PROGRAM = str(program_path("train/lora"))
SHORT = ["train.steps=6", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=2"]
SHORT += ["train.checkpoint_every_steps=1"]
VALIDATION = [
    "validation=images",
    "validation.every_steps=3",
    "validation.prompts=[a drawing of a mechanic,a drawing of a nurse]",
]
VALIDATION += ["validation.num_seeds=2", "validation.steps=1", "validation.batch_size=1"]
PATIENCE_SECONDS = 900
WEIGHTS = "pytorch_lora_weights.safetensors"


def command(tiny_folder: Path, data: Path, *arguments: str) -> list[str]:
    base = ["base.name=tiny", f"base.model={tiny_folder}", f"data={data}", "lora.rank=2"]
    sweep = [argument for argument in arguments if argument == "-m"]  # which Hydra wants before the overrides
    return [sys.executable, PROGRAM, *sweep, *base, *SHORT, *(each for each in arguments if each != "-m")]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    process = start(arguments, folder)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def reached(folder: Path, step: int) -> bool:
    return any(int(path.name[-8:]) >= step for path in (folder / "checkpoints").glob("step-*"))


def tensors(folder: Path) -> bytes:
    """The adapter's tensors; the header before them names the run."""
    content = (folder / "adapter" / WEIGHTS).read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def ranks(folder: Path) -> list[int]:
    """The processes that train in a run folder, by what their command line names."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            is_rank = b"RANK=" in (place / "environ").read_bytes()
        except (OSError, NotADirectoryError):
            continue
        if is_rank and f"run_name={folder.name}".encode() in words and b"accelerate.commands.launch" not in words:
            found.append(int(place.name))
    return found


@pytest.fixture(scope="module")
def straight(tiny_folder, tiny_set_folder, tmp_path_factory) -> Path:
    """The run folder of an uninterrupted training that started two processes of its own."""
    home = tmp_path_factory.mktemp("straight")
    arguments = command(tiny_folder, tiny_set_folder, *VALIDATION, "launch.num_processes=2", "run_name=straight")
    code, out, err = run(arguments, home)
    assert code == 0, err
    assert out.startswith("adapter: runs/default/straight/adapter  loss: ")
    return home / "runs" / "default" / "straight"


def test_a_driver_trains_validates_and_saves_with_two_processes(straight: Path) -> None:
    assert json.loads((straight / "provenance.json").read_text())["world_size"] == 2
    assert json.loads((straight / "result.json").read_text())["num_processes"] == 2
    assert sorted(path.name for path in (straight / "validation").glob("*.png")) == [
        "base.png",
        "step-00000003.png",
        "step-00000006.png",
    ]
    assert "--num_processes=2" in (straight / "command.txt").read_text()


@pytest.mark.parametrize("victim", ["rank", "driver"])
def test_two_processes_killed_in_the_middle_go_on_to_the_same_adapter(
    straight, tiny_folder, tiny_set_folder, tmp_path, victim
) -> None:
    arguments = command(tiny_folder, tiny_set_folder, *VALIDATION, "launch.num_processes=2", f"run_name={victim}")
    folder = tmp_path / "runs" / "default" / victim
    process = start(arguments, tmp_path)
    wait_until(lambda: reached(folder, 2) or process.poll() is not None, "the second checkpoint")
    workers = ranks(folder)
    assert len(workers) == 2
    if victim == "rank":
        os.kill(workers[-1], signal.SIGKILL)
    else:
        process.kill()
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == (1 if victim == "rank" else -signal.SIGKILL), err
    wait_until(lambda: not ranks(folder) and lock_holder(folder) is None, "the orphans to end")
    assert not (folder / "adapter").exists()
    code, _, err = run(arguments, tmp_path)
    assert code == 0, err
    assert "going on after step" in err
    assert tensors(folder) == tensors(straight)


def test_a_term_signal_to_the_driver_saves_a_checkpoint_in_both_processes(
    straight, tiny_folder, tiny_set_folder, tmp_path
) -> None:
    options = ["launch.num_processes=2", "run_name=stopped", "train.checkpoint_every_steps=100"]
    arguments = command(tiny_folder, tiny_set_folder, *VALIDATION, *options)
    folder = tmp_path / "runs" / "default" / "stopped"
    process = start(arguments, tmp_path)
    wait_until(lambda: (folder / "metrics.jsonl").is_file() or process.poll() is not None, "the first metrics")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "the same command goes on" in err
    assert len(list((folder / "checkpoints").glob("step-*"))) == 1
    code, _, err = run(arguments, tmp_path)
    assert code == 0, err
    assert tensors(folder) == tensors(straight)


def test_two_machines_train_one_adapter(straight, tiny_folder, tiny_set_folder, tmp_path) -> None:
    """Two launchers with two machine ranks, here on one machine; the second one may come first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["launch=machines", "launch.num_machines=2", "launch.num_processes=2", "run_name=machines"]
    options += ["launch.main_process_ip=127.0.0.1", f"launch.main_process_port={port}", *VALIDATION]
    machines = [
        start(command(tiny_folder, tiny_set_folder, *options, f"launch.machine_rank={rank}"), tmp_path)
        for rank in (1, 0)
    ]
    ends = [(machine.communicate(timeout=PATIENCE_SECONDS), machine.returncode) for machine in machines]
    assert [code for _, code in ends] == [0, 0], ends
    assert ends[0][0][0] == ""  # one of them speaks for both
    folder = tmp_path / "runs" / "default" / "machines"
    assert json.loads((folder / "provenance.json").read_text())["world_size"] == 2
    assert sorted(path.name for path in folder.glob("command*.txt")) == ["command.machine0.txt", "command.machine1.txt"]
    assert tensors(folder) == tensors(straight)


def test_a_launch_that_started_one_process_in_place_of_two_is_refused(tiny_folder, tiny_set_folder, tmp_path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    arguments = command(tiny_folder, tiny_set_folder, "launch.num_processes=2")[1:]
    code, _, err = run([*launch, *arguments], tmp_path)
    assert code == 1  # Accelerate's own
    assert "error: launch.num_processes=2, but this `accelerate launch` started one process" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("launcher", "module"),
    [
        ("joblib_jobs", "hydra_plugins.hydra_joblib_launcher"),
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher"),
        ("ray_jobs", "hydra_plugins.hydra_ray_launcher"),
    ],
)
def test_a_launcher_runs_a_sweep_that_ends_in_a_table(launcher, module, tiny_folder, tiny_set_folder, tmp_path) -> None:
    pytest.importorskip(module)
    arguments = command(tiny_folder, tiny_set_folder, "-m", f"hydra/launcher={launcher}", "seed=0,1", "train.steps=2")
    code, _, err = run(arguments, tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "default"
    rows = json.loads((folder / "table.json").read_text())["runs"]
    assert {(row["settings"]["seed"], row["status"]) for row in rows} == {(0, "finished"), (1, "finished")}
    for row in rows:
        assert (folder / row["name"] / "adapter" / WEIGHTS).is_file()
        assert "seed-" in row["name"]


def test_a_search_asks_for_the_declared_objective_and_returns_at_once_the_second_time(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["-m", "hydra/sweeper=optuna_search", "hydra.sweeper.n_trials=2", "train.steps=2", "objective=loss"]
    search.append("optim.learning_rate=tag(log, interval(1e-5, 1e-3))")
    code, _, err = run(command(tiny_folder, tiny_set_folder, *search), tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "default"
    rows = json.loads((folder / "table.json").read_text())["runs"]
    best = min(row["loss"] for row in rows)
    assert len(rows) == 2
    assert f"Best value: {best}" in err
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    code, _, err = run(command(tiny_folder, tiny_set_folder, *search), tmp_path)
    assert code == 0, err
    assert f"Best value: {best}" in err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == before


def test_a_sweep_outlives_a_crash_and_runs_only_what_is_missing_the_next_time(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    sweep = ["-m", "optim.learning_rate=1e-4,3e-4", "seed=0,1,2,3", "train.steps=1", "train.log_every_steps=1"]
    arguments = command(tiny_folder, tiny_set_folder, *sweep)
    folder = tmp_path / "runs" / "default"
    (name,) = (name for name in planned(arguments, tmp_path) if "seed-2" in name and "learning_rate-0.0003" in name)
    (folder / name).mkdir(parents=True)
    (folder / name / "checkpoints").write_text("in the way")  # so the first checkpoint cannot be written
    code, out, err = run(arguments, tmp_path)
    assert code == 1
    (last,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert f"1 of 8 runs in runs/default did not finish: {name} crashed (" in last
    assert len(list(folder.glob(f"*/adapter/{WEIGHTS}"))) == 7
    assert out.count("adapter: ") == 7
    table = (folder / "table.md").read_text()
    assert "8 runs: 7 finished, 1 crashed." in table
    assert (folder / "table.png").is_file()

    (folder / name / "checkpoints").unlink()
    logs = {path: path.stat().st_size for path in folder.glob("*/log.txt")}
    code, out, err = run(arguments, tmp_path)
    assert code == 0, err
    assert {path.parent.name for path in folder.glob("*/log.txt") if path.stat().st_size != logs[path]} == {name}
    assert "8 runs: 8 finished." in (folder / "table.md").read_text()
    assert out.count("adapter: ") == 8


def planned(arguments: list[str], folder: Path) -> list[str]:
    """The names that the jobs of a sweep will have, of a sweep that a mistake ends before anything is trained."""
    code, _, _ = run([*arguments, "method.preserve_weight=-1", "sweep_folder=planned"], folder)
    assert code == 1
    names = json.loads((folder / "planned" / "sweep.json").read_text())["jobs"]
    return [real_name(overrides) for overrides in names.values()]


def real_name(overrides: list[str]) -> str:
    from evenhand.jobs import job_name

    return job_name([each for each in overrides if not each.startswith("method.")])


def test_an_adapter_is_measured_after_its_training(tiny_set_folder, tmp_path) -> None:
    """On tinytown, which the readers know; the guards may fail after two steps, and that is no crash."""
    small = "{train: 1, heldout: 2, explicit: 1, fixed: 1, unrelated: 1, groups: 1, scene: 1}"
    measure = f"measure={{suite.num_seeds: {small}, sampling.steps: 2, scorer: none, cache: false}}"
    options = [f"data={tiny_set_folder}", "lora.rank=2", *SHORT, "train.steps=2", measure, "objective=distance_sq"]
    sweep = [sys.executable, PROGRAM, "-m", "seed=0,1", *options]
    code, _, err = run(sweep, tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "default"
    rows = json.loads((folder / "table.json").read_text())["runs"]
    for row in rows:
        results = json.loads((folder / row["name"] / "evaluation" / "results.json").read_text())
        assert row["shift"]["num_guards"] == len(results["guards"])
        assert row["shift"]["adapted"] is not None
    assert "guards" in (folder / "table.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/evaluation/results.json")}
    code, _, err = run(sweep, tmp_path)
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/evaluation/results.json")} == before
