"""Validation while training, as a choice: only images to look at, or images that are read and scored.

What a validation does and writes: ``evenhand.training.loaded_validation``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evenhand.evaluation.suites import PlannedPrompt, Suites
from evenhand.interfaces import LoadedBase, Reader, Tracker
from evenhand.records import Attribute, Prompt, Target
from evenhand.training.loaded_validation import Judge, LoadedValidation, Weights
from evenhand.training.validation_prompts import PlannedImages, num_seen, refuse_evaluation_prompts
from evenhand.training.validation_scores import Score, wanted

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

FOLDER = "validation"
NEUTRAL_SUITES = ("train", "heldout", "offtemplate", "groups", "scene")
STATING_SUITES = ("explicit", "fixed")


class TargetChoice(Protocol):
    """What conf/target names."""

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of an attribute."""


def no_validation() -> None:
    """Training without validation."""


class ImageGrids:
    """Only images, for a person to look at; no score. ``prompts`` are texts, each with ``num_seeds`` images."""

    needs_encoders = True
    scores = False

    def __init__(
        self,
        *,
        every_steps: int,
        prompts: Sequence[str],
        num_seeds: int,
        evaluation_suites: Sequence[str],
        steps: int,
        guidance: float,
        size_px: int | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.every_steps = _at_least_one("every_steps", every_steps)
        _at_least_one("num_seeds", num_seeds)
        self.evaluation_suites = tuple(evaluation_suites)
        rows = [
            Prompt(id=f"{number:02d}", text=text, concept=text, suite="train") for number, text in enumerate(prompts)
        ]
        self.images = PlannedImages(
            prompts=tuple(PlannedPrompt(prompt=row, num_seeds=num_seeds) for row in rows),
            steps=steps,
            guidance=guidance,
            size_px=size_px,
            batch_size=batch_size,
            seed=seed,
        )

    def check(self, captions: Collection[str]) -> None:
        """ValueError when a prompt is kept for the evaluation; captions of the training may be looked at."""
        prompts = [entry.prompt for entry in self.images.prompts]
        refuse_evaluation_prompts(prompts, self.evaluation_suites, attribute=None)

    def load(
        self, base: LoadedBase, adapter: Weights, *, accelerator: Accelerator, tracker: Tracker, folder: Path
    ) -> LoadedValidation:
        """The validation of a training whose run folder is ``folder``."""
        return LoadedValidation(
            base, adapter, self.images, None, every_steps=self.every_steps,
            accelerator=accelerator, tracker=tracker, folder=folder / FOLDER,
        )  # fmt: skip


class TargetValidation:
    """Images whose attribute is read and held against a target.

    ``suite`` has neutral prompts (suites train, heldout, offtemplate, groups, scene), which make the distance to the
    target, and prompts that state a value (explicit, fixed). ``evaluated_by`` is the reader that will evaluate the
    adapter: it may not be the one that chooses among checkpoints. ``evaluation_suites`` name the suites (in conf/suite,
    or YAML files) with which the adapter may be evaluated: their prompts and held-out concepts are refused.
    """

    needs_encoders = True
    scores = True

    def __init__(
        self,
        *,
        every_steps: int,
        suite: Suites,
        attribute: Attribute,
        target: TargetChoice,
        reader: Reader,
        score: Score,
        evaluated_by: str,
        evaluation_suites: Sequence[str],
        steps: int,
        guidance: float,
        size_px: int | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.every_steps = _at_least_one("every_steps", every_steps)
        self.evaluation_suites = tuple(evaluation_suites)
        if not self.evaluation_suites:
            raise ValueError("evaluation_suites must name the suites that the adapter may be evaluated with")
        if reader.name == evaluated_by:
            raise ValueError(
                f"the reader {reader.name} will evaluate (evaluated_by), so it may not choose among checkpoints: "
                "take another reader for the validation"
            )
        _check_reader(reader, attribute)
        self.judge = Judge(attribute=attribute, targets=target.targets(attribute), reader=reader, score=score)
        self.reader_name = reader.name
        prompts = tuple(suite.prompts({attribute.name: attribute}))
        _check_prompts([entry.prompt for entry in prompts], self.judge)
        self.images = PlannedImages(
            prompts=prompts, steps=steps, guidance=guidance, size_px=size_px, batch_size=batch_size, seed=seed
        )

    def check(self, captions: Collection[str]) -> None:
        """ValueError when a prompt or its concept is kept for the evaluation; a warning when training shows it."""
        prompts = [entry.prompt for entry in self.images.prompts]
        refuse_evaluation_prompts(prompts, self.evaluation_suites, attribute=self.judge.attribute)
        seen = num_seen(prompts, captions)
        if seen:
            log.warning(
                "%d of %d validation prompts are captions of the curated set, so the score also tells what was learnt "
                "by heart: word them otherwise (validation.suite)",
                seen,
                len(prompts),
            )

    def load(
        self, base: LoadedBase, adapter: Weights, *, accelerator: Accelerator, tracker: Tracker, folder: Path
    ) -> LoadedValidation:
        """The validation of a training whose run folder is ``folder``, with its reader on the training's device."""
        return LoadedValidation(
            base, adapter, self.images, self.judge, every_steps=self.every_steps,
            accelerator=accelerator, tracker=tracker, folder=folder / FOLDER,
        )  # fmt: skip


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return value


def _check_reader(reader: Reader, attribute: Attribute) -> None:
    found = reader.attributes.get(attribute.name)
    if found is None or set(found) != set(attribute.values):
        raise ValueError(
            f"reader {reader.name} must read {attribute.name} with the values {list(attribute.values)}, "
            f"but reads {'it not' if found is None else list(found)}"
        )


def _check_prompts(prompts: Sequence[Prompt], judge: Judge) -> None:
    """ValueError for a prompt that is neither neutral nor states a value of the attribute."""
    name, num_neutral = judge.attribute.name, 0
    for prompt in prompts:
        stated = set(prompt.expects or {})
        if prompt.suite in NEUTRAL_SUITES and not stated:
            num_neutral += bool(wanted(judge.targets, prompt.concept))
        elif prompt.suite not in STATING_SUITES or stated != {name}:
            raise ValueError(
                f"validation prompt {prompt.id}: a prompt of {', '.join(NEUTRAL_SUITES)} expects nothing, one of "
                f"{', '.join(STATING_SUITES)} expects a value of {name}, and there are no others; got suite "
                f"{prompt.suite} with {dict(prompt.expects or {})}"
            )
    if not num_neutral:
        raise ValueError("the validation's suite needs a neutral prompt of a concept that has a target")
