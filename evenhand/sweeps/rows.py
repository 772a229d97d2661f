"""The runs of a sweep as rows: what each one was set to, how it ended, what it reached and what it cost.

Everything is read from the run folders, so a table can be made at any time, of runs that any launcher started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evenhand.compose import SWEEP_FILE
from evenhand.files import read_json
from evenhand.jobs import FAILURE_FILE
from evenhand.processes import lock_holder
from evenhand.run import NOT_RESULTS, PROVENANCE, leaves
from evenhand.training.outcome import EVALUATION, RESULT_FILE

Status = Literal["finished", "crashed", "running", "stopped", "missing"]
TRAINING_KEYS = {"train", "lora", "method"}  # by which a training's folder is told from those of other programs
ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What the measurement of a run found: squared distances to the target, and the guards that failed.

    ``shift`` is adapted minus base with its interval; it falls where the adapter does what it is for.
    """

    suite: str
    attribute: str
    base: float | None
    adapted: float | None
    shift: float | None
    low: float | None
    high: float | None
    level: float
    n_prompts: int
    n_images: int
    verdict: str | None
    failed_guards: tuple[str, ...]
    num_guards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run. ``settings`` are the keys of its config that differ between the rows, ``error`` why it did not finish.

    ``wall_seconds`` add up its sessions but for those that were killed; ``peak_bytes`` is the main process's memory, or
    its accelerator's where it has one.
    """

    name: str
    status: Status
    error: str | None
    settings: Mapping[str, object]
    loss: float | None
    validation: float | None
    steps: int | None
    shift: Shift | None
    wall_seconds: float | None
    num_processes: int | None
    peak_bytes: int | None


def read_rows(folder: Path) -> list[Row]:
    """The runs in a sweep's folder, the best first."""
    planned = read_json(folder / SWEEP_FILE)["jobs"] if (folder / SWEEP_FILE).is_file() else {}
    found = {place.name: (place, config) for place in _children(folder) if (config := _config(place)) is not None}
    settings = _differing({name: config for name, (_, config) in found.items()})
    rows = [_row(place, settings[name]) for name, (place, _) in found.items()]
    columns = {key for row in rows for key in row.settings}
    rows += [_missing(name, overrides, columns) for name, overrides in planned.items() if name not in found]
    return sorted(rows, key=_rank)


def headings_of(rows: Sequence[Row]) -> dict[str, str]:
    """The keys of the rows' settings and what they are called: their last word, where no other one ends in it."""
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    last = [key.rpartition(".")[2] for key in keys]
    return {key: key if last.count(word) > 1 else word for key, word in zip(keys, last, strict=True)}


def value_text(value: object) -> str:
    """A value of a setting, short."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def unfinished(folder: Path, rows: Iterable[Row]) -> list[Row]:
    """The rows of the last sweep in this folder that did not finish."""
    plan = read_json(folder / SWEEP_FILE)
    return [row for row in rows if row.status != "finished" and _is_of(row, folder, plan)]


def _is_of(row: Row, folder: Path, plan: Mapping[str, Any]) -> bool:  # Any: JSON
    """A sweeper that chooses as it goes has no list of its jobs: there, the time of the failure tells."""
    if row.name in plan["last"]:
        return True
    failure = folder / row.name / FAILURE_FILE
    return failure.is_file() and read_json(failure)["when"] >= plan["started"]


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"runs={folder}: there is no such folder")
    return sorted(place for place in folder.iterdir() if place.is_dir())


def _config(place: Path) -> Mapping[str, Any] | None:  # Any: YAML
    """The config of a training's folder; None for a folder of anything else."""
    for name in (PROVENANCE, FAILURE_FILE):
        if (place / name).is_file():
            config: Mapping[str, Any] = read_json(place / name)["config"]
            return config if set(config) >= TRAINING_KEYS else None
    return None


def _differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, object]]:  # Any: YAML
    """Of each config, the dotted keys that can change a result and do not have one value in all of them."""
    told = {
        name: {key: value for key, value in leaves(config) if key.split(".")[0] not in NOT_RESULTS}
        for name, config in configs.items()
    }
    keys = list(dict.fromkeys(key for values in told.values() for key in values))
    differing = [key for key in keys if len({repr(values.get(key, ABSENT)) for values in told.values()}) > 1]
    return {name: {key: values.get(key, ABSENT) for key in differing} for name, values in told.items()}


def _row(place: Path, settings: Mapping[str, object]) -> Row:
    provenance = read_json(place / PROVENANCE) if (place / PROVENANCE).is_file() else None
    result = read_json(place / RESULT_FILE) if (place / RESULT_FILE).is_file() else {}
    status, error = _status(place, provenance)
    row = Row(
        name=place.name,
        status=status,
        error=error,
        settings=settings,
        loss=result.get("loss"),
        validation=result.get("validation"),
        steps=result.get("steps"),
        shift=None,
        wall_seconds=None if provenance is None else provenance["wall_seconds"],
        num_processes=None if provenance is None else provenance["world_size"],
        peak_bytes=result.get("peak_device_bytes") or result.get("peak_bytes"),
    )
    return replace(row, shift=_shift(read_json(place / EVALUATION))) if (place / EVALUATION).is_file() else row


def _status(place: Path, provenance: Mapping[str, Any] | None) -> tuple[Status, str | None]:  # Any: JSON
    holder = lock_holder(place)
    if holder is not None:
        return "running", f"by {holder}"
    if (place / FAILURE_FILE).is_file():
        return "crashed", read_json(place / FAILURE_FILE)["error"]
    if provenance is not None and provenance["finished"] is not None:
        return "finished", None
    return "stopped", "ended before its last step without a word: the same command goes on"


def _missing(name: str, overrides: Sequence[str], columns: Iterable[str]) -> Row:
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    return Row(
        name=name,
        status="missing",
        error="never began: the same command starts it",
        settings={key: given.get(key, "") for key in columns},
        loss=None,
        validation=None,
        steps=None,
        shift=None,
        wall_seconds=None,
        num_processes=None,
        peak_bytes=None,
    )


def _shift(results: Mapping[str, Any]) -> Shift:  # Any: JSON
    primary = results["primary"]
    wanted = {"name": "distance_sq", "concept": None, **primary}
    found = {row["arm"]: row for row in results["estimates"] if all(row[key] == wanted[key] for key in wanted)}
    verdicts = [
        verdict["verdict"]
        for verdict in results["verdicts"]
        if verdict.get("arm", "shift") == "shift" and all(verdict[key] == primary[key] for key in primary)
    ]
    shift = found.get("shift", {})
    return Shift(
        suite=primary["suite"],
        attribute=primary["attribute"],
        base=found.get("base", {}).get("value"),
        adapted=found.get("adapted", {}).get("value"),
        shift=shift.get("value"),
        low=shift.get("low"),
        high=shift.get("high"),
        level=shift.get("level", 0.95),
        n_prompts=shift.get("n_prompts", 0),
        n_images=shift.get("n_images", 0),
        verdict=verdicts[0] if verdicts else None,
        failed_guards=tuple(f"{each['name']} ({each['suite']})" for each in results["guards"] if not each["passed"]),
        num_guards=len(results["guards"]),
    )


def _rank(row: Row) -> tuple[bool, float, float, float, str]:
    """Finished runs first; the nearest to the target, then the highest validation score, then the lowest loss."""
    far = float("inf")
    distance = far if row.shift is None or row.shift.adapted is None else row.shift.adapted
    score = far if row.validation is None else -row.validation
    return row.status != "finished", distance, score, far if row.loss is None else row.loss, row.name
