"""Validation inside the loop: when it is due, on which weights, and which of them were the best."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Literal, Protocol

from evenhand.adapters.lora import Adapter
from evenhand.training.learner import Learner
from evenhand.training.progress import Progress
from evenhand.training.state import Best, load_best, note_validated, save_best

log = logging.getLogger(__name__)


class Validation(Protocol):
    """Looks at the adapter after every ``every_steps`` steps, and at the end.

    ``base_score`` is the score of the base without the adapter; the main process knows it after a run, if at all.
    """

    every_steps: int
    base_score: float | None

    def run(self, step: int) -> float | None:
        """Validate the active adapter; its declared score, higher is better, or None where it could not be told.

        All processes call it at the same step, so it may use collectives. It leaves no trace in the training.
        """


class Chooser:
    """Runs a validation, if there is one, when it is due, and keeps the weights with the highest score on disk."""

    def __init__(
        self, validation: Validation | None, folder: Path, *, steps: int, config_sha256: str, is_main: bool
    ) -> None:
        self._validation = validation
        self._folder = folder
        self._steps = steps
        self._config_sha256 = config_sha256
        self._is_main = is_main
        self._warned = False

    def is_due(self, progress: Progress) -> bool:
        """Whether this step has a validation that was not run yet."""
        if self._validation is None or progress.validated_step == progress.step:
            return False
        return progress.step == self._steps or progress.step % self._validation.every_steps == 0

    def validate(self, learner: Learner, progress: Progress) -> None:
        """Validate the weights that would be saved, and note them if they are the best: every process calls it.

        What is best is told by the file alone: a resumed training comes to the same scores at the same steps, and the
        first of equal ones stays.
        """
        assert self._validation is not None, "no validation is due without one"
        with learner.result() as adapter:
            score = self._validation.run(progress.step)
            if self._is_main:
                self._note(progress.step, score, adapter)
        progress.validated_step = progress.step

    def _note(self, step: int, score: float | None, adapter: Adapter) -> None:
        """Keep the weights if they are the best, and write into their checkpoint that they were validated."""
        best = load_best(self._folder, config_sha256=self._config_sha256)
        if score is not None and math.isfinite(score) and (best is None or score > best.score):
            best = Best(step=step, score=score, adapter=adapter.tensors())
            save_best(self._folder, best, config_sha256=self._config_sha256)
        note_validated(self._folder, step)
        if best is not None:
            self._warn_below_base(step, best.score)

    def _warn_below_base(self, step: int, best: float) -> None:
        """Say once, from the middle of the training on, that no weights so far were better than none."""
        base = None if self._validation is None else self._validation.base_score
        if base is None or best >= base or self._warned or 2 * step < self._steps:
            return
        self._warned = True
        log.warning(
            "no validation up to step %d scored as high as the base alone (best %.4g, base %.4g): look at validation/; "
            "lower optim.learning_rate, or see that validation.target and the curated set mean the same",
            step, best, base,
        )  # fmt: skip

    def keep(self, learner: Learner, progress: Progress, which: Literal["last", "best"]) -> int:
        """Put the weights on the adapter that are to be kept; gives the step that they are of."""
        if which == "best":
            best = load_best(self._folder, config_sha256=self._config_sha256)
            if best is not None:
                log.info("keeping the adapter of step %d, whose validation scored %.4g", best.step, best.score)
                learner.adapter.set_tensors(best.adapter)
                return best.step
            log.warning("no validation gave a score, so the last weights are kept: look at the validation's log")
        if learner.ema is not None:
            learner.adapter.set_tensors(learner.ema.average)
        return progress.step
