"""Every command that README.md and docs/ show is run: as it stands in CI, or here with small numbers.

A fenced block is one of:

* ``bash``: its commands are run in order, in one scratch folder for each page. A program gets the overrides of SMALL
  behind its own, so that minutes become seconds; everything else is run as it is written.
* ``bash gpu``: for a machine with an accelerator and the hub. The config of each program is composed and its parts are
  constructed, so that every key, choice and target in the command is right.
* ``python``: run in the same scratch folder, after the commands above it.

Not run here is only what CI runs by the letter (a line of CI_SCRIPTS), and installation, which is CI's own beginning
(INSTALLATION names where).
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evenhand.compose import compose_config
from evenhand.paths import PROGRAM_FOLDERS, program_names, program_path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [file for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if file.is_file()]
CI_SCRIPTS = (".ci/run", "scripts/check", "scripts/demo")
DEMO = ROOT / "scripts" / "demo"
INSTALLATION = {
    r"git clone \S+( && cd \S+)?|cd \S+": (".ci/run", "scripts/check"),  # CI starts in a fresh clone
    r"pip install -e '?\.(\[\S+\])?'?": ("scripts/setup", "--editable"),
    r"pip install '?evenhand\[(wandb|tensorboard)\]'?": ("pyproject.toml", "evenhand[wandb,tensorboard]"),
}
SMALL = {
    "data_recipes/build": ["recipe.plan.images_per_concept=3", "recipe.preserve.images_per_caption=1"],
    "train/lora": ["train.steps=2", "train.batch_size=2", "train.preserve_batch_size=2", "lora.rank=2"],
    "evaluate/shift": ["sampling.steps=2"],
}
SMALL["evaluate/generate"] = SMALL["evaluate/shift"]
CAPTIONS = "recipe=captions_only"
PARTS_OF_RECIPES = {"data_recipes/build": {"source"}}  # a folder for one recipe, and never used by the others
GUARD_FAILED = 3  # what shift exits with where a guard failed, which two steps of training may do
MOST_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page: its language, the word behind it, and its text."""

    language: str
    tag: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text, in order."""
    for match in re.finditer(r"^```(\w+) ?(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield Block(language=match[1], tag=match[2], text=match[3])


def commands(text: str) -> list[str]:
    """The commands of a block or script: lines joined at a backslash, comments and empty lines left out."""
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in text.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]


def as_in_a_script(command: str) -> str:
    """A script's spelling of a command: it names its own python."""
    return command.replace('"$python" -m accelerate.commands.launch', "accelerate launch").replace(
        '"$python"', "python"
    )


def ci_commands() -> set[str]:
    scripts = [ROOT / script for script in CI_SCRIPTS]
    return {as_in_a_script(line) for script in scripts if script.is_file() for line in commands(script.read_text())}


def program_of(command: str) -> str | None:
    """The program that a command starts, such as ``train/lora``."""
    for name in program_names():
        if re.match(
            rf"(python |(accelerate launch|torchrun) (-\S+ (\w+ )?)*)({name}\.py|-m evenhand {name})\b", command
        ):
            return name
        if re.match(rf"evenhand {name}\b", command):
            return name
    return None


def overrides_of(command: str) -> list[str]:
    """The overrides of a program's command line."""
    return [word for word in shlex.split(command) if re.match(r"[+~]*[\w./@]+=", word)]


def single_runs(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep; of the one job where nothing is swept."""
    choices = []
    for override in overrides:
        key, _, value = override.partition("=")
        values = [value] if value[:1] in ("[", "{", "'", '"') else value.split(",")
        if interval := re.search(r"interval\(([^,]+),", value):
            values = [interval[1]]  # what a search may try: its lower end
        choices.append([f"{key}={each}" for each in values])
    yield from (list(each) for each in itertools.product(*choices))


def compose_and_construct(command: str) -> None:
    """Compose each job of a program's command and construct its parts, as the program does before it loads anything."""
    name = program_of(command)
    assert name is not None, f"not a program of evenhand: {command}"
    (primary,) = re.findall(r'@program\("(\w+)"', program_path(name).read_text())
    for overrides in single_runs(overrides_of(command)):
        # what a launcher or sweeper of Hydra is told: tests/test_conf.py composes these where they are installed
        config = compose_config(primary, [each for each in overrides if not each.startswith("hydra")])
        for key in config.plain.keys() - PARTS_OF_RECIPES.get(name, set()):
            config.build(key)


def where_else(command: str) -> bool:
    """Whether CI runs the command elsewhere; the place that INSTALLATION names must still do so."""
    if command in ci_commands():
        return True
    for pattern, (file, text) in INSTALLATION.items():
        if re.fullmatch(pattern, command):
            assert text in (ROOT / file).read_text(), f"{file} does not run {text!r} any more"
            return True
    return False


def one_seed(command: str) -> str:
    """The override that asks each prompt of the suite that the command chooses once."""
    seeds = compose_config("evaluate", overrides_of(command)).plain["suite"]["num_seeds"]
    return f"suite.num_seeds={{{', '.join(f'{suite}: 1' for suite in seeds)}}}"


def run_small(command: str, folder: Path) -> None:
    """Run a command in the scratch folder, a program with small numbers."""
    name = program_of(command)
    overrides = [] if CAPTIONS in command else SMALL.get(name or "", [])  # which are small as they are
    if name in ("evaluate/shift", "evaluate/generate"):
        overrides = [*overrides, one_seed(command)]
    small = " ".join(shlex.quote(override) for override in overrides)
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"{command} {small}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=variables,
        timeout=MOST_SECONDS,
    )
    allowed = {0, GUARD_FAILED} if name == "evaluate/shift" else {0}
    assert done.returncode in allowed, f"{command} {small}\n{done.stdout}\n{done.stderr}"


