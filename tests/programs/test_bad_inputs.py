"""What can be wrong with a training, each through the program: one line that says it, at once, and nothing written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evenhand.compose import compose_config
from evenhand.paths import program_path
from evenhand.run import plan_run

PROGRAM = program_path("train/lora")
EXPORT = PROGRAM.parents[1] / "scripts" / "export_adapter.py"
SHORT = ["train.steps=4", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=2", "lora.rank=2"]
MOST_SECONDS = 5.0
LIBRARIES = "import hydra, torch, accelerate, diffusers, peft, transformers, evenhand.training.parts; "
LIBRARIES += "from diffusers import StableDiffusionPipeline; from transformers import CLIPTokenizer"
RUN_FOLDER = "runs/default/mine"
TABLE = "evenhand.evaluation.targets.Table"
TOO_MUCH = "{_target_: " + TABLE + ", rows: {*: [0.5, 0.6]}, source: mine}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A good set and base in a scratch folder, for a case to spoil."""

    folder: Path
    data: Path
    base: Path

    def arguments(self) -> list[str]:
        return ["base.name=tiny", f"base.model={self.base}", f"data={self.data}", *SHORT, "run_name=mine"]

    def change_row(self, change: Mapping[str, Any]) -> None:
        """Change the second row of the training part; None removes a column."""
        path = self.data / "train" / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[1] = {key: value for key, value in {**rows[1], **change}.items() if value is not None}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def begin_run(self, *, base_sha256: str = "0" * 64) -> None:
        """Leave a run folder as a training leaves it that was killed after its start."""
        config = compose_config("train", self.arguments()).plain
        plan = plan_run(self.folder / RUN_FOLDER, config=config, seeds={"train": 0}, inputs={"data": self.data})
        plan.open(models={"base": base_sha256})


