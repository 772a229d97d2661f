"""Where things are, from a checkout; test_package asks the same of an installed wheel."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import evenhand.paths
from evenhand.paths import checkout_folder, conf_folder, model_path, program_names, program_path

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_uses_its_own_choices_and_programs() -> None:
    assert checkout_folder() == ROOT
    assert conf_folder() == ROOT / "conf"
    assert program_path("train/lora") == ROOT / "train" / "lora.py"


def test_without_a_checkout_they_are_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "evenhand"
    (package / "programs" / "train").mkdir(parents=True)
    (package / "programs" / "train" / "lora.py").touch()
    monkeypatch.setattr(evenhand.paths, "PACKAGE_FOLDER", package)
    assert checkout_folder() is None
    assert conf_folder() == package / "conf"
    assert program_names() == ["train/lora"]
    assert program_path("train/lora") == package / "programs" / "train" / "lora.py"


def test_every_program_on_the_disk_has_a_name() -> None:
    files = {file for folder in ("train", "evaluate", "data_recipes") for file in (ROOT / folder).glob("*.py")}
    assert {program_path(name) for name in program_names()} == files


def test_an_unknown_program_is_refused_with_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"unknown program '\.\./setup'; choose one of data_recipes/audit, .*train/lora"
    ):
        program_path("../setup")


def test_a_packaged_model_is_a_folder_and_other_names_stay() -> None:
    assert Path(model_path("evenhand:tinytown/base")) == ROOT / "evenhand" / "tinytown" / "weights" / "base"
    assert (Path(model_path("evenhand:tinytown/base")) / "model_index.json").is_file()
    assert model_path("stable-diffusion-v1-5/stable-diffusion-v1-5") == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert model_path("/models/sd15") == "/models/sd15"


def test_a_packaged_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'evenhand:tinytown/bass' not found: .*weights/bass does not exist"):
        model_path("evenhand:tinytown/bass")


def test_the_command_hands_its_arguments_to_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "evenhand"
    (package / "programs" / "train").mkdir(parents=True)
    (package / "programs" / "train" / "lora.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    monkeypatch.setattr(evenhand.paths, "PACKAGE_FOLDER", package)
    monkeypatch.setattr(sys, "argv", ["evenhand", "train/lora.py", "seed=1", "-m"])
    runpy.run_module("evenhand", run_name="__main__")
    assert capsys.readouterr().out == "__main__ ['seed=1', '-m']\n"
