"""A config knows what was read of it, and a program what its command line said; a mistake is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evenhand.compose import Config, compose_config
from evenhand.paths import program_names, program_path
from tests.engines import Car, Engine

HERE = "tests.engines"
SAMPLING = {
    "_target_": "evenhand.interfaces.SamplingSettings",
    "steps": 20,
    "guidance": 3,
    "height_px": 64,
    "width_px": 64,
}


def config(**more: object) -> Config:
    return Config({"seed": 3, "note": None, "lr": 1, "sampling": SAMPLING, "allow_modules": [], **more})


def test_a_part_may_take_the_keys_of_the_config_itself() -> None:
    config = Config({"engine": {"_target_": f"{HERE}.Engine", "power": 2}, "spares": [], "allow_modules": [HERE]})
    assert config.construct(Car) == Car(engine=Engine(power=2.0), spares=[])
    config.refuse_unread()
    other = Config({"power": 2, "gears": 4, "fuel": "diesel", "manual": "book", "ratios": [1.5], "label": None, "x": 1})
    assert other.construct(Engine) == Engine(power=2.0, gears=4, fuel="diesel", manual=Path("book"), ratios=(1.5,))
    with pytest.raises(ValueError, match="nothing reads the key 'x'"):
        other.refuse_unread()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"power": "???"}, "power has no value; set power="),
        ({"gears": "five"}, "gears must be int, got 'five'"),
        ({"fuel": "wood"}, "fuel must be one of petrol, diesel"),
        ({"power": 0}, "power must be > 0, got 0.0"),
    ],
)
def test_a_wrong_key_of_the_config_itself_is_refused_by_its_name(changes: dict[str, object], message: str) -> None:
    keys = {"power": 2, "gears": 4, "fuel": "diesel", "manual": None, "ratios": [], "label": None}
    with pytest.raises(ValueError, match=re.escape(message)):
        Config({**keys, **changes}).construct(Engine)
    with pytest.raises(ValueError, match="the config has no key 'label'"):
        Config({key: value for key, value in keys.items() if key != "label"}).construct(Engine)


def test_scalars_are_checked() -> None:
    assert config().value("seed", int) == 3
    assert config().value("lr", float) == 1.0
    assert config().optional("note", str) is None
    with pytest.raises(ValueError, match="seed must be str, got 3"):
        config().value("seed", str)
    with pytest.raises(ValueError, match="note must be str, got None"):
        config().value("note", str)
    with pytest.raises(ValueError, match=r"data has no value; set data=\.\.\."):
        config(data="???").value("data", str)


def test_a_key_that_is_not_there_is_named_with_its_neighbour() -> None:
    with pytest.raises(ValueError, match="no key 'sampler'; did you mean 'sampling'"):
        config().build("sampler")


def test_a_key_that_nothing_reads_is_refused() -> None:
    made = config(sede=4)
    made.value("seed", int)
    made.value("lr", float)
    made.build("sampling")
    made.ignore("note")
    with pytest.raises(ValueError, match="nothing reads the key 'sede'; did you mean 'seed'"):
        made.refuse_unread()
    made.ignore("sede")
    made.refuse_unread()


def test_modules_that_the_user_lists_are_allowed() -> None:
    part = {"part": {"_target_": f"{HERE}.Engine", "power": 1.5}}
    assert config(**part, allow_modules=[HERE]).build("part") == Engine(power=1.5)
    with pytest.raises(ValueError, match="list its module in allow_modules"):
        config(**part).build("part")
    with pytest.raises(ValueError, match="allow_modules must be a list"):
        config(allow_modules="os")


def test_a_composed_config_is_plain(tmp_path: Path) -> None:
    """No OmegaConf container reaches a part: PEFT, for one, fails on them only when it saves."""

    def types(node: Any) -> set[type]:
        inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        return {type(node)}.union(*map(types, inside))

    plain = compose_config("program", ["run_name=x", "+list=[1,{a: 2}]"]).plain
    assert types(plain) <= {dict, list, str, int, float, bool, type(None)}
    assert plain["run_folder"] == "runs/default/x"


PROGRAM = """
import logging
from evenhand.compose import Config, program

