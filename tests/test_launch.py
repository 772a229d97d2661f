"""The driver: what it starts, what it hands on, and what it says about a child that ended badly, without torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from evenhand.jobs import Job
from evenhand.launch import Launch, check_measure, override_value

PATIENCE_SECONDS = 600
PROGRAM = """
import os, signal, time
from pathlib import Path
from evenhand.compose import Config, program

def tell(folder):
    print("swept", folder, sorted(place.name for place in folder.iterdir() if place.is_dir()))
    bad = sorted(folder.glob("*/failure.json"))
    return f"{len(bad)} failed: {', '.join(path.parent.name for path in bad)}" if bad else None

@program("scratch", after_sweep=tell)
def main(config):
    launch, way = config.build("launch"), config.value("way", str)
    name, folder = config.value("run_name", str), Path(config.value("run_folder", str))
    config.ignore("experiment")
    config.refuse_unread()
    if way == "wrong from the start":
        raise ValueError("way is wrong (config key: way)")
    if launch.drives(is_sweep=config.job.is_sweep, measures=False):
        launch.run(config.job, folder, run_name=name)
        print("driver of", name, "ends")
        return 1.0
    if way == "wrong":
        raise ValueError("way is wrong (config key: way)")
    if way == "bug":
        raise RuntimeError("a bug of ours")
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way in ("wait", "deaf"):
        def stop(number, frame):
            if way == "wait":
                print("saved", flush=True)
                raise SystemExit(1)
        signal.signal(signal.SIGTERM, stop)
        print("waiting", flush=True)
        for _ in range(600):
            time.sleep(0.1)
    print("worked as", name)

if __name__ == "__main__":
    main()
"""
PRIMARY = "defaults: [program, launch: here, _self_]\nway: ok\nnumber: 0\n"


def launch(**changes: Any) -> Launch:
    here: dict[str, Any] = {"num_processes": None, "num_machines": 1, "machine_rank": 0, "main_process_ip": None}
    here |= {"main_process_port": 0, "accelerate_config": None, "grace_seconds": 120}
    return Launch(**{**here, **changes})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "scratch_program.py").write_text(
        PROGRAM.replace('config.ignore("experiment")', 'config.ignore("experiment", "number")')
    )
    (folder / "conf").mkdir()
    (folder / "conf" / "scratch.yaml").write_text(PRIMARY)
    return folder


def begin(program: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    place = ["--config-dir", str(program / "conf"), "--config-name", "scratch"]
    command = [sys.executable, str(program / "scratch_program.py"), *place, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(program: Path, folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the lines on standard error that are no log."""
    process = begin(program, folder, *arguments)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, [line for line in err.splitlines() if " INFO " not in line]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_processes": 0}, "num_processes must be >= 1 or null, got 0"),
        ({"num_machines": 0}, "num_machines must be >= 1, got 0"),
        ({"grace_seconds": -1}, "grace_seconds must be >= 0, got -1"),
        ({"machine_rank": 1}, "set launch.num_machines"),
        ({"main_process_ip": "10.0.0.1"}, "set launch.num_machines"),
        ({"num_machines": 2}, "num_processes=None must be a multiple of launch.num_machines=2"),
        ({"num_machines": 2, "num_processes": 3}, "num_processes=3 must be a multiple of launch.num_machines=2"),
        ({"num_machines": 2, "num_processes": 4}, "needs launch.main_process_ip"),
        ({"num_machines": 2, "num_processes": 4, "main_process_ip": "10.0.0.1"}, "launch.main_process_port"),
        ({"num_machines": 2, "num_processes": 4, "machine_rank": 2}, "must be one of 0 to 1"),
        ({"accelerate_config": "/nowhere.yaml"}, "there is no file /nowhere.yaml"),
    ],
)
def test_what_accelerate_would_hang_on_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(**changes)