@pytest.fixture
def scene(tiny_folder: Path, tiny_set_folder: Path, tmp_path: Path) -> Scene:
    return Scene(folder=tmp_path, data=Path(shutil.copytree(tiny_set_folder, tmp_path / "set")), base=tiny_folder)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mistake, and what the line about it must name: the value, and the cure."""

    name: str
    names: tuple[str, ...]
    spoil: Callable[[Scene], None] = lambda scene: None
    overrides: tuple[str, ...] = ()
    program: Path = PROGRAM
    loads: bool = False  # whether a model, or its tokenizer, has to be loaded before the mistake can be seen
    writes: bool = False  # whether it can only be seen while training


def spoil_image(scene: Scene) -> None:
    (scene.data / "train" / "000001.png").write_bytes(b"no image")


def clashing_adapter(scene: Scene) -> None:
    """An adapter whose header and tensors disagree."""
    tensors = {"unet.x.lora.down.weight": torch.ones(2, 4), "unet.x.lora.up.weight": torch.ones(4, 2)}
    settings = {"unet.r": 4, "unet.lora_alpha": 4, "unet.target_modules": ["x"]}
    save_file(tensors, scene.folder / "clash.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})


CASES = [
    Case(
        name="a column that nothing reads",
        spoil=lambda scene: scene.change_row({"captoin": "x"}),
        names=("metadata.jsonl line 2", "captoin", "remove it"),
    ),
    Case(
        name="a missing image",
        spoil=lambda scene: (scene.data / "train" / "000001.png").unlink(),
        names=("metadata.jsonl line 2", "000001.png does not exist", "restore it, or remove the row"),
    ),
    Case(name="an image that is none", spoil=spoil_image, names=("train/000001.png", "remove")),
    Case(
        name="an empty caption",
        spoil=lambda scene: scene.change_row({"text": " "}),
        names=("metadata.jsonl line 2", "the caption (text) of 000001.png is empty", "write one, or remove the row"),
    ),
    Case(
        name="a caption that is too long",
        spoil=lambda scene: scene.change_row({"text": "mechanic " * 100}),
        names=("metadata.jsonl", "102 tokens", "77"),
        loads=True,
    ),
    Case(
        name="no module that matches",
        overrides=("lora.rank_pattern={no_such_module: 8}",),
        names=("no_such_module", "matches none of the", "lora.rank_pattern"),
        loads=True,
    ),
    Case(
        name="another base in the config of a run that is resumed",
        spoil=lambda scene: scene.begin_run(),
        overrides=("base.model=evenhand:tinytown/base",),
        names=(RUN_FOLDER, "base.model:", "-> evenhand:tinytown/base", "another run_name"),
    ),
    Case(
        name="other weights under the name of the base of a run that is resumed",
        spoil=lambda scene: scene.begin_run(),
        names=(RUN_FOLDER, "was begun with another base", "0000000000000000", "give the base that it was begun with"),
        loads=True,
    ),
    Case(
        name="another config for a run that is resumed",
        spoil=lambda scene: scene.begin_run(),
        overrides=("optim.learning_rate=0.5",),
        names=(RUN_FOLDER, "optim.learning_rate:", "-> 0.5", "choose another run_name"),
    ),
    Case(
        name="an adapter whose header contradicts its tensors",
        spoil=clashing_adapter,
        overrides=("adapter=clash.safetensors", "to=out.safetensors"),
        names=("clash.safetensors", "header and tensors disagree about", "rank 4 and 2"),
        program=EXPORT,
        loads=True,
    ),
    Case(
        name="a disk that is too small",
        overrides=("train.keep_checkpoints=100000000",),
        names=(RUN_FOLDER, "MB free", "make room"),
    ),
    Case(
        name="a run folder that cannot be written to",
        spoil=lambda scene: (scene.folder / "file").write_text("a file, no folder"),
        overrides=("run_folder=file/mine",),
        names=("run_folder file/mine cannot be written to", "Not a directory", "set run_folder"),
    ),
    Case(
        name="a precision that the device cannot do",
        overrides=("train.mixed_precision=fp16",),
        names=("train.mixed_precision=fp16", "use no"),
        loads=True,
    ),
    Case(
        name="a loss that is not finite",
        overrides=("optim.learning_rate=1e30", "optim.warmup_steps=0", "train.max_grad_norm=1e30"),
        names=("at step ", ".png", "lower optim.learning_rate"),
        loads=True,
        writes=True,
    ),
    Case(
        name="a target that does not sum to 1",
        overrides=("validation=tinytown", "~validation.target", f"+validation.target={TOO_MUCH}"),
        names=("validation.target", "shares must sum to 1", "1.1"),
    ),
    Case(
        name="more processes than examples",
        overrides=("launch.num_processes=13", "train.batch_size=13", "train.preserve_batch_size=13"),
        names=("has 12 rows, fewer than the 13 processes", "start at most 12 processes"),
    ),
]


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file and folder with size and time of change."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return [(path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns) for path, state in found]


def run(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """The end of a command and its seconds of work."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def import_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What the libraries alone cost on this machine, at this moment."""
    done, seconds = run(["-c", LIBRARIES], tmp_path_factory.mktemp("imports"))
    assert done.returncode == 0, done.stderr
    return seconds


def test_the_cases_are_the_declared_ones() -> None:
    assert len(CASES) == 16  # fifteen, and the base of a resumed run in two ways


MARKED = [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.loads else []) for case in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_a_mistake_ends_in_one_line_at_once_and_nothing_is_written(case: Case, scene: Scene, request) -> None:
    if case.names[0] == "train.mixed_precision=fp16" and torch.cuda.is_available():
        pytest.skip("a GPU can do fp16")
    case.spoil(scene)
    before = listing(scene.folder)
    given = scene.arguments() if case.program == PROGRAM else []
    done, seconds = run([str(case.program), *given, *case.overrides], scene.folder)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(errors) == 1, done.stderr
    assert [name for name in case.names if name not in errors[0]] == [], errors[0]
    assert "Traceback" not in done.stderr
    if case.writes:
        assert not (scene.folder / RUN_FOLDER / "adapter").exists()
    else:
        assert listing(scene.folder) == before
    libraries = request.getfixturevalue("import_seconds") if case.loads else 0.0
    assert seconds - libraries < MOST_SECONDS


@pytest.mark.slow
def test_without_a_mistake_the_same_command_trains(scene: Scene) -> None:
    done, _ = run([str(PROGRAM), *scene.arguments()], scene.folder)
    assert done.returncode == 0, done.stderr
    assert (scene.folder / RUN_FOLDER / "adapter").is_dir()