@program("program")
def main(config: Config) -> None:
    target = config.build("target")
    folder = config.value("run_folder", str)
    config.ignore("experiment", "run_name")
    config.refuse_unread()
    if config.plain["run_name"] == "bug":
        raise RuntimeError("a bug of ours")
    logging.getLogger("x").info("to the log")
    print(target.shares, folder)

if __name__ == "__main__":
    main()
"""

PRIMARY = """
defaults: [program, choice: "???", _self_]
target: {_target_: evenhand.records.Target, attribute: skin, shares: [0.5, 0.5]}
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "scratch_program.py").write_text(PROGRAM)
    (folder / "conf" / "choice").mkdir(parents=True)
    (folder / "conf" / "scratch.yaml").write_text(PRIMARY)
    (folder / "conf" / "choice" / "even.yaml").write_text("# @package _global_\n")
    (folder / "conf" / "choice" / "uneven.yaml").write_text("# @package _global_\ntarget: {shares: [0.1, 0.9]}\n")
    (folder / "conf" / "choice" / "torn.yaml").write_text("target: {shares: [0.1, \n")
    return folder


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scratch_program.py", "--config-dir", "conf", "--config-name", "scratch", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=variables)


def test_a_program_gets_its_config_and_prints_only_results(scratch: Path) -> None:
    done = start(scratch, "choice=even", "run_name=r1")
    assert (done.returncode, done.stdout) == (0, "(0.5, 0.5) runs/default/r1\n")
    assert "INFO evenhand" in done.stderr
    assert "to the log" in done.stderr
    assert not (scratch / "runs").exists()  # a program makes its own folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "You must specify 'choice'"),
        (["choice=odd"], "Could not find 'choice/odd' Available options in 'choice': even torn uneven"),
        (["choice=even", "traget.shares=[1]"], "Could not override 'traget.shares'."),
        (["choice=even", "+foo=1"], "nothing reads the key 'foo'"),
        (["choice=even", "target.shares=[0.5,0.6]"], "target of skin: shares must sum to 1"),
        (["choice=even", "run_name=${nothing}"], "Interpolation key 'nothing' not found"),
        (["choice=even", "target.shares=[1"], "no viable alternative at input"),
        (["choice=torn"], "while parsing a flow"),
    ],
)
def test_what_a_user_can_fix_is_one_line(scratch: Path, arguments: list[str], message: str) -> None:
    done = start(scratch, *arguments)
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert (done.returncode, done.stdout, len(errors)) == (2, "", 1), done.stderr
    assert errors[0].startswith(f"error: {message}") or f": {message}" in errors[0], errors[0]


def test_the_traceback_can_be_asked_for(scratch: Path) -> None:
    done = start(scratch, "choice=even", "+foo=1", EVENHAND_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "nothing reads the key 'foo'" in done.stderr


def test_a_bug_keeps_its_traceback(scratch: Path) -> None:
    done = start(scratch, "choice=even", "run_name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug of ours" in done.stderr


def test_a_sweep_runs_every_job_and_ends_in_the_first_error(scratch: Path) -> None:
    jobs = ("-m", "choice=even,uneven", "target.shares=[0.5,0.6],[0.2,0.8]", "run_name=${hydra:job.num}")
    done = start(scratch, *jobs)
    assert done.returncode == 2
    assert done.stdout == "(0.2, 0.8) runs/default/1\n(0.2, 0.8) runs/default/3\n"
    assert done.stderr.splitlines()[-1].startswith("error: target of skin: shares must sum to 1, got 1.1")


def test_a_sweep_inside_a_launch_of_several_processes_is_refused(scratch: Path) -> None:
    done = start(scratch, "-m", "choice=even,uneven", WORLD_SIZE="2", RANK="0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "would mix the gradients of its jobs" in done.stderr


def test_other_ranks_log_warnings_only(scratch: Path) -> None:
    done = start(scratch, "choice=even", WORLD_SIZE="2", RANK="1")
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_choice_that_is_null_is_told_how_to_be_left_out(scratch: Path) -> None:
    done = start(scratch, "choice=null")
    assert done.returncode == 2
    assert "is left out with ~<group>" in done.stderr
    left_out = compose_config("playground", ["~reader@readers.one"])  # as docs/playground.md has it
    assert left_out.build("readers") == {}


@pytest.mark.parametrize("name", program_names())
def test_every_program_names_the_nearest_key(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(program_path(name)), "run_nmae=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "did you mean 'run_name'?" in done.stderr