def run_block(block: Block, folder: Path) -> None:
    if block.language == "python":
        run = [sys.executable, "-c", block.text]
        done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False, timeout=MOST_SECONDS)
        assert done.returncode == 0, f"{block.text}\n{done.stderr}"
    elif block.language == "bash":
        for command in commands(block.text):
            if block.tag == "gpu":
                compose_and_construct(command)
            elif not where_else(command):
                run_small(command, folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the checkout after ``scripts/demo``: its program commands, run with small numbers."""
    folder = tmp_path_factory.mktemp("demo")
    for name in (*PROGRAM_FOLDERS, "scripts", "conf", "docs", "evenhand"):
        (folder / name).symlink_to(ROOT / name)
    for command in map(as_in_a_script, commands(DEMO.read_text()) if DEMO.is_file() else []):
        if program_of(command) is not None:
            run_small(command, folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_runs(page: Path, demo: Path) -> None:
    for block in blocks(page.read_text()):
        run_block(block, demo)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block without a language, or with an unknown tag, would be skipped without a word."""
    fences = re.findall(r"^```(.*)$", page.read_text(), flags=re.MULTILINE)
    assert len(fences) % 2 == 0
    for fence in fences[::2]:
        assert re.fullmatch(r"(bash|bash gpu|python|text|json|yaml)", fence), f"{page.name}: ```{fence}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_the_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_a_block_is_cut_into_its_commands() -> None:
    text = "# a comment\npython train/lora.py a=1 \\\n    b=2  # why\n\nls\n"
    assert commands(text) == ["python train/lora.py a=1 b=2", "ls"]
    page = "x\n```bash gpu\nls\n```\ny\n```python\nprint(1)\n```\n"
    assert [(block.language, block.tag, block.text) for block in blocks(page)] == [
        ("bash", "gpu", "ls\n"),
        ("python", "", "print(1)\n"),
    ]


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("python train/lora.py data=x", "train/lora"),
        ("evenhand train/lora data=x", "train/lora"),
        ("accelerate launch train/lora.py", "train/lora"),
        ("accelerate launch --multi_gpu --num_processes 8 train/lora.py base=sd15", "train/lora"),
        ("accelerate launch -m evenhand train/lora data=x", "train/lora"),
        ("python train/lorax.py", None),
        ("evenhand", None),
        ("ls train/lora.py", None),
    ],
)
def test_a_program_is_recognised(command: str, program: str | None) -> None:
    assert program_of(command) == program


def test_a_wrong_key_on_a_gpu_command_is_found() -> None:
    compose_and_construct("python train/lora.py base=sd15 data=x seed=1,2")
    with pytest.raises(Exception, match="no_such_key"):
        compose_and_construct("python train/lora.py base=sd15 data=x no_such_key=1")
    with pytest.raises(ValueError, match=r"base\.model must be str, got 3"):
        compose_and_construct("python train/lora.py base=sd15 data=x base.model=3")


def test_a_command_that_fails_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        run_block(Block(language="bash", tag="", text="echo no such thing >&2; false\n"), tmp_path)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_block(Block(language="python", tag="", text="1 / 0\n"), tmp_path)


def test_a_command_of_ci_is_not_run_again() -> None:
    assert where_else("scripts/check")
    assert where_else("pip install -e .")
    assert not where_else("scripts/check --fast")
    assert not where_else("pip install torch")
