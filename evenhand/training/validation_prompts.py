"""What a validation pictures: its prompts and seeds, and that none of them is kept for the evaluation.

Whoever chooses a checkpoint by some prompts has used them up: on the same prompts, or on the concepts that the headline
is about, the adapter could no longer be tested. So a validation's texts may stand in no evaluation suite, and they may
not name a concept of the evaluation's held-out prompts. Texts are compared as ``evenhand.evaluation.overlap`` does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evenhand.captions.leaks import heldout_leaks
from evenhand.captions.templates import Concept, concepts_of
from evenhand.evaluation.overlap import text_key
from evenhand.evaluation.suites import PlannedPrompt, Suites
from evenhand.interfaces import SamplingSettings
from evenhand.paths import conf_folder
from evenhand.records import Attribute, Prompt
from evenhand.seeds import derive

SUITE_FOLDER, YAML_SUFFIX = "suite", ".yaml"
SUITES_TARGET = f"{Suites.__module__}.{Suites.__qualname__}"
ASKED_ATTRIBUTE = "${attribute.name}"  # how a suite of conf/suite says "the attribute that is evaluated"
PRIMARY_SUITE = "heldout"  # whose concepts conf/evaluate.yaml's headline is about
MAX_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImage:
    """One image of the grid: ``row`` counts prompts, ``column`` the seeds of a prompt."""

    row: int
    column: int
    text: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImages:
    """Every image of a validation. ``size_px`` None is the base's own; an image's seed depends on its prompt alone.

    Batches are cut once from the list of all images: the last bits of an image depend on the others of its batch.
    """

    prompts: tuple[PlannedPrompt, ...]
    steps: int
    guidance: float
    size_px: int | None
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("a validation needs a prompt")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        self.sampling(default_px=1)  # checks steps and guidance

    def sampling(self, *, default_px: int) -> SamplingSettings:
        """How the images are made."""
        side_px = default_px if self.size_px is None else self.size_px
        return SamplingSettings(steps=self.steps, guidance=self.guidance, height_px=side_px, width_px=side_px)

    def images(self) -> list[PlannedImage]:
        """All images, prompt by prompt."""
        return [
            PlannedImage(
                row=row,
                column=column,
                text=entry.prompt.text,
                seed=derive(self.seed, "validation", entry.prompt.id, column),
            )
            for row, entry in enumerate(self.prompts)
            for column in range(entry.num_seeds)
        ]


def refuse_evaluation_prompts(
    prompts: Sequence[Prompt], suites: Collection[str], *, attribute: Attribute | None
) -> None:
    """ValueError when a prompt is one of an evaluation suite's, or names a concept of its held-out prompts.

    ``suites`` are names in conf/suite or paths of YAML files. What explicit prompts say is only known of ``attribute``.
    """
    keys = {text_key(prompt.text): prompt for prompt in prompts}
    for name in suites:
        path, content = _suite_file(name)
        shared = [keys[key] for key in map(text_key, _texts(path, content, attribute)) if key in keys]
        if shared:
            raise ValueError(
                f"the validation may not use prompts that evaluate: {_listed([prompt.text for prompt in shared])} also "
                f"in {path}; word them otherwise (conf/validation)"
            )
        leaks = heldout_leaks([prompt.text for prompt in prompts], _heldout(path, content))
        if leaks:
            raise ValueError(
                f"the validation may not show concepts that {path} holds out for the headline: "
                f"{_listed([leak.caption for leak in leaks])}; take other concepts (conf/validation)"
            )


def num_seen(prompts: Sequence[Prompt], captions: Collection[str]) -> int:
    """How many of the prompts occur among training captions."""
    keys = set(map(text_key, captions))
    return sum(text_key(prompt.text) in keys for prompt in prompts)


def _suite_file(name: str) -> tuple[Path, dict[str, Any]]:  # Any: YAML
    path = Path(name) if name.endswith(YAML_SUFFIX) else conf_folder() / SUITE_FOLDER / f"{name}{YAML_SUFFIX}"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (conf_folder() / SUITE_FOLDER).glob(f"*{YAML_SUFFIX}")))
        raise ValueError(f"evaluation suite {name!r} not found at {path}; name a YAML file, or one of {known}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("_target_", None) != SUITES_TARGET:
        raise ValueError(f"{path} is not a suite that can be compared with: its _target_ must be {SUITES_TARGET}")
    return path, content


def _texts(path: Path, content: dict[str, Any], attribute: Attribute | None) -> list[str]:  # Any: YAML
    """The prompts of a suite; those that name an attribute only where its forms are known."""
    groups = []
    for group in content["groups"]:
        named = group.get("name")
        if named == ASKED_ATTRIBUTE and attribute is not None:
            named = attribute.name
        if named is None or (attribute is not None and named == attribute.name):
            groups.append({**group, "name": named})
    asked = {group["suite"] for group in groups}
    num_seeds = {suite: number for suite, number in content["num_seeds"].items() if suite in asked}
    try:
        suites = Suites(concepts=content["concepts"], groups=groups, num_seeds=num_seeds)
        return [entry.prompt.text for entry in suites.prompts({} if attribute is None else {attribute.name: attribute})]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _heldout(path: Path, content: dict[str, Any]) -> tuple[Concept, ...]:  # Any: YAML
    lists: dict[str, None] = {}
    for group in content["groups"]:
        if group["suite"] == PRIMARY_SUITE:
            named = group["concepts"]
            lists |= dict.fromkeys([named] if isinstance(named, str) else named)
    return tuple(
        concept for name in lists for concept in concepts_of(content["concepts"][name], what=f"{path}: list {name}")
    )


def _listed(texts: Sequence[str]) -> str:
    different = list(dict.fromkeys(texts))
    more = f" and {len(different) - MAX_SHOWN} more" if len(different) > MAX_SHOWN else ""
    return ", ".join(map(repr, different[:MAX_SHOWN])) + more
