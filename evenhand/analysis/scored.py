"""Scored images as arrays: for each arm and prompt the features of its images, their seeds, and the value each shows.

Letters of shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.analysis.suite_shares import DIRECTED_SUITES
from evenhand.evaluation.folder import ImageKey
from evenhand.evaluation.plan import Plan
from evenhand.evaluation.scoring import FeatureTable
from evenhand.records import Estimate, Prompt
from evenhand.stats.intervals import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The images of one prompt in one arm, by seed. ``values`` holds None for an image in which nothing was read."""

    seeds: tuple[int, ...]
    features_ND: Floats
    image_text_N: Floats
    values: tuple[str | None, ...]

    def of(self, value: str | None) -> Floats:
        """Features of the images that show a value."""
        return self.features_ND[[shown == value for shown in self.values]]

    def chosen(self, seeds: Collection[int]) -> Scores:
        """The images of these seeds only."""
        rows = [row for row, seed in enumerate(self.seeds) if seed in seeds]
        return Scores(
            seeds=tuple(self.seeds[row] for row in rows),
            features_ND=self.features_ND[rows],
            image_text_N=self.image_text_N[rows],
            values=tuple(self.values[row] for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPrompt:
    """A prompt with images in both arms, its text's features, and its images."""

    prompt: Prompt
    text_D: Floats
    base: Scores
    adapted: Scores


class ScoredImages:
    """The scored images of a folder by suite. ``scorer`` is the name of what scored them."""

    def __init__(self, plan: Plan, table: FeatureTable, values: Mapping[ImageKey, str | None]) -> None:
        self.plan = plan
        self.scorer = table.scorer
        self._texts = dict(zip(table.prompts, table.text_PD, strict=True))
        self._rows: dict[str, dict[str, list[tuple[int, int]]]] = {}
        self._table = table
        self._values = values
        self._suites: dict[str, list[ScoredPrompt]] = {}
        for arm, keys in table.keys.items():
            for row, (prompt_id, seed) in enumerate(keys):
                self._rows.setdefault(arm, {}).setdefault(prompt_id, []).append((seed, row))

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have scores."""
        return tuple(self._rows)

    def open_suites(self) -> list[str]:
        """Suites whose prompts leave open who or what is shown."""
        return [suite for suite in self.plan.suites if suite not in DIRECTED_SUITES]

    def scores(self, arm: str, prompt: Prompt) -> Scores | None:
        """A prompt's images in an arm; None where it has none."""
        rows = sorted(self._rows.get(arm, {}).get(prompt.id, ()))
        if not rows or prompt.id not in self._texts:
            return None
        features_ND = self._table.images_ND[arm][[row for _, row in rows]]
        return Scores(
            seeds=tuple(seed for seed, _ in rows),
            features_ND=features_ND,
            image_text_N=features_ND @ self._texts[prompt.id],
            values=tuple(self._values.get((arm, prompt.id, seed)) for seed, _ in rows),
        )

    def suite(self, suite: str) -> list[ScoredPrompt]:
        """The prompts of a suite that have images in both arms."""
        if suite not in self._suites:
            self._suites[suite] = list(self._in_both_arms(suite))
        return self._suites[suite]

    def _in_both_arms(self, suite: str) -> Iterator[ScoredPrompt]:
        for prompt in self.plan.in_suite(suite):
            base, adapted = (self.scores(arm, prompt) for arm in self.plan.arms)
            if base is not None and adapted is not None:
                yield ScoredPrompt(prompt=prompt, text_D=self._texts[prompt.id], base=base, adapted=adapted)

    def asked_for(self, value: str | None) -> dict[str, list[ScoredPrompt]]:
        """The explicit prompts that ask for a value of the primary attribute, by concept."""
        found: dict[str, list[ScoredPrompt]] = {}
        for entry in self.suite("explicit") if value is not None else ():
            if (entry.prompt.expects or {}).get(self.plan.primary.attribute) == value:
                found.setdefault(entry.prompt.concept, []).append(entry)
        return found

    def other_texts(self, suite: str, concept: str) -> Floats:
        """Features of the texts of other concepts: of the suite, or of the whole plan where it has one concept only."""
        for prompts in (self.plan.in_suite(suite), self.plan.prompts):
            others = [p.id for p in prompts if p.concept != concept and p.id in self._texts]
            if others:
                return np.stack([self._texts[name] for name in others])
        return np.zeros((0, self._table.text_PD.shape[1]))

    def estimate(
        self,
        name: str,
        suite: str,
        arm: str,
        interval: Interval,
        *,
        counts: tuple[int, int],
        attribute: str | None = None,
    ) -> Estimate:
        """An estimate of ``counts``: prompts and images; its attribute is the scorer's name where none is given."""
        return Estimate(
            name=name,
            suite=suite,
            concept=None,
            attribute=self.scorer if attribute is None else attribute,
            arm=arm,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            level=self.plan.level,
            n_prompts=counts[0],
            n_images=counts[1],
            n_unread=0,
            floor=None,
            how=interval.how,
        )


def concepts(prompts: Sequence[ScoredPrompt]) -> list[str]:
    """The concept of each prompt: the clusters of an interval."""
    return [entry.prompt.concept for entry in prompts]


def num_images(prompts: Sequence[ScoredPrompt], arm: str = "adapted") -> int:
    """How many images of an arm (``base`` or ``adapted``) the prompts have."""
    return sum(len((entry.base if arm == "base" else entry.adapted).seeds) for entry in prompts)
