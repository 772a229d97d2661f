"""Guards against pictures that repeat each other or the training set, on folders whose truth is planted.

Expected values are the planted scores themselves, worked out by hand or with NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.folders import prompt_row
from tests.planted_quality import (
    EQUAL,
    NUM_PROMPTS,
    NUM_SEEDS,
    UNEQUAL,
    adapted_folder,
    estimate,
    guard,
    mixed,
    other_people,
    passed,
    people,
    quality,
)
from tests.planted_scores import (
    DIMENSIONS,
    Floats,
    PlantedFolder,
    both_arms,
    looks,
    portraits,
    unit,
)


def test_one_picture_for_each_value_fails_diversity_and_near_duplicates_only(tmp_path: Path) -> None:
    def one_each(planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str]) -> Floats:
        fresh = people(planted, prompt_id, rng, ["woman", "man"], UNEQUAL)
        return fresh[[0 if value == "woman" else 1 for value in values]]

    found = quality(adapted_folder(tmp_path, one_each, base_women=6))
    assert passed(found) == {"image_text": True, "diversity": False, "near_duplicates": False}
    assert {guard(found, name).evidence for name in ("diversity", "near_duplicates")} == {"harm shown"}
    assert guard(found, "diversity").value == pytest.approx(-1.0, abs=1e-4)
    # 15 pairs of women and 15 of men, of 66
    assert estimate(found, "near_duplicates", "adapted").value == pytest.approx(30 / 66)
    assert estimate(found, "diversity", "adapted").value == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("base_women", [0, 1, 6])
def test_one_woman_shown_again_and_again_is_found_however_rare_women_were(tmp_path: Path, base_women: int) -> None:
    """With a base that draws no women unasked, its explicit prompts say how different women can be."""
    rng = np.random.default_rng(8)
    neutral = portraits(NUM_PROMPTS)
    asked = [
        {**prompt_row("explicit", prompt["concept"], expects={"presentation": "woman"}), "text": f"explicit {number}"}
        for number, prompt in enumerate(neutral)
    ]
    planted = PlantedFolder(tmp_path, [*neutral, *asked])
    for prompt, row in zip(neutral, asked, strict=True):
        base, adapted = mixed(base_women), mixed(6)
        planted.add("base", prompt["id"], people(planted, prompt["id"], rng, base, EQUAL), base)
        fresh = people(planted, prompt["id"], rng, adapted, EQUAL)
        fresh[:6] = fresh[0]
        planted.add("adapted", prompt["id"], fresh, adapted)
        both_arms(planted, row["id"], people(planted, row["id"], rng, mixed(4, 4), EQUAL), mixed(4, 4))
    failed = guard(quality(planted), "diversity")
    assert not failed.passed
    assert failed.value == pytest.approx(-1.0, abs=1e-4)


def test_other_pictures_of_another_mix_are_as_diverse(tmp_path: Path) -> None:
    found = quality(adapted_folder(tmp_path, other_people, base_women=3, women=9))
    assert guard(found, "diversity").passed
    assert abs(guard(found, "diversity").value or 1.0) < 0.2
    assert guard(found, "near_duplicates").passed


def training_folder(folder: Path, adapted: Any, **plan: Any) -> PlantedFolder:
    """Training pictures in another style than the base's, and adapted ones that ``adapted`` makes."""
    rng = np.random.default_rng(9)
    planted = PlantedFolder(folder, portraits(NUM_PROMPTS), **plan)
    style_D = rng.normal(size=DIMENSIONS) * 0.3
    training_TD = unit(looks(rng, mixed(20, 40)) + style_D)
    for prompt in planted.prompts:
        planted.add("base", prompt["id"], people(planted, prompt["id"], rng, mixed(6), EQUAL), mixed(6))
        fresh = people(planted, prompt["id"], rng, mixed(6), EQUAL)
        planted.add("adapted", prompt["id"], adapted(fresh, training_TD, style_D, rng), mixed(6))
    planted.add_training(training_TD)
    return planted


def test_outputs_equal_to_training_pictures_fail(tmp_path: Path) -> None:
    def copycat(fresh: Floats, training_TD: Floats, style_D: Floats, rng: np.random.Generator) -> Floats:
        return np.concatenate([training_TD[rng.integers(0, len(training_TD), size=3)], fresh[3:]])

    found = quality(training_folder(tmp_path, copycat))
    failed = guard(found, "copies", "all")
    assert not failed.passed
    assert failed.value == pytest.approx(3 / NUM_SEEDS, abs=0.02)
    rise = estimate(found, "training_similarity", "shift", "all")
    assert rise.low is not None
    assert rise.low > 0


def test_almost_copies_fail_too(tmp_path: Path) -> None:
    def nearly(fresh: Floats, training_TD: Floats, style_D: Floats, rng: np.random.Generator) -> Floats:
        chosen = training_TD[rng.integers(0, len(training_TD), size=len(fresh))]
        return unit(chosen + 0.02 * rng.normal(size=fresh.shape))

    assert not guard(quality(training_folder(tmp_path, nearly)), "copies", "all").passed


def test_new_pictures_in_the_style_of_the_training_set_are_no_copies(tmp_path: Path) -> None:
    def restyled(fresh: Floats, training_TD: Floats, style_D: Floats, rng: np.random.Generator) -> Floats:
        return unit(looks(rng, mixed(6)) + style_D)

    found = quality(training_folder(tmp_path, restyled))
    rise = estimate(found, "training_similarity", "shift", "all")
    assert rise.low is not None
    assert rise.low > 0.05  # they all come nearer
    assert guard(found, "copies", "all").passed


def test_without_a_training_set_nothing_is_said_of_copies(tmp_path: Path) -> None:
    found = quality(adapted_folder(tmp_path, other_people))
    assert "copies" not in {entry.name for entry in (*found.guards, *found.estimates)}
