"""Planted folders whose pictures are people, and what the guards over image scores find in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.analysis.quality import Quality, quality_estimates
from evenhand.records import Estimate, Guard
from tests.planted_scores import Floats, PlantedFolder, looks, pictures, portraits

NUM_PROMPTS, NUM_SEEDS = 10, 12
SCORE, SPREAD = 0.6, 0.05
GUARDS = ("image_text", "diversity", "near_duplicates")


def quality(planted: PlantedFolder) -> Quality:
    """The estimates and guards that evenhand finds in a planted folder."""
    planted.score()
    return quality_estimates(planted.plan, planted.folder, planted.values)


def guard(found: Quality, name: str, suite: str = "heldout") -> Guard:
    """The one guard of this name and suite."""
    (only,) = [entry for entry in found.guards if (entry.name, entry.suite) == (name, suite)]
    return only


def estimate(found: Quality, name: str, arm: str, suite: str = "heldout") -> Estimate:
    """The one estimate of this name, arm and suite."""
    (only,) = [entry for entry in found.estimates if (entry.name, entry.suite, entry.arm) == (name, suite, arm)]
    return only


def passed(found: Quality, suite: str = "heldout") -> dict[str, bool]:
    """Whether each guard of a suite passed."""
    return {entry.name: entry.passed for entry in found.guards if entry.suite == suite}


def people(
    planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str], mean: Mapping[str, float]
) -> Floats:
    """Pictures of people of these values, whose scores are spread around their value's mean."""
    scores_N = np.array([mean[value] for value in values]) + rng.normal(size=len(values)) * SPREAD
    return pictures(planted.text(prompt_id), scores_N, looks(rng, values))


def mixed(num_women: int, num: int = NUM_SEEDS) -> list[str]:
    """The values of a prompt's pictures: some women, then men."""
    return ["woman"] * num_women + ["man"] * (num - num_women)


EQUAL = {"woman": SCORE, "man": SCORE}
# A scorer that finds women fit these prompts less.
UNEQUAL = {"woman": SCORE - 0.2, "man": SCORE}


def adapted_folder(folder: Path, adapted: Any, *, base_women: int = 1, women: int = 6, **plan: Any) -> PlantedFolder:
    """A base with few women, and adapted pictures that ``adapted(planted, prompt_id, rng, values)`` makes."""
    rng = np.random.default_rng(5)
    planted = PlantedFolder(folder, portraits(NUM_PROMPTS), **plan)
    for prompt in planted.prompts:
        planted.add(
            "base", prompt["id"], people(planted, prompt["id"], rng, mixed(base_women), UNEQUAL), mixed(base_women)
        )
        planted.add("adapted", prompt["id"], adapted(planted, prompt["id"], rng, mixed(women)), mixed(women))
    return planted


def other_people(planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str]) -> Floats:
    """What the base would show of these values: new pictures of the same kind."""
    return people(planted, prompt_id, rng, values, UNEQUAL)
