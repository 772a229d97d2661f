"""`TinytownRenders`: the set shows what the world draws for its labels; what it cannot draw is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evenhand.evaluation.targets import Uniform
from evenhand.processes import OneProcess
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.preserve import Preserve
from evenhand.recipes.renders import TinytownRenders
from evenhand.records import Attribute
from evenhand.tinytown.world import tinytown

CPU = torch.device("cpu")
PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
SEASON = Attribute(
    name="season",
    values=("winter", "summer"),
    forms={"winter": "{} in the snow", "summer": "{} in summer"},
    words={"winter": ("snow",), "summer": ("summer",)},
)


def recipe(
    attribute: Attribute = PRESENTATION, concepts: tuple[str, ...] = ("mechanic", "nurse"), **preserve: Any
) -> TinytownRenders:
    plan = CuratedPlan(
        attributes={"first": attribute},
        targets={"*": Uniform()},
        concepts=concepts,
        heldout=["pilot"],
        templates=["a picture of {a_concept}"],
        images_per_concept=4,
        seed=0,
    )
    settings: dict[str, Any] = {"captions": (), "images_per_caption": 1, "explicit": True, "empty": 0}
    return TinytownRenders(plan=plan, size_px=32, license="free", preserve=Preserve(**{**settings, **preserve}))


def test_labels_are_what_the_world_drew(tmp_path: Path) -> None:
    maker = recipe(captions=("a photo of a car", "a christmas market in the snow"), empty=2)
    rows = list(maker.build(tmp_path, device=CPU, ranks=OneProcess()))
    assert len(rows) == maker.num_images == 8 + 8 + 2 + 2
    train = [row for row in rows if row.file_name.startswith("train/")]
    assert Counter((row.concept, row.labels["presentation"]) for row in train) == dict.fromkeys(
        [("mechanic", "woman"), ("mechanic", "man"), ("nurse", "woman"), ("nurse", "man")], 2
    )
    word = {"woman": "female", "man": "male"}
    for row in train:
        assert row.explicit == f"a picture of a {word[row.labels['presentation']]} {row.concept}"
        scene = tinytown().draw(row.concept, row.seed, fixed=row.labels)
        assert scene.labels["presentation"] == row.labels["presentation"]
        drawn = np.asarray(tinytown().render(scene, size_px=32))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / row.file_name)), drawn)


def test_the_same_seed_gives_the_same_bytes_and_a_killed_build_goes_on(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        images = recipe(empty=1).build(tmp_path / folder, device=CPU, ranks=OneProcess())
        if folder == "b":
            for _ in range(3):
                next(images)
            images = recipe(empty=1).build(tmp_path / folder, device=CPU, ranks=OneProcess())
        assert len(list(images)) == 17
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / x).rglob("*.png")} for x in ("a", "b"))
    assert first == second


def test_an_attribute_of_scenes_needs_no_code(tmp_path: Path) -> None:
    rows = list(
        recipe(SEASON, ("christmas market", "christmas market in australia")).build(
            tmp_path, device=CPU, ranks=OneProcess()
        )
    )
    assert Counter(row.labels["season"] for row in rows[:8]) == {"winter": 4, "summer": 4}


def test_what_tinytown_cannot_draw_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown concept 'wizard' in tinytown"):
        recipe(concepts=("wizard",))
    with pytest.raises(ValueError, match="tinytown draws 'mechanic' without 'season'; it has presentation, skin"):
        recipe(SEASON)
    strange = Attribute(
        name="presentation",
        values=("woman", "cat"),
        forms={"woman": "female {}", "cat": "feline {}"},
        words={"woman": (), "cat": ()},
    )
    with pytest.raises(ValueError, match="tinytown draws no presentation=cat; choose from woman, man"):
        recipe(strange)
    with pytest.raises(ValueError, match="tinytown cannot draw the caption 'a photo of a wizard'"):
        recipe(captions=("a photo of a wizard",))
