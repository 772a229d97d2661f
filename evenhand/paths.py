"""Where things are: conf/ and the programs (checkout first, else inside the wheel), and packaged models."""

from __future__ import annotations

from pathlib import Path

PACKAGE_FOLDER = Path(__file__).resolve().parent
PACKAGED = "evenhand:"
PROGRAM_FOLDERS = ("train", "evaluate", "data_recipes")


def checkout_folder() -> Path | None:
    """The root of the checkout this package is imported from, or None when it was installed from a wheel."""
    root = PACKAGE_FOLDER.parent
    return root if (root / "conf" / "program.yaml").is_file() and (root / "pyproject.toml").is_file() else None


def conf_folder() -> Path:
    """The folder of the YAML choices."""
    root = checkout_folder()
    return PACKAGE_FOLDER / "conf" if root is None else root / "conf"


def _programs_home() -> Path:
    root = checkout_folder()
    return PACKAGE_FOLDER / "programs" if root is None else root


def program_names() -> list[str]:
    """The programs there are, such as ``train/lora``, in order."""
    home = _programs_home()
    return sorted(f"{folder}/{file.stem}" for folder in PROGRAM_FOLDERS for file in (home / folder).glob("*.py"))


def program_path(name: str) -> Path:
    """The file of a program such as ``train/lora``; ValueError names the programs there are."""
    known = program_names()
    if name not in known:
        raise ValueError(f"unknown program {name!r}; choose one of {', '.join(known)}")
    return _programs_home() / f"{name}.py"


def model_path(model: str) -> str:
    """A model as the Hugging Face loaders take it: ``evenhand:tinytown/base`` names one that this package ships.

    A folder or a hub id is returned as it is. Raises ValueError for a packaged model that is not there.
    """
    if not model.startswith(PACKAGED):
        return model
    package, _, name = model.removeprefix(PACKAGED).partition("/")
    folder = PACKAGE_FOLDER / package / "weights" / name
    if not folder.is_dir():
        raise ValueError(f"packaged model {model!r} not found: {folder} does not exist")
    return str(folder)
