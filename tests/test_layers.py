"""The house rules that a machine can check: who imports whom, names, and sizes. Everything is read from the disk."""

from __future__ import annotations

import ast
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "evenhand"
PROGRAM_FOLDERS = ("train", "evaluate", "data_recipes", "scripts")
LAYERS = (
    {"__init__", "records", "seeds", "paths", "files", "construct", "processes"},
    {"interfaces", "cache", "jobs", "publish"},
    {"compose"},
    {"bases", "captions", "readers", "scorers", "stats", "trackers", "run", "launch", "ranks", "tinytown", "hygiene"},
    {"sources"},
    {"adapters", "data", "methods", "recipes", "evaluation"},
    {"training", "generation", "analysis", "set_audit"},
    {"report"},
    {"honesty", "sweeps", "benchmark", "method_benchmark", "playground"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
CONFIG_LIBRARIES = {"hydra", "omegaconf"}
MAX_FILE_LINES, MAX_PROGRAM_LINES, MAX_FUNCTION_LINES = 400, 100, 60


def imported_modules(code: str) -> Iterator[str]:
    """Every absolute module that the code imports; of ``from evenhand import x`` also ``evenhand.x``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            yield node.module
            if node.module == "evenhand":
                yield from (f"evenhand.{alias.name}" for alias in node.names)


def upward(code: str, part: str) -> list[str]:
    """The parts that code of ``part`` may not import, and does."""
    parts = {module.split(".")[1] for module in imported_modules(code) if module.startswith("evenhand.")}
    return sorted(name for name in parts - {part} if RANK.get(name, len(LAYERS)) >= RANK[part])


def part_of(path: Path) -> str:
    """The first name below the package: ``evenhand/bases/sd.py`` is of ``bases``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def program_files() -> list[Path]:
    """What is run by path."""
    return sorted(file for folder in PROGRAM_FOLDERS for file in (ROOT / folder).glob("*.py"))


def test_every_part_has_a_layer() -> None:
    parts = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert parts <= set(RANK), f"name the layer of {sorted(parts - set(RANK))} in LAYERS"


def test_imports_point_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports evenhand.{name}"
        for path in package_files()
        for name in upward(path.read_text(), part_of(path))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "part", "found"),
    [
        ("from evenhand.records import Prompt", "bases", []),
        ("from evenhand.bases.sd import x", "bases", []),
        ("from evenhand.analysis.tables import x", "bases", ["analysis"]),
        ("from evenhand.report.content import x", "analysis", ["report"]),
        ("import evenhand.readers.classifier", "bases", ["readers"]),
        ("def f():\n    from evenhand import training", "methods", ["training"]),
        ("from evenhand.unheard_of import x", "methods", ["unheard_of"]),
    ],
)
def test_an_upward_or_sideways_import_is_found(code: str, part: str, found: list[str]) -> None:
    assert upward(code, part) == found


def test_only_compose_knows_the_config_libraries() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in [*package_files(), *program_files()]
        for module in imported_modules(path.read_text())
        if module.split(".")[0] in CONFIG_LIBRARIES and path != PACKAGE / "compose.py"
    ]
    assert not wrong, "\n".join(wrong)


def test_statistics_and_records_import_no_torch() -> None:
    files = [*(PACKAGE / "stats").rglob("*.py"), *(PACKAGE / f"{name}.py" for name in LAYERS[0])]
    wrong = [
        str(path.relative_to(ROOT))
        for path in files
        if {"torch", "diffusers", "transformers"} & {name.split(".")[0] for name in imported_modules(path.read_text())}
    ]
    assert not wrong, wrong


def test_programs_import_parts_and_never_programs() -> None:
    programs = {path.stem for path in program_files()} | set(PROGRAM_FOLDERS)
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in [*package_files(), *program_files()]
        for module in imported_modules(path.read_text())
        if module.split(".")[0] in programs
    ]
    assert not wrong, "\n".join(wrong)


def required_packages() -> set[str]:
    """The installed packages that evenhand requires, with all extras, and what those require."""
    found: set[str] = set()
    waiting = ["evenhand"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            requirements = [Requirement(line) for line in lines]
            waiting += [each.name for each in requirements if name == "evenhand" or "extra" not in str(each.marker)]
    return found


def shadowed(names: set[str]) -> set[str]:
    """Which of the names are top-level modules of Python, or of a package that our processes may import."""
    required = required_packages()
    modules = {
        module
        for module, packages in metadata.packages_distributions().items()
        if required & {canonicalize_name(package) for package in packages}
    }
    return names & (set(sys.stdlib_module_names) | (modules - {"evenhand"}))


def test_program_names_never_shadow_a_library() -> None:
    """``python train/x.py`` puts train/ first on the path, so a train/peft.py would be imported in peft's place."""
    assert shadowed({path.stem for path in program_files()}) == set()


def test_a_shadowing_name_is_found() -> None:
    """PyYAML's module is called otherwise than the package, and tokenizers is required by a requirement only."""
    assert shadowed({"lora", "datasets", "json", "yaml", "tokenizers"}) == {"datasets", "json", "yaml", "tokenizers"}


def test_program_folders_are_no_packages() -> None:
    """A top-level package ``evaluate`` would overwrite Hugging Face's."""
    assert [str(file) for folder in (*PROGRAM_FOLDERS, "conf") for file in (ROOT / folder).rglob("__init__.py")] == []


def function_lines(code: str) -> Iterator[tuple[str, int]]:
    """Each function's name and number of lines, its docstring not counted."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


def test_files_and_functions_stay_readable() -> None:
    """A program is one story, so its main may take the whole file."""
    wrong = []
    for path in [*package_files(), *program_files()]:
        code = path.read_text()
        is_part = path.is_relative_to(PACKAGE)
        most = MAX_FILE_LINES if is_part else MAX_PROGRAM_LINES
        name = path.relative_to(ROOT)
        if len(code.splitlines()) > most:
            wrong.append(f"{name} has {len(code.splitlines())} lines, at most {most}")
        wrong += [
            f"{name}: {function} has {lines} lines, at most {MAX_FUNCTION_LINES}"
            for function, lines in function_lines(code)
            if is_part and lines > MAX_FUNCTION_LINES
        ]
    assert not wrong, "\n".join(wrong)


def test_a_long_function_is_measured_without_its_docstring() -> None:
    code = 'def f():\n    """One.\n\n    Two.\n    """\n' + "    x = 1\n" * 5
    assert list(function_lines(code)) == [("f", 6)]


def test_a_test_cannot_reach_another_machine() -> None:
    """192.0.2.1 is reserved for documentation: no machine has it."""
    with pytest.raises(ConnectionRefusedError, match="a test tried to reach"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_a_test_can_reach_its_own_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
