"""Trackers record what they are given, and none of them can stop a run once it has begun."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from evenhand.construct import build
from evenhand.files import read_jsonl
from evenhand.interfaces import Tracker
from evenhand.trackers import (
    JsonlOnly,
    JsonlTracker,
    TensorBoard,
    TrackerChoice,
    Trackers,
    WeightsAndBiases,
    open_tracker,
)

CONFIG = {"seed": 0, "train": {"steps": 3, "betas": [0.9, 0.99]}, "note": None}


class Recorder:
    """A tracker that keeps what it gets, and fails from a step on."""

    def __init__(self, *, fails_from: int | None = None) -> None:
        self.steps: list[int] = []
        self.fails_from = fails_from

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if self.fails_from is not None and step >= self.fails_from:
            raise ConnectionError("the server is gone")
        self.steps.append(step)

    def close(self) -> None:
        if self.fails_from is not None:
            raise ConnectionError("the server is still gone")


class Choice:
    """A choice that opens a given tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def open(self, folder: Path, *, config: Mapping[str, object], after_step: int) -> Tracker:
        return self.tracker


def test_each_step_is_a_line(tmp_path: Path) -> None:
    tracker = open_tracker(JsonlOnly(), tmp_path, config=CONFIG)
    tracker.log({"loss": 0.5, "lr": 1e-3}, step=1)
    tracker.log({"loss": 0.25}, step=2)
    tracker.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "lr": 1e-3},
        {"step": 2, "loss": 0.25},
    ]


def test_a_number_that_json_lacks_is_written_in_words(tmp_path: Path) -> None:
    JsonlTracker(tmp_path / "m.jsonl").log({"loss": math.nan, "norm": math.inf}, step=1)
    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1, "loss": "nan", "norm": "inf"}]


@pytest.mark.parametrize("after_step", [0, 3, 5, 9])
def test_a_resumed_run_leaves_no_step_twice(tmp_path: Path, after_step: int) -> None:
    """A session is killed at step 5; the next one goes on after its checkpoint and ends with each step once."""
    first = open_tracker(JsonlOnly(), tmp_path, config=CONFIG)
    for step in range(1, 6):
        first.log({"loss": 1.0}, step=step)
    second = open_tracker(JsonlOnly(), tmp_path, config=CONFIG, after_step=after_step)
    for step in range(min(after_step, 5) + 1, 9):
        second.log({"loss": 2.0}, step=step)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["loss"] for row in rows] == [1.0] * min(after_step, 5) + [2.0] * (8 - min(after_step, 5))


def test_other_ranks_record_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    tracker = open_tracker(Choice(recorder), tmp_path, config=CONFIG, is_main=False)
    tracker.log({"loss": 1.0}, step=1)
    tracker.close()
    assert recorder.steps == []
    assert list(tmp_path.iterdir()) == []


def test_a_failing_tracker_is_one_warning_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Recorder(fails_from=2), Recorder()
    tracker = Trackers([broken, JsonlTracker(tmp_path / "m.jsonl"), sound])
    with caplog.at_level(logging.WARNING):
        for step in range(1, 5):
            tracker.log({"loss": 1.0}, step=step)
        tracker.close()
    assert broken.steps == [1]
    assert sound.steps == [1, 2, 3, 4]
    assert [row["step"] for row in read_jsonl(tmp_path / "m.jsonl")] == [1, 2, 3, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "Recorder failed and may miss metrics from here on: the server is gone"
    ]


@pytest.mark.parametrize(
    ("choice", "package"),
    [(TensorBoard(), "tensorboard"), (WeightsAndBiases(project="p", mode="offline"), "wandb")],
)
def test_a_missing_package_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: TrackerChoice, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ValueError, match=rf"pip install 'evenhand\[{package}\]', or choose tracker=jsonl"):
        open_tracker(choice, tmp_path, config=CONFIG)


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    """With TensorBoard's own reader; what the killed session logged after the checkpoint is hidden."""
    for after_step, value in ((0, 1.0), (2, 2.0)):
        tracker = open_tracker(TensorBoard(), tmp_path, config=CONFIG, after_step=after_step)
        for step in range(after_step + 1, 5):
            tracker.log({"loss": value}, step=step)
        tracker.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {event.step: event.value for event in events.Scalars("loss")} == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}


def test_wandb_runs_offline_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    choice = build({"_target_": "evenhand.trackers.WeightsAndBiases", "project": "p", "mode": "offline", "name": None})
    tracker = open_tracker(choice, tmp_path, config=CONFIG)
    tracker.log({"loss": 0.5}, step=1)
    tracker.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1]
    written = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(written) == 1
    deadline = time.monotonic() + 60  # wandb's own process writes the file, shortly after the run has ended
    while b"loss" not in written[0].read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"loss" in written[0].read_bytes()


def test_wandb_online_without_a_key_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match="needs a key: run `wandb login`, or set tracker.mode=offline"):
        open_tracker(WeightsAndBiases(project="p", mode="online"), tmp_path, config=CONFIG)


def test_an_unknown_mode_is_refused_with_the_choices() -> None:
    node = {"_target_": "evenhand.trackers.WeightsAndBiases", "project": "p", "mode": "disabled", "name": None}
    with pytest.raises(ValueError, match="tracker.mode must be one of offline, online, got 'disabled'"):
        build(node, key="tracker")
