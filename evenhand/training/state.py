"""Checkpoints that survive a kill at any moment, without pickle, and are verified when they are read.

A checkpoint is a folder ``step-00000100`` with ``adapter.safetensors``, ``optimizer.safetensors``, with an average also
``ema.safetensors``, and ``state.json``, which holds the sha256 of each and of itself. It is written under a temporary
name, synced and renamed, and only then are older ones removed: a folder with its final name is whole. Data order and
noise are functions of the step, so there is no other state.

Only the main process writes. All processes hold the same adapter and the same optimizer state, so further copies would
say nothing new; that every process writes pays where each holds a part of the state, as sharded training does. Every
process reads, from a file system that all machines see.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.files import atomic_path, read_json, sha256_file, sha256_json, write_json_atomic
from evenhand.training.flat import flatten, unflatten

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
STEP_FOLDER = re.compile(r"step-(\d{8})")
ADAPTER_FILE = "adapter.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
EMA_FILE = "ema.safetensors"
STATE_FILE = "state.json"
BEST_FOLDER = "best"
WRITING = ".writing-"
REMOVING = ".removing-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state after ``step`` optimizer steps. ``sums`` are the metrics added up since the last log line.

    ``validated_step`` is the last step whose validation has been run. ``ema`` is empty without an average, and
    ``calibration`` without one.
    """

    step: int
    config_sha256: str
    loss: float | None
    sums: Mapping[str, float]
    sums_steps: int
    validated_step: int
    adapter: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]  # Any: an optimizer's own state
    scaler: Mapping[str, Any]  # Any: a gradient scaler's own state, empty without one
    ema: Mapping[str, torch.Tensor]
    ema_updates: int
    calibration: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The weights that a validation scored highest, and at which step."""

    step: int
    score: float
    adapter: Mapping[str, torch.Tensor]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint under ``folder`` and remove all but the last ``keep``; gives its path.

    Checkpoints of later steps were found damaged, else training would have gone on from them: they are removed too.
    """
    final = _folder_of(folder, checkpoint.step)
    temporary = folder / f"{WRITING}{final.name}"
    try:
        for left in (*folder.glob(f"{WRITING}*"), *folder.glob(f"{REMOVING}*")):  # by a kill
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
        _write(temporary, checkpoint)
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(
            f"cannot write checkpoint {final} ({error.strerror or error}): make room for it, then the same command "
            "goes on from the one before"
        ) from error
    if final.is_dir():
        _remove(final)
    temporary.rename(final)
    _sync(folder)
    others = [path for path in _folders(folder) if path != final]
    earlier = [path for path in others if path.name < final.name]
    kept = earlier[max(0, len(earlier) - (keep - 1)) :]
    for path in others:
        if path not in kept:
            _remove(path)
    return final


def note_validated(folder: Path, step: int) -> None:
    """Write into the checkpoint of a step, if there is one under ``folder``, that its validation has been run."""
    path = _folder_of(folder, step) / STATE_FILE
    if path.is_file():
        state = {**_verified_state(path.parent), "validated_step": step}
        write_json_atomic(path, {**state, "sha256": sha256_json(state)})
        _sync(path.parent)


def _folder_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save_file

    tensors, rest = flatten(checkpoint.optimizer)
    save_file({name: value.contiguous() for name, value in checkpoint.adapter.items()}, folder / ADAPTER_FILE)
    save_file(tensors, folder / OPTIMIZER_FILE)
    if checkpoint.ema:
        save_file({name: value.contiguous() for name, value in checkpoint.ema.items()}, folder / EMA_FILE)
    state = {
        "step": checkpoint.step,
        "config_sha256": checkpoint.config_sha256,
        "loss": checkpoint.loss,
        "sums": dict(checkpoint.sums),
        "sums_steps": checkpoint.sums_steps,
        "validated_step": checkpoint.validated_step,
        "optimizer": rest,
        "scaler": dict(checkpoint.scaler),
        "ema_updates": checkpoint.ema_updates,
        "calibration": dict(checkpoint.calibration),
        "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
    }
    write_json_atomic(folder / STATE_FILE, {**state, "sha256": sha256_json(state)})


