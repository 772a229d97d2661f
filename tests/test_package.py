"""The wheel holds everything and nothing else, and works in an empty folder far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from evenhand.paths import PROGRAM_FOLDERS, program_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCES = {".git", ".venv", "runs", "data", "build", "dist", "outputs", "wandb"}
MOST_WEIGHT_BYTES = 20_000_000
HEAVY = {"torch", "diffusers", "transformers", "peft", "datasets", "hydra", "numpy"}


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that what an earlier build left in the checkout cannot get into the wheel."""

    def skip(folder: str, names: list[str]) -> set[str]:
        unwanted = {name for name in names if name == "__pycache__" or name.endswith((".egg-info", "_cache"))}
        return unwanted | (NOT_SOURCES & set(names) if Path(folder) == ROOT else set())

    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("sources") / "evenhand", ignore=skip))


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True, capture_output=True, text=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a fresh environment with the wheel, which sees the libraries of this one."""
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "libraries.pth").write_text("\n".join(libraries))
    command = ["--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True, capture_output=True, text=True)
    return environment / "bin"


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run in a folder with no way back to the checkout."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=variables)


def test_the_packages_in_pyproject_are_the_folders_on_the_disk() -> None:
    listed = set(project()["tool"]["setuptools"]["packages"])
    parts = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "evenhand").rglob("__init__.py")}
    assert listed == parts | {"evenhand.conf"} | {f"evenhand.programs.{folder}" for folder in PROGRAM_FOLDERS}


def test_every_folder_with_python_files_is_a_package() -> None:
    folders = {file.parent for file in (ROOT / "evenhand").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_wheel_holds_every_choice_program_and_part(names: set[str]) -> None:
    expected = {f"evenhand/conf/{file.relative_to(ROOT / 'conf')}" for file in (ROOT / "conf").rglob("*.yaml")}
    expected |= {f"evenhand/programs/{name}.py" for name in program_names()}
    expected |= {str(file.relative_to(ROOT)) for file in (ROOT / "evenhand").rglob("*.py")}
    expected |= {"evenhand/py.typed"}
    assert expected - names == set()


def test_the_wheel_holds_all_that_parts_read(names: set[str]) -> None:
    """Each file of the package that is not Python: the world, the weights, the templates."""
    unwanted = {"__pycache__"}
    expected = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "evenhand").rglob("*")
        if file.is_file() and file.suffix != ".py" and not unwanted & set(file.parts)
    }
    assert "evenhand/tinytown/world.yaml" in expected
    assert "evenhand/tinytown/weights/base/unet/diffusion_pytorch_model.safetensors" in expected
    assert expected - names == set()


def test_the_weights_are_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        weights = sum(entry.file_size for entry in file.infolist() if "/weights/" in entry.filename)
    assert 1_000_000 < weights <= MOST_WEIGHT_BYTES


def test_the_wheel_puts_one_name_on_the_path(names: set[str]) -> None:
    """No top-level ``evaluate``, which would overwrite Hugging Face's, nor ``train``, ``conf``, ``tests``."""
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"evenhand"}
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_licence_goes_along(names: set[str]) -> None:
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_installed_package_lists_its_programs(installed: Path, tmp_path: Path) -> None:
    done = run([installed / "evenhand"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines() if "/" in line] == program_names()


def test_an_unknown_program_is_refused_with_the_choices(installed: Path, tmp_path: Path) -> None:
    done = run([installed / "evenhand", "train/lroa"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown program 'train/lroa'; choose one of data_recipes/audit, ")


@pytest.mark.parametrize("name", program_names())
def test_every_installed_program_composes_its_own_choices(installed: Path, tmp_path: Path, name: str) -> None:
    done = run([installed / "evenhand", name, "--info", "searchpath"], tmp_path)
    assert done.returncode == 0, done.stderr
    site = subprocess.run(
        [installed / "python", "-c", "import evenhand; print(evenhand.__path__[0])"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert f"file://{site}/conf" in done.stdout
    assert str(ROOT) not in done.stdout


@pytest.mark.parametrize("start", [["evenhand"], ["python", "-m", "accelerate.commands.launch", "-m", "evenhand"]])
def test_the_installed_package_trains_in_an_empty_folder(installed: Path, tmp_path: Path, start: list[str]) -> None:
    """Builds a curated set of renders and trains two steps on the shipped base, also under ``accelerate launch``."""
    recipe = ["recipe=tinytown_renders", "run_name=set", "recipe.plan.images_per_concept=4"]
    built = run([installed / "evenhand", "data_recipes/build", *recipe], tmp_path)
    assert built.returncode == 0, built.stderr
    settings = ["train.steps=2", "train.batch_size=2", "train.preserve_batch_size=2", "lora.rank=2", "run_name=r"]
    command = [installed / start[0], *start[1:], "train/lora", "data=runs/curated/set", *settings]
    trained = run(command, tmp_path)
    assert trained.returncode == 0, trained.stderr
    adapter = tmp_path / "runs" / "default" / "r" / "adapter"
    assert (adapter / "pytorch_lora_weights.safetensors").is_file()
    assert len((adapter.parent / "metrics.jsonl").read_text().splitlines()) >= 1


@pytest.mark.parametrize(
    "module", ["evenhand", "evenhand.records", "evenhand.interfaces", "evenhand.compose", "evenhand.run"]
)
def test_importing_it_is_instant(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_training_without_a_validation_starts_without_scipy() -> None:
    """SciPy's statistics are most of the seconds that the programs' own imports would take."""
    code = "import sys, evenhand.training.parts, evenhand.training.validation; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    import evenhand

    assert wheel.name == f"evenhand-{evenhand.__version__}-py3-none-any.whl"


def test_every_requirement_is_pinned_to_a_version_that_fits() -> None:
    """A bound that the known-good version misses, or a package without a pin, would make installations differ."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    described = project()["project"]
    wanted = described["dependencies"] + [
        line for extra in described["optional-dependencies"].values() for line in extra
    ]
    for line in wanted:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) == "evenhand":
            continue
        for python in ("3.10", "3.11", "3.13"):
            environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
            if requirement.marker and not requirement.marker.evaluate(environment):
                continue
            found = [
                pin
                for pin in pins
                if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
                and (pin.marker is None or pin.marker.evaluate(environment))
            ]
            assert len(found) == 1, f"{requirement.name} for Python {python}: {[str(pin) for pin in found]}"
            (version,) = found[0].specifier
            assert requirement.specifier.contains(version.version), f"{found[0]} misses {requirement}"


def test_torchvision_is_not_required() -> None:
    described = project()["project"]
    assert "torchvision" not in str(described["dependencies"]) + str(described["optional-dependencies"])
    assert "torchvision" not in (ROOT / "constraints.txt").read_text()
