"""The run folder: who owns it, what made it, and whether it may be continued."""

from __future__ import annotations

import logging
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import evenhand
from evenhand.files import read_json, sha256_json, sha256_path, write_json_atomic
from evenhand.paths import PACKAGE_FOLDER

log = logging.getLogger(__name__)

PROVENANCE = "provenance.json"
# Keys that name the folder, watch the run or start it: none can change a result, so none is part of the digest.
NOT_RESULTS = (
    "experiment",
    "run_name",
    "run_folder",
    "sweep_folder",
    "tracker",
    "launch",
    "measure",
    "objective",
    "allow_modules",
)
MAX_DIFFERENCES_SHOWN = 6
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run that may begin or go on in its folder; nothing is written yet."""

    folder: Path
    config: Mapping[str, Any]  # Any: YAML
    config_sha256: str
    seeds: Mapping[str, int]
    inputs: Mapping[str, Mapping[str, str]]
    not_results: tuple[str, ...]
    provenance_path: Path

    def finished(self) -> bool:
        """Whether an earlier call came to its end here: nothing is left to do."""
        before = self._before()
        return before is not None and before["finished"] is not None

    def open(
        self,
        *,
        is_main: bool = True,
        device: str = "cpu",
        world_size: int = 1,
        models: Mapping[str, str] | None = None,
    ) -> Run:
        """Claim the folder, or continue what the same config began there; ``models`` as in ``check_models``."""
        models = dict(models or {})
        self.check_models(models)
        before, now = self._before(), _now()
        provenance = {
            "config": self.config,
            "config_sha256": self.config_sha256,
            "inputs": self.inputs,
            "models": models,
            "seeds": dict(self.seeds),
            "git": git_state(),
            "versions": package_versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "command": sys.argv,
            "device": device,
            "world_size": world_size,
            "started": now if before is None else before["started"],
            "finished": None,
            "wall_seconds": 0.0 if before is None else before["wall_seconds"],
            "sessions": [*([] if before is None else before["sessions"]), {"started": now, "wall_seconds": None}],
        }
        if is_main:
            write_json_atomic(self.provenance_path, provenance)
        return Run(
            folder=self.folder,
            config_sha256=self.config_sha256,
            is_main=is_main,
            provenance_path=self.provenance_path,
            provenance=provenance,
            started_seconds=time.monotonic(),
        )

    def check_models(self, models: Mapping[str, str]) -> None:
        """Raise ValueError when the folder was begun with weights of other fingerprints.

        What is at a path, or behind a name of the hub, can change while the config stays.
        """
        before = self._before()
        for name, known in ({} if before is None else before.get("models", {})).items():
            if models.get(name) != known:
                raise ValueError(
                    f"{self.folder} was begun with another {name}: its weights were {known[:16]}, and are now "
                    f"{str(models.get(name))[:16]}; give the {name} that it was begun with, or another run_name"
                )

    def _before(self) -> Mapping[str, Any] | None:  # Any: JSON
        """The provenance that an earlier call left; ValueError when it was of another config or of other inputs."""
        if not self.provenance_path.is_file():
            return None
        before: Mapping[str, Any] = read_json(self.provenance_path)
        _refuse_another(self.folder, before, self.config, self.not_results, self.config_sha256, self.inputs)
        return before


def plan_run(
    folder: Path,
    *,
    config: Mapping[str, Any],  # Any: YAML
    seeds: Mapping[str, int],
    inputs: Mapping[str, Path],
    not_results: Collection[str] = NOT_RESULTS,
    provenance_name: str = PROVENANCE,
) -> RunPlan:
    """Look whether a config may run in a folder, and hash its inputs; writes nothing.

    ``config`` is the whole resolved config, ``inputs`` the files and folders that the run reads (each is hashed),
    ``not_results`` dotted keys that cannot change the result. ValueError when the folder belongs to another config or
    to other inputs, or when an input is not there.
    """
    plan = RunPlan(
        folder=folder,
        config=config,
        config_sha256=config_sha256(config, not_results),
        seeds=seeds,
        inputs={name: {"path": place.as_posix(), "sha256": sha256_path(place)} for name, place in inputs.items()},
        not_results=tuple(not_results),
        provenance_path=folder / provenance_name,
    )
    plan.finished()
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An open run folder. Every rank opens the run and comes to the same decision; only the main one writes."""

    folder: Path
    config_sha256: str
    is_main: bool
    provenance_path: Path
    provenance: Mapping[str, Any]  # Any: JSON
    started_seconds: float

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        config: Mapping[str, Any],  # Any: YAML
        seeds: Mapping[str, int],
        inputs: Mapping[str, Path],
        is_main: bool = True,
        device: str = "cpu",
        world_size: int = 1,
        not_results: Collection[str] = NOT_RESULTS,
        provenance_name: str = PROVENANCE,
    ) -> Run:
        """``plan_run`` and ``RunPlan.open`` in one, for a program that has nothing to check in between."""
        plan = plan_run(
            folder,
            config=config,
            seeds=seeds,
            inputs=inputs,
            not_results=not_results,
            provenance_name=provenance_name,
        )
        return plan.open(is_main=is_main, device=device, world_size=world_size)

    def finish(self) -> None:
        """Write when the run ended and how long it took; the seconds of sessions that were killed are not known."""
        seconds = round(time.monotonic() - self.started_seconds, 3)
        *earlier, this = self.provenance["sessions"]
        sessions = [*earlier, {**this, "wall_seconds": seconds}]
        wall_seconds = round(sum(session["wall_seconds"] or 0.0 for session in sessions), 3)
        done = {**self.provenance, "finished": _now(), "wall_seconds": wall_seconds, "sessions": sessions}
        if self.is_main:
            write_json_atomic(self.provenance_path, done)