def latest_checkpoint(folder: Path, *, config_sha256: str) -> Checkpoint | None:
    """The last checkpoint that is undamaged, or None where there is none yet.

    A damaged one is named in a warning and the one before it taken. ValueError when all are damaged, and for one that
    another config wrote.
    """
    folders = _folders(folder)
    for path in reversed(folders):
        try:
            state = _verified_state(path)
        except ValueError as error:
            log.warning("checkpoint %s is damaged (%s): the one before it is taken", path, error)
            continue
        if state["config_sha256"] != config_sha256:
            raise ValueError(f"{path} was written by another config: choose another run_name, or remove the folder")
        return _read(path, state)
    if folders:
        raise ValueError(f"all {len(folders)} checkpoints in {folder} are damaged: remove the folder to start again")
    return None


def _verified_state(folder: Path) -> dict[str, Any]:  # Any: JSON
    """What state.json holds, once it and the files that it names were found to be as they were written."""
    state = read_json(folder / STATE_FILE)
    digest = state.pop("sha256", None) if isinstance(state, dict) else None
    if digest is None or digest != sha256_json(state):
        raise ValueError(f"{STATE_FILE} is not as it was written")
    for name, wanted in state["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if sha256_file(folder / name) != wanted:
            raise ValueError(f"{name} is not as it was written")
    return dict(state)


def _read(folder: Path, state: Mapping[str, Any]) -> Checkpoint:  # Any: JSON
    from safetensors.torch import load_file

    return Checkpoint(
        step=state["step"],
        config_sha256=state["config_sha256"],
        loss=state["loss"],
        sums=state["sums"],
        sums_steps=state["sums_steps"],
        validated_step=state["validated_step"],
        adapter=load_file(folder / ADAPTER_FILE),
        optimizer=unflatten(load_file(folder / OPTIMIZER_FILE), state["optimizer"]),
        scaler=state["scaler"],
        ema=load_file(folder / EMA_FILE) if EMA_FILE in state["files"] else {},
        ema_updates=state["ema_updates"],
        calibration=state["calibration"],
    )


def save_best(folder: Path, best: Best, *, config_sha256: str) -> Path:
    """Write ``best/adapter.safetensors`` under ``folder`` in place of the one before; gives its path."""
    from safetensors.torch import save_file

    path = folder / BEST_FOLDER / ADAPTER_FILE
    facts = {"step": str(best.step), "score": repr(best.score), "config_sha256": config_sha256}
    with atomic_path(path) as temporary:
        save_file(
            {name: value.contiguous() for name, value in best.adapter.items()},
            temporary,
            metadata={**facts, "sha256": _digest(best.adapter)},
        )
    return path


def load_best(folder: Path, *, config_sha256: str) -> Best | None:
    """The best weights so far, or None; ValueError where they are damaged or another config's."""
    from safetensors import SafetensorError, safe_open

    path = folder / BEST_FOLDER / ADAPTER_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            facts = opened.metadata() or {}
            adapter = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it has no __iter__
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and the best of what follows is kept") from error
    if facts.get("sha256") != _digest(adapter):
        raise ValueError(f"{path} is damaged: remove it, and the best of what follows is kept")
    if facts["config_sha256"] != config_sha256:
        raise ValueError(f"{path} was written by another config: choose another run_name, or remove the folder")
    return Best(step=int(facts["step"]), score=float(facts["score"]), adapter=adapter)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _folders(folder: Path) -> list[Path]:
    """Checkpoints by step; each was whole when it got its name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name))


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill in between leaves no half of it under its name."""
    doomed = folder.with_name(f"{REMOVING}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
