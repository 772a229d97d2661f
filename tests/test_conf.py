"""Every YAML under conf/ makes what it names, on any machine, in milliseconds. The files are found on the disk."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenhand.compose import Config, compose_config
from evenhand.construct import build
from evenhand.paths import conf_folder, program_names, program_path

CONF = conf_folder()
PRIMARIES = sorted(file.stem for file in CONF.glob("*.yaml") if file.stem != "program")
CHOICES = sorted(
    file.relative_to(CONF)
    for file in CONF.rglob("*.yaml")
    if len(file.relative_to(CONF).parts) > 1 and file.relative_to(CONF).parts[0] not in ("hydra", "experiment")
)
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
MOST_SECONDS = 0.1


def default_groups(primary: str) -> dict[str, str]:
    """The groups in a primary's defaults list and where each one stands in its config: ``{"base": "base"}``."""
    entries = yaml.safe_load((CONF / f"{primary}.yaml").read_text())["defaults"]
    names = [name for entry in entries if isinstance(entry, dict) for name in entry if not name.startswith("override")]
    return {name.split("@")[0].lstrip("/"): name.split("@")[-1].lstrip("/").replace("/", ".") for name in names}


def composed(choice: Path) -> tuple[str, Config]:
    """A choice inside a primary that offers its group, or beside the common keys where none does; and its key."""
    group, name = choice.parent.as_posix(), choice.stem
    for primary in PRIMARIES:
        groups = default_groups(primary)
        if group in groups:
            return groups[group], compose_config(primary, [f"{group}={name}"])
    return group.replace("/", "."), compose_config("program", [f"+{group}={name}"])


def primary_of(program: str) -> str:
    """The primary config that a program names: ``@program("train")``. Scripts are in the checkout alone."""
    scripts = CONF.parent / f"{program}.py"
    path = scripts if program.startswith("scripts/") else program_path(program)
    (primary,) = re.findall(r'@program\("(\w+)"', path.read_text())
    return str(primary)


def missing(node: object, key: str) -> Iterator[str]:
    """The dotted keys that the user must choose."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from missing(value, f"{key}.{name}")
    elif node == "???":
        yield key


def parts(plain: dict[str, Any]) -> dict[str, Any]:
    """The top-level nodes of a config without those that hold a value for the user to choose."""
    return {key: node for key, node in plain.items() if not list(missing(node, key))}


def test_there_is_something_to_test() -> None:
    assert {"train", "build", "evaluate"} <= set(PRIMARIES)
    assert {"base", "tracker", "attribute", "recipe", "reader", "method"} <= {choice.parts[0] for choice in CHOICES}


def construction_seconds(node: Any, key: str) -> float:
    started = time.process_time()
    build(node, key=key)
    return time.process_time() - started


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_constructs_in_milliseconds(choice: Path) -> None:
    key, config = composed(choice)
    node = config.plain[key]
    open_keys = list(missing(node, key))
    if open_keys:
        with pytest.raises(ValueError, match=f"{open_keys[0]} has no value"):
            build(node, key=key)
        return
    build(node, key=key)  # imports
    assert min(construction_seconds(node, key) for _ in range(5)) < MOST_SECONDS


@pytest.mark.parametrize("primary", PRIMARIES)
def test_every_primary_composes_and_its_parts_construct(primary: str) -> None:
    for key, node in parts(compose_config(primary).plain).items():
        build(node, key=key)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_with_the_program_that_it_names(experiment: str) -> None:
    """The head of the file holds the command: ``python train/lora.py experiment=<name>``."""
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    match = re.search(rf"^# .*?(\w+/\w+)\.py.* experiment={experiment}\b", text, flags=re.MULTILINE)
    assert match, f"conf/experiment/{experiment}.yaml does not say which program it is for"
    config = compose_config(primary_of(match[1]), [f"experiment={experiment}"])
    for key, node in parts(config.plain).items():
        build(node, key=key)


def test_every_file_says_what_it_is() -> None:
    def head(file: Path) -> str:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
        return lines[0]

    assert [str(file) for file in CONF.rglob("*.yaml") if not head(file).startswith("# ")] == []


@pytest.mark.parametrize("primary", PRIMARIES)
def test_an_experiment_wins_over_the_primarys_own_keys(primary: str) -> None:
    """Hydra merges in the order of the defaults: with ``_self_`` last, the primary would silently win."""
    defaults = yaml.safe_load((CONF / f"{primary}.yaml").read_text())["defaults"]
    assert "_self_" in defaults
    later = defaults[defaults.index("_self_") + 1 :]
    assert all(isinstance(entry, dict) and set(entry) == {"experiment"} for entry in later), later


def test_the_parts_of_programs_construct_without_torch() -> None:
    """What a misspelt key costs is a fraction of a second, so no constructor imports torch."""
    primaries = sorted({primary_of(name) for name in program_names()})
    assert set(primaries) <= set(PRIMARIES)
    assert "train" in primaries
    code = (
        "import sys; from evenhand.compose import compose_config; from evenhand.construct import build\n"
        "for primary in sys.argv[1:]:\n"
        "    for key, node in compose_config(primary).plain.items():\n"
        "        if '???' not in str(node): build(node, key=key)\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'datasets', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *primaries], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LAUNCHERS = sorted(
    file.relative_to(CONF / "hydra") for kind in ("launcher", "sweeper") for file in (CONF / "hydra" / kind).glob("*")
)


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


@pytest.mark.parametrize("choice", LAUNCHERS, ids=str)
def test_every_launcher_composes_where_its_plugin_is_installed(choice: Path) -> None:
    """A key that the plugin does not know would be refused; without the plugin the message says what to install."""
    plugin = choice.stem.split("_")[0].replace("slurm", "submitit")
    done = subprocess.run(
        [sys.executable, str(program_path("train/lora")), f"hydra/{choice.parent}={choice.stem}", "--cfg", "hydra"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not installed(f"hydra_plugins.hydra_{plugin}_{choice.parent}"):
        assert done.returncode == 2
        assert "pip install 'evenhand[sweeps]'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert f"hydra_plugins.hydra_{plugin}_{choice.parent}" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["method=distill"], "Beta"),
        (["method=distill", "timesteps=uniform"], "Uniform"),
        (["method=curated"], "Uniform"),
        (["method=curated", "timesteps=noisy"], "Beta"),
    ],
)
def test_a_method_may_choose_its_timesteps_and_the_command_line_has_the_last_word(overrides, name) -> None:
    assert compose_config("train", overrides).plain["timesteps"]["_target_"] == f"evenhand.data.timesteps.{name}"
