"""Checkpoints that survive a kill at any moment, without pickle.

A checkpoint is a folder ``step-00000100`` with ``adapter.safetensors``, ``optimizer.safetensors`` and ``state.json``.
It is written under a temporary name, synced and renamed, and only then are older ones removed: a folder with its final
name is whole. Data order and noise are functions of the step, so there is no other state.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.files import read_json, write_json_atomic

if TYPE_CHECKING:
    import torch

STEP_FOLDER = re.compile(r"step-(\d{8})")
ADAPTER_FILE = "adapter.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state after ``step`` optimizer steps. ``sums`` are the metrics added up since the last log line."""

    step: int
    config_sha256: str
    loss: float | None
    sums: Mapping[str, float]
    sums_steps: int
    adapter: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]  # Any: an optimizer's own state
    scaler: Mapping[str, Any]  # Any: a gradient scaler's own state, empty without one


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint under ``folder`` and remove all but the last ``keep``; gives its path."""
    from safetensors.torch import save_file

    final = folder / f"step-{checkpoint.step:08d}"
    if final.is_dir():
        return final
    temporary = folder / f".writing-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, rest = _flatten(checkpoint.optimizer)
    save_file({name: value.contiguous() for name, value in checkpoint.adapter.items()}, temporary / ADAPTER_FILE)
    save_file(tensors, temporary / OPTIMIZER_FILE)
    state = {
        "step": checkpoint.step,
        "config_sha256": checkpoint.config_sha256,
        "loss": checkpoint.loss,
        "sums": dict(checkpoint.sums),
        "sums_steps": checkpoint.sums_steps,
        "optimizer": rest,
        "scaler": dict(checkpoint.scaler),
    }
    write_json_atomic(temporary / STATE_FILE, state)
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    temporary.rename(final)
    _sync(folder)
    for old in _folders(folder)[:-keep]:
        _remove(old)
    return final


def latest_checkpoint(folder: Path, *, config_sha256: str) -> Checkpoint | None:
    """The last whole checkpoint, or None; ValueError for one of another config."""
    from safetensors.torch import load_file

    folders = _folders(folder)
    if not folders:
        return None
    last = folders[-1]
    state = read_json(last / STATE_FILE)
    if state["config_sha256"] != config_sha256:
        raise ValueError(f"{last} was written by another config: choose another run_name, or remove the folder")
    return Checkpoint(
        step=state["step"],
        config_sha256=state["config_sha256"],
        loss=state["loss"],
        sums=state["sums"],
        sums_steps=state["sums_steps"],
        adapter=load_file(last / ADAPTER_FILE),
        optimizer=_unflatten(load_file(last / OPTIMIZER_FILE), state["optimizer"]),
        scaler=state["scaler"],
    )


def _folders(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name))


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill in between leaves no half of it under its name."""
    doomed = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flatten(
    state_dict: Mapping[str, Any],  # Any: an optimizer's own state
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:  # Any: JSON
    """An optimizer's state as named tensors, and what is not a tensor as JSON."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}  # Any: JSON
    for index, entries in state_dict["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value.detach().cpu().contiguous()
            else:
                scalars[f"{index}/{name}"] = value
    return tensors, {"scalars": scalars, "param_groups": state_dict["param_groups"]}


def _unflatten(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:  # Any: as _flatten
    state: dict[int, dict[str, Any]] = {}  # Any: an optimizer's own state
    for key, value in (*tensors.items(), *rest["scalars"].items()):
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": rest["param_groups"]}