def test_several_machines_that_know_where_to_meet_are_taken() -> None:
    launch(num_machines=2, num_processes=4, machine_rank=1, main_process_ip="10.0.0.1", main_process_port=29500)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not started by any launcher."""
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "EVENHAND_NUM_PROCESSES", "ACCELERATE_DYNAMO_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
def test_a_driver_is_asked_for_by_processes_a_sweep_or_a_measurement() -> None:
    assert not launch().drives(is_sweep=False, measures=False)
    assert launch(num_processes=1).drives(is_sweep=False, measures=False)
    assert launch().drives(is_sweep=True, measures=False)
    assert launch().drives(is_sweep=False, measures=True)


@pytest.mark.usefixtures("alone")
def test_a_worker_never_starts_workers_and_counts_its_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch(num_processes=2).drives(is_sweep=False, measures=False)
    assert not launch().drives(is_sweep=False, measures=False)
    with pytest.raises(ValueError, match="launch.num_processes=4, but 2 were started"):
        launch(num_processes=4).drives(is_sweep=False, measures=False)
    with pytest.raises(ValueError, match="measure needs a process after the training's"):
        launch().drives(is_sweep=False, measures=True)


@pytest.mark.usefixtures("alone")
def test_a_child_that_came_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process without a word."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    with pytest.raises(ValueError, match=r"this `accelerate launch` started one process \(with --cpu it always does\)"):
        launch(num_processes=2).drives(is_sweep=False, measures=False)
    monkeypatch.setenv("EVENHAND_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="launch.num_processes=2, but 1 were started"):
        launch().drives(is_sweep=False, measures=False)


@pytest.mark.usefixtures("alone")
def test_a_sweep_over_several_machines_is_refused() -> None:
    machines = launch(num_machines=2, num_processes=4, main_process_ip="10.0.0.1", main_process_port=29500)
    with pytest.raises(ValueError, match="a sweep .* runs each job on one machine"):
        machines.drives(is_sweep=True, measures=False)


def test_the_childs_command_names_everything_that_a_users_own_config_could_change() -> None:
    overrides = ("lora.rank=4", "data='a set'")
    job = Job(
        program=Path("/x/lora.py"), config_name="train", config_folders=("/mine",), overrides=overrides, is_sweep=True
    )
    one = launch(num_processes=1).command(job, Path("runs/a"), run_name="rank-4")
    program = [
        "/x/lora.py",
        "--config-name=train",
        "--config-dir=/mine",
        *overrides,
        "run_name=rank-4",
        "hydra.mode=RUN",
    ]
    assert one == [sys.executable, *program]
    many = launch(num_processes=8).command(job, Path("runs/a"), run_name="rank-4")
    assert many[-len(program) :] == program
    assert many[1:5] == ["-m", "accelerate.commands.launch", "--config_file", "runs/a/accelerate.json"]
    assert {"--multi_gpu", "--num_processes=8", "--num_machines=1", "--main_process_port=0"} <= set(many)
    sharded = launch(num_processes=8, accelerate_config=__file__).command(job, Path("runs/a"), run_name="rank-4")
    assert "--multi_gpu" not in sharded
    assert sharded[4] == __file__


VALUES: list[object] = [None, True, 3, 1e-05, "quick", "a b, c=d", "it's", [], {}, {"a": [1, "x y"]}, "${x}", "1e-4"]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_goes_through_a_command_line_unchanged(value: object) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"key={override_value(value)}"])
    read = parsed.value()
    assert (read.text if hasattr(read, "text") else read) == value


def test_what_the_driver_gives_a_measurement_may_not_be_overridden() -> None:
    check_measure(None)
    check_measure({"tier": "quick"})
    with pytest.raises(ValueError, match="measure may not set adapter"):
        check_measure({"adapter": "x"})
    with pytest.raises(ValueError, match="measure must be null or overrides"):
        check_measure("quick")  # type: ignore[arg-type]


def test_a_child_speaks_and_the_driver_ends_like_it(program: Path, tmp_path: Path) -> None:
    code, out, err = run(program, tmp_path, "launch.num_processes=1", "run_name=one")
    assert (code, out, err) == (0, "worked as one\ndriver of one ends\n", [])
    command = (tmp_path / "runs" / "default" / "one" / "command.txt").read_text()
    assert "launch.num_processes=1 run_name=one run_name=one hydra.mode=RUN" in command


@pytest.mark.parametrize(
    ("way", "code", "last"),
    [
        ("wrong", 2, "error: way is wrong (config key: way)"),
        ("bug", 1, "error: RuntimeError: a bug of ours (exit code 1)"),
        ("killed", 1, "error: killed by SIGKILL"),
    ],
)
def test_what_stopped_a_child_is_said_in_one_line(
    program: Path, tmp_path: Path, way: str, code: int, last: str
) -> None:
    got, out, err = run(program, tmp_path, "launch.num_processes=1", f"way={way}")
    assert (got, out) == (code, "")
    assert [line for line in err if line.startswith("error")] == [last]
    assert err[-1] == last
    assert any("Traceback" in line for line in err) is (way == "bug")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_child_which_has_time_to_save(program: Path, tmp_path: Path, number: int) -> None:
    process = begin(program, tmp_path, "launch.num_processes=1", "way=wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert out == "saved\n"
    assert "stopped: the same command goes on" in err


def test_a_child_that_does_not_end_in_time_is_killed(program: Path, tmp_path: Path) -> None:
    process = begin(program, tmp_path, "launch.num_processes=1", "way=deaf", "launch.grace_seconds=1")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    started = time.monotonic()
    process.terminate()
    process.communicate(timeout=PATIENCE_SECONDS)
    assert 1.0 <= time.monotonic() - started < 50.0  # the child would have waited for a minute


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_child_ends_with_a_driver_that_was_killed(program: Path, tmp_path: Path) -> None:
    process = begin(program, tmp_path, "launch.num_processes=1", "way=wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.kill()
    assert process.stdout.readline() == "saved\n"  # only the child can have written it
    process.communicate(timeout=PATIENCE_SECONDS)


def test_a_sweep_names_its_jobs_runs_all_of_them_and_tells_the_end(program: Path, tmp_path: Path) -> None:
    ways = "way=ok,wrong,'wrong from the start',bug,killed"
    code, out, err = run(program, tmp_path, "-m", ways, "number=3")
    folder = tmp_path / "runs" / "default"
    names = sorted(place.name for place in folder.iterdir() if place.is_dir())
    assert len(names) == 5
    assert {"number-3+way-ok", "number-3+way-bug", "number-3+way-killed"} <= set(names)
    assert out.splitlines()[:1] == ["driver of number-3+way-ok ends"]
    assert out.splitlines()[-1] == f"swept runs/default {names}"
    failed = [name for name in names if "-ok" not in name]
    assert code == 1
    assert err[-1] == f"error: way is wrong (config key: way). 4 failed: {', '.join(failed)}"
    words = {name: json.loads((folder / name / "failure.json").read_text())["error"] for name in failed}
    assert words["number-3+way-wrong"] == "way is wrong (config key: way)"
    assert words["number-3+way-bug"].startswith(
        "RuntimeError: a bug of ours (exit code 1; its log: runs/default/number-3"
    )
    assert words["number-3+way-killed"].startswith("killed by SIGKILL")
    assert "a bug of ours" in (folder / "number-3+way-bug" / "log.txt").read_text()
    plan = json.loads((folder / "sweep.json").read_text())
    assert sorted(plan["jobs"]) == names

    code, out, err = run(program, tmp_path, "-m", "way=wrong", "number=1,2", "wya=1")
    assert code == 2  # such a sweep cannot be: the plan stays as it was
    assert json.loads((folder / "sweep.json").read_text()) == plan


def test_an_override_reaches_the_child_as_it_was_written(program: Path, tmp_path: Path) -> None:
    """Resolved too early, ``${run_name}`` would be the name that the job had before the sweep named it."""
    place = "run_folder=${sweep_folder}/mine/${run_name}"
    code, _, err = run(program, tmp_path, "-m", "number=1,2", place)
    assert (code, err) == (0, [])
    folders = sorted(path.parent.name for path in (tmp_path / "runs" / "default" / "mine").glob("*/log.txt"))
    assert folders == ["number-1", "number-2"]
    assert "worked as number-2" in (tmp_path / "runs" / "default" / "mine" / "number-2" / "log.txt").read_text()


def test_a_sweep_with_one_folder_for_all_jobs_is_refused(program: Path, tmp_path: Path) -> None:
    code, _, err = run(program, tmp_path, "-m", "number=1,2", "run_folder=runs/mine")
    assert code == 2
    assert "would be the folder of every job of the sweep; set 'run_folder=${sweep_folder}/${run_name}'" in err[-1]
    assert [place.name for place in (tmp_path / "runs").iterdir()] == ["default"]