def finished_before(
    folder: Path,
    *,
    config: Mapping[str, Any],  # Any: YAML
    inputs: Mapping[str, Path],
    not_results: Collection[str] = NOT_RESULTS,
    provenance_name: str = PROVENANCE,
) -> bool:
    """Whether an earlier call with the same config and inputs came to its end here: nothing is left to do.

    A program that returns then leaves the folder as it is, so that its hash as another run's input stays.
    """
    path = folder / provenance_name
    if not path.is_file():
        return False
    before = read_json(path)
    same_inputs = {name: entry["sha256"] for name, entry in before["inputs"].items()} == {
        name: sha256_path(place) for name, place in inputs.items()
    }
    same_config = before["config_sha256"] == config_sha256(config, not_results)
    return before["finished"] is not None and same_config and same_inputs


def config_sha256(config: Mapping[str, Any], not_results: Collection[str] = NOT_RESULTS) -> str:  # Any: YAML
    """sha256 of a plain config without the dotted keys that cannot change a result."""
    return sha256_json(_results(config, not_results))


def _results(config: Mapping[str, Any], not_results: Collection[str], prefix: str = "") -> dict[str, Any]:  # Any: YAML
    return {
        name: _results(value, not_results, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in config.items()
        if f"{prefix}{name}" not in not_results
    }


def _refuse_another(
    folder: Path,
    before: Mapping[str, Any],  # Any: JSON
    config: Mapping[str, Any],  # Any: YAML
    not_results: Collection[str],
    digest: str,
    input_hashes: Mapping[str, Mapping[str, str]],
) -> None:
    """Raise ValueError when the folder's provenance is of another config or of other inputs."""
    cure = "choose another run_name, or remove the folder to start again"
    if before["config_sha256"] != digest:
        old, new = (dict(leaves(_results(tree, not_results))) for tree in (before["config"], config))
        changed = [key for key in {**old, **new} if old.get(key, "absent") != new.get(key, "absent")]
        shown = [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in changed]
        if len(shown) > MAX_DIFFERENCES_SHOWN:
            shown = [*shown[:MAX_DIFFERENCES_SHOWN], f"and {len(shown) - MAX_DIFFERENCES_SHOWN} more"]
        raise ValueError(f"{folder} holds a run with another config ({'; '.join(shown)}); {cure}")
    for name, entry in input_hashes.items():
        known = before["inputs"].get(name)
        if known is None or known["sha256"] != entry["sha256"]:
            raise ValueError(f"{folder} holds a run with another {name} ({entry['path']} has changed since); {cure}")


def leaves(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of a nested config; an empty container is a value."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(node, list | tuple) and node:
        for index, value in enumerate(node):
            yield from leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, node


def check_place(
    folder: Path,
    *,
    needed_bytes: int,
    what: str = "checkpoints and adapter",
    cure: str = "lower train.keep_checkpoints",
) -> None:
    """Raise ValueError when a run folder cannot be written to, or its disk has less than this free; leaves nothing."""
    place = folder
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"run_folder {folder} cannot be written to ({place}: {error.strerror}); set run_folder to another place"
        ) from error
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise ValueError(
            f"run_folder {folder} needs about {needed_bytes / MEGABYTE:,.0f} MB for {what}, but its disk has "
            f"{free / MEGABYTE:,.0f} MB free: make room, set run_folder, or {cure}"
        )


def git_state() -> dict[str, str | bool | None]:
    """Commit and dirty flag of the checkout that the package runs from; None for an installed package."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if commit is None or status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    root = PACKAGE_FOLDER.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str | None]:
    """Versions of evenhand and of each package that it requires; None for one that is not installed."""
    try:
        requirements = metadata.requires("evenhand") or []
    except metadata.PackageNotFoundError:
        requirements = []
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    versions: dict[str, str | None] = {"evenhand": evenhand.__version__}
    for name in sorted(names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
