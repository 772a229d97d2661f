"""Validation inside the loop: when it runs, on which weights, and which weights are kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

import pytest
import torch

from evenhand.adapters.lora import Adapter
from evenhand.training.state import CHECKPOINTS, Best, latest_checkpoint, load_best, save_best
from tests.tiny_training import CONFIG, Remember, Stage, equal


class Scores:
    """A validation with planted scores, which notes what weights it saw."""

    def __init__(self, every_steps: int, scores: Mapping[int, float | None], then: Callable[[int], None] | None = None):
        self.every_steps = every_steps
        self.scores = scores
        self.then = then
        self.base_score: float | None = None
        self.adapter: Adapter | None = None
        self.seen: dict[int, dict[str, torch.Tensor]] = {}

    def run(self, step: int) -> float | None:
        assert self.adapter is not None
        if self.then is not None:
            self.then(step)
        self.seen[step] = self.adapter.tensors()
        return self.scores[step]


PLANTED = {2: 0.1, 4: 0.7, 6: 0.4, 7: 0.7}


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    def make(validation: Scores | None = None, **changes) -> Stage:
        changes = {"steps": 7, **changes}
        made = Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", validation=validation, **changes)
        if validation is not None:
            validation.adapter = made.adapter
        return made

    return make


def holds(adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, tensors[name]) for name, value in adapter.tensors().items())


def test_it_runs_every_so_many_steps_and_at_the_end_and_changes_nothing(stage, tmp_path) -> None:
    plain, watched = stage(), stage(Scores(2, PLANTED))
    first, second = Remember(), Remember()
    result = plain.run(tmp_path / "plain", first)
    assert watched.run(tmp_path / "watched", second) == result
    assert list(watched.validation.seen) == [2, 4, 6, 7]
    assert second.lines == first.lines
    assert equal(plain.adapter, watched.adapter)


def test_the_best_weights_are_kept_and_of_equal_ones_the_first(stage, tmp_path) -> None:
    one = stage(Scores(2, PLANTED), keep="best")
    result = one.run(tmp_path)
    assert (result.step, result.kept_step) == (7, 4)
    assert holds(one.adapter, one.validation.seen[4])
    assert not holds(one.adapter, one.validation.seen[7])
    again = stage(Scores(2, {}), keep="best")
    assert again.run(tmp_path, resume=True) == result
    assert holds(again.adapter, one.validation.seen[4])


def test_the_last_weights_are_kept_where_that_is_wanted(stage, tmp_path) -> None:
    one = stage(Scores(2, PLANTED))
    assert one.run(tmp_path).kept_step == 7
    assert holds(one.adapter, one.validation.seen[7])
    best = load_best(tmp_path / CHECKPOINTS, config_sha256=CONFIG)
    assert best is not None
    assert (best.step, best.score) == (4, 0.7)


def test_the_average_is_what_is_validated_and_kept(stage, tmp_path) -> None:
    plain = stage(Scores(2, PLANTED))
    plain.run(tmp_path / "plain")
    averaged = stage(Scores(2, PLANTED), keep="best", ema_decay=0.9)
    averaged.run(tmp_path / "averaged")
    assert holds(averaged.adapter, averaged.validation.seen[4])
    assert not holds(averaged.adapter, plain.validation.seen[4])


@pytest.mark.parametrize("killed_at", [2, 4, 6, 7])
def test_killed_in_a_validation_it_ends_with_the_same_weights(stage, tmp_path, killed_at) -> None:
    def kill(step: int) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    straight = stage(Scores(2, PLANTED), keep="best")
    straight.run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        stage(Scores(2, PLANTED, then=kill), keep="best").run(tmp_path / "broken")
    resumed = stage(Scores(2, PLANTED), keep="best")
    assert resumed.run(tmp_path / "broken", resume=True).kept_step == 4
    assert equal(straight.adapter, resumed.adapter)


def test_a_stop_before_a_validation_leaves_it_to_the_next_session(stage, tmp_path) -> None:
    def stop(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    broken = stage(Scores(2, PLANTED), keep="best", log_every_steps=1)
    first = broken.run(tmp_path, Remember(then=stop))
    assert (first.step, first.kept_step, list(broken.validation.seen)) == (4, 4, [2])
    resumed = stage(Scores(2, PLANTED), keep="best", log_every_steps=1)
    assert resumed.run(tmp_path, resume=True).kept_step == 4
    assert list(resumed.validation.seen) == [4, 6, 7]


@pytest.mark.parametrize("score", [None, float("nan")])
def test_without_any_score_the_last_weights_are_kept_with_a_warning(stage, tmp_path, caplog, score) -> None:
    one = stage(Scores(2, dict.fromkeys(PLANTED, score)), keep="best")
    assert one.run(tmp_path).kept_step == 7
    assert "no validation gave a score" in caplog.text


def test_a_damaged_best_is_refused_by_name(tmp_path) -> None:
    weights = {"a": torch.arange(6.0)}
    path = save_best(tmp_path, Best(step=3, score=0.1, adapter=weights), config_sha256=CONFIG)
    back = load_best(tmp_path, config_sha256=CONFIG)
    assert back is not None
    assert (back.step, back.score) == (3, 0.1)
    assert torch.equal(back.adapter["a"], weights["a"])
    with pytest.raises(ValueError, match="another config"):
        load_best(tmp_path, config_sha256="d" * 64)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match="best/adapter.safetensors is damaged"):
        load_best(tmp_path, config_sha256=CONFIG)
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="best/adapter.safetensors is damaged"):
        load_best(tmp_path, config_sha256=CONFIG)


class Killed(BaseException):
    """What ends a process in the middle of a validation; nothing catches it."""


def test_a_checkpoint_that_is_due_is_there_before_the_validation_of_its_step(stage, tmp_path) -> None:
    """A job that is killed in a long validation goes on from that very step, and is validated there."""

    def kill(step: int) -> None:
        checkpoint = latest_checkpoint(tmp_path / CHECKPOINTS, config_sha256=CONFIG)
        assert checkpoint is not None
        assert (checkpoint.step, checkpoint.validated_step) == (step, 0)
        raise Killed

    scores = {3: 0.5, 6: 0.7, 7: 0.6}
    broken = stage(Scores(3, scores, then=kill), keep="best")
    with pytest.raises(Killed):
        broken.run(tmp_path)
    resumed, heard = stage(Scores(3, scores), keep="best"), Remember()
    assert resumed.run(tmp_path, heard, resume=True).kept_step == 6
    assert list(resumed.validation.seen) == [3, 6, 7]
    assert min(heard.lines) == 4  # no step was taken twice
    straight = stage(Scores(3, scores), keep="best")
    straight.run(tmp_path / "straight")
    assert equal(straight.adapter, resumed.adapter)


def test_a_step_that_was_validated_is_not_validated_again(stage, tmp_path) -> None:
    def kill(step: int) -> None:
        if step == 4:
            raise Killed

    scores = {3: 0.5, 6: 0.7, 7: 0.6}
    broken = stage(Scores(3, scores), log_every_steps=1)
    with pytest.raises(Killed):
        broken.run(tmp_path, Remember(then=kill))
    resumed = stage(Scores(3, scores), log_every_steps=1)
    resumed.run(tmp_path, resume=True)
    assert (list(broken.validation.seen), list(resumed.validation.seen)) == ([3], [6, 7])


@pytest.mark.parametrize(
    ("base_score", "says"),
    [(0.8, True), (0.7, False), (0.2, False), (None, False)],
    ids=["above all", "equal to the best", "below", "unknown"],
)
def test_scores_that_stay_below_the_bases_own_are_told_once_from_the_middle_on(
    stage, tmp_path, caplog, base_score, says
) -> None:
    told: list[int] = []

    def listen(step: int) -> None:
        told.append(caplog.text.count("scored as high as the base alone"))

    one = stage(Scores(2, PLANTED, then=listen))
    one.validation.base_score = base_score
    one.run(tmp_path)
    assert caplog.text.count("scored as high as the base alone") == says
    # at the beginning of validations 2, 4, 6, 7: it was said after the one of step 4, the first in the second half
    assert told == [0, 0, int(says), int(says)]
    assert ("best 0.7, base 0.8" in caplog.text) == says
