"""train/lora.py as people start it: in a process of its own, on a tiny base and a tiny set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenhand.paths import program_path

PROGRAM = str(program_path("train/lora"))
SHORT = ["train.steps=6", "train.batch_size=4", "train.preserve_batch_size=4", "train.log_every_steps=2"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
PATIENCE_SECONDS = 300


def command(tiny_folder: Path, data: Path, *overrides: str, launcher: list[str] | None = None) -> list[str]:
    base = ["base.name=tiny", f"base.model={tiny_folder}", f"data={data}", "lora.rank=2"]
    return [sys.executable, *(launcher or []), PROGRAM, *base, *SHORT, *overrides]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    process = start(arguments, folder)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tiny_folder, tiny_set_folder, tmp_path_factory) -> Path:
    """The run folder of one uninterrupted training."""
    home = tmp_path_factory.mktemp("trained")
    code, out, err = run(command(tiny_folder, tiny_set_folder, "run_name=straight"), home)
    assert code == 0, err
    assert "adapter: runs/default/straight/adapter  loss: " in out
    return home / "runs" / "default" / "straight"


def test_a_training_leaves_the_adapter_with_its_cards_metrics_and_provenance(trained, tiny_set_folder) -> None:
    card = json.loads((trained / "adapter" / "card.json").read_text())
    provenance = json.loads((trained / "provenance.json").read_text())
    assert (card["base"], card["method"], card["steps"]) == ("tiny", "curated", 6)
    assert card["concepts"] == ["doctor", "mechanic", "nurse"]
    assert card["config_sha256"] == provenance["config_sha256"]
    assert card["data_sha256"] == provenance["inputs"]["data"]["sha256"]
    assert provenance["finished"] is not None
    assert [line["step"] for line in metrics(trained)] == [2, 4, 6]
    assert (trained / "adapter" / "README.md").is_file()
    captions = json.loads((trained / "adapter" / "captions.json").read_text())
    for split, texts in captions.items():
        lines = (tiny_set_folder / split / "metadata.jsonl").read_text().splitlines()
        assert set(texts) == {json.loads(line)["text"] for line in lines} - {""}
    assert set(captions) == {"train", "preserve"}


def test_two_processes_give_the_losses_of_one(trained, tiny_folder, tiny_set_folder, tmp_path) -> None:
    code, _, err = run(command(tiny_folder, tiny_set_folder, "run_name=two", launcher=LAUNCH), tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "default" / "two"
    assert json.loads((folder / "provenance.json").read_text())["world_size"] == 2
    for one, two in zip(metrics(trained), metrics(folder), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_killed_at_any_moment_the_same_command_ends_in_the_same_adapter(
    trained, tiny_folder, tiny_set_folder, tmp_path
) -> None:
    arguments = command(tiny_folder, tiny_set_folder, "run_name=killed", "train.checkpoint_every_steps=1")
    folder = tmp_path / "runs" / "default" / "killed"
    for wanted_step in (0, 2, 4):  # before the first checkpoint, and twice in the middle
        process = start(arguments, tmp_path)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            there = (folder / "provenance.json").is_file() if wanted_step == 0 else _reached(folder, wanted_step)
            if there:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    code, _, err = run(arguments, tmp_path)
    assert code == 0, err
    assert "going on after step" in err
    # header and cards name the run and its config, which differ; the tensors behind the header may not
    name = "pytorch_lora_weights.safetensors"
    assert _tensors(trained / "adapter" / name) == _tensors(folder / "adapter" / name)
    assert metrics(folder) == metrics(trained)


def _reached(folder: Path, step: int) -> bool:
    return any(int(path.name[-8:]) >= step for path in (folder / "checkpoints").glob("step-*"))


def _tensors(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=nowhere"], r"curated set nowhere has no train/metadata.jsonl"),
        (["lora.rankk=4"], "rankk"),
        (["+lora.rankk=4"], "unknown key lora.rankk"),
        (["method=curatd"], "curatd"),
        (["lora.rank=0"], "rank must be >= 1, got 0"),
        (["train.batch_size=3", "train.grad_accumulation=2"], "make it a multiple of 2"),
        (["train.preserve_batch_size=0"], "the method needs preserve rows"),
        (["base.model=/nowhere"], "model folder '/nowhere' does not exist"),
        (["lora.targets=atention"], "lora.targets must be one of cross_attention_kv, attention,"),
    ],
)
@pytest.mark.slow
def test_a_mistake_ends_in_one_line_that_names_it(tiny_folder, tiny_set_folder, tmp_path, overrides, message) -> None:
    code, out, err = run(command(tiny_folder, tiny_set_folder, *overrides), tmp_path)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err
    assert out == ""


def test_another_config_in_the_same_folder_is_refused(trained, tiny_folder, tiny_set_folder) -> None:
    arguments = command(tiny_folder, tiny_set_folder, "run_name=straight", "train.max_grad_norm=2.0")
    code, _, err = run(arguments, trained.parents[2])
    assert code == 2
    assert "train.max_grad_norm: 1.0 -> 2.0" in err


def test_the_same_command_on_a_finished_run_writes_the_same_bytes(trained, tiny_folder, tiny_set_folder) -> None:
    names = ("pytorch_lora_weights.safetensors", "card.json", "captions.json", "README.md")
    files = [trained / "adapter" / name for name in names]
    before = [file.read_bytes() for file in files]
    code, out, err = run(command(tiny_folder, tiny_set_folder, "run_name=straight"), trained.parents[2])
    assert code == 0, err
    assert "steps: 6" in out
    assert [file.read_bytes() for file in files] == before


def test_a_finished_run_returns_before_torch_is_imported(trained, tiny_folder, tiny_set_folder) -> None:
    launcher = ["-X", "importtime"]
    arguments = command(tiny_folder, tiny_set_folder, "run_name=straight", launcher=launcher)
    code, out, err = run(arguments, trained.parents[2])
    assert (code, out.count("adapter: ")) == (0, 1)
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "numpy" in imported
    assert imported & {"torch", "diffusers", "transformers", "accelerate"} == set()


def test_an_adapter_is_exported_for_other_programs_in_one_command(trained, tmp_path) -> None:
    script = str(Path(PROGRAM).parents[1] / "scripts" / "export_adapter.py")
    arguments = [sys.executable, script, f"adapter={trained / 'adapter'}", "to=out.safetensors"]
    code, out, err = run(arguments, tmp_path)
    assert code == 0, err
    assert out.startswith("exported: out.safetensors")
    assert (tmp_path / "out.safetensors").stat().st_size > 1000
