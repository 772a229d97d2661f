"""Trackers: metrics.jsonl always, TensorBoard or Weights & Biases beside it by choice. None of them stops a run."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from evenhand.files import append_jsonl, read_jsonl, write_jsonl_atomic
from evenhand.interfaces import Tracker

if TYPE_CHECKING:
    import wandb
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
WANDB_INIT_SECONDS = 30


class TrackerChoice(Protocol):
    """What conf/tracker names; ``open`` gives the working tracker, or None where metrics.jsonl is all."""

    def open(self, folder: Path, *, config: Mapping[str, Any], after_step: int) -> Tracker | None:  # Any: YAML
        """Start tracking into the run folder; ValueError when the choice cannot work."""


def open_tracker(
    choice: TrackerChoice,
    folder: Path,
    *,
    config: Mapping[str, Any],  # Any: YAML
    after_step: int = 0,
    is_main: bool = True,
) -> Tracker:
    """The tracker of a run: metrics.jsonl and the choice; on other ranks than the main one, one that does nothing.

    A resumed run gives the step that it continues after, and what a killed session logged later than that is dropped.
    Call it before training: a choice that cannot work (a missing package, no key) is a ValueError here and never later.
    """
    if not is_main:
        return Trackers([])
    chosen = choice.open(folder, config=config, after_step=after_step)
    always = JsonlTracker(folder / METRICS, after_step=after_step)
    return Trackers([always] if chosen is None else [always, chosen])


class Trackers:
    """Several trackers as one; a failure inside one of them is a warning, once, and the run goes on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)
        self._failed: set[int] = set()

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics in each tracker."""
        for index, tracker in enumerate(self._trackers):
            try:
                tracker.log(metrics, step=step)
            except Exception as error:  # whatever a tracker's library raises must not end hours of training
                self._warn(index, tracker, error)

    def close(self) -> None:
        """Close each tracker."""
        for index, tracker in enumerate(self._trackers):
            try:
                tracker.close()
            except Exception as error:  # as above: the adapter is still to be saved
                self._warn(index, tracker, error)

    def _warn(self, index: int, tracker: Tracker, error: Exception) -> None:
        if index not in self._failed:
            self._failed.add(index)
            log.warning("%s failed and may miss metrics from here on: %s", type(tracker).__name__, error)


class JsonlTracker:
    """One line a step: ``{"step": 10, "loss": 0.1}``; a number that JSON lacks is written as ``"nan"`` or ``"inf"``.

    What a resumed run says again of the step that it continues after, word for word, is not written twice.
    """

    def __init__(self, path: Path, *, after_step: int = 0) -> None:
        self._path = path
        rows = read_jsonl(path)
        kept = [row for row in rows if row["step"] <= after_step]
        if len(kept) < len(rows):
            write_jsonl_atomic(path, kept)
        self._told = [row for row in kept if row["step"] == after_step]

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append a line."""
        numbers = {name: float(value) for name, value in metrics.items()}
        finite = {name: number if math.isfinite(number) else str(number) for name, number in numbers.items()}
        row = {"step": step, **finite}
        if row not in self._told:
            append_jsonl(self._path, [row])

    def close(self) -> None:
        """Nothing to do: each line is on disk already."""


class JsonlOnly:
    """No tracker beside metrics.jsonl."""

    def open(self, folder: Path, *, config: Mapping[str, Any], after_step: int) -> None:  # Any: YAML
        """Nothing to start."""


class TensorBoard:
    """TensorBoard event files in ``<run folder>/tensorboard``."""

    def open(self, folder: Path, *, config: Mapping[str, Any], after_step: int) -> Tracker:  # Any: YAML
        """Start a writer that hides what a killed session logged after ``after_step``."""
        _need("tensorboard", "tensorboard")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TensorBoard's own imports, which a user cannot cure
            from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)
        writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in sorted(config.items())))
        return _TensorBoardTracker(writer)


class _TensorBoardTracker:
    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run in ``<run folder>/wandb``, offline unless ``mode`` is online; offline needs no account.

    Online is tried once, before training: after a failed attempt the same process could not log offline either.
    """

    def __init__(self, *, project: str, mode: Literal["offline", "online"], name: str | None = None) -> None:
        self.project = project
        self.mode = mode
        self.name = name

    def open(self, folder: Path, *, config: Mapping[str, Any], after_step: int) -> Tracker:  # Any: YAML
        """Start the run; ValueError without the package, and online without a key or a connection."""
        _need("wandb", "wandb")
        import wandb

        if self.mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            raise ValueError("tracker.mode=online needs a key: run `wandb login`, or set tracker.mode=offline")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run = wandb.init(
                project=self.project,
                name=self.name or folder.name,
                dir=str(folder),
                mode=self.mode,
                config=dict(config),
                settings=wandb.Settings(init_timeout=WANDB_INIT_SECONDS, silent=True),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"wandb could not start {self.mode}: {error}; tracker.mode=offline needs no network"
            ) from error
        return _WandbTracker(run)


class _WandbTracker:
    def __init__(self, run: wandb.Run) -> None:
        self._run = run

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._run.log({name: float(value) for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def _need(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"tracker needs the package {module}: pip install 'evenhand[{extra}]', or choose tracker=jsonl"
        )
