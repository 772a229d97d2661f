from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evenhand.compose import compose_config
from evenhand.evaluation.targets import Table, Uniform
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
AGE = Attribute(
    name="age",
    values=("young", "grown", "old"),
    forms={"young": "young {}", "grown": "middle-aged {}", "old": "old {}"},
    words={"young": ("young",), "grown": ("middle-aged",), "old": ("old", "elderly")},
)
SAME_FORMS = Attribute(name="x", values=("p", "q"), forms={"p": "{}", "q": "{}"}, words={"p": (), "q": ()})


def plan(**changes: Any) -> CuratedPlan:
    arguments: dict[str, Any] = {
        "attributes": {"first": PRESENTATION},
        "targets": {"*": Uniform()},
        "concepts": ["mechanic", "nurse", "electrician"],
        "heldout": ["pilot"],
        "templates": ["a portrait of {a_concept}", "{a_concept} at work"],
        "images_per_concept": 6,
        "seed": 0,
    }
    return CuratedPlan(**{**arguments, **changes})


def test_every_image_has_one_slot_and_uniform_cells_are_equal() -> None:
    slots = plan().slots
    assert [slot.index for slot in slots] == list(range(18))
    counts = Counter((slot.concept, slot.labels["presentation"]) for slot in slots)
    assert set(counts.values()) == {3}
    assert len(counts) == 6


def test_neutral_captions_name_the_concept_and_no_attribute_and_explicit_ones_name_both() -> None:
    for slot in plan().slots:
        assert slot.concept in slot.neutral
        assert "male" not in slot.neutral
        word = {"woman": "female", "man": "male"}[slot.labels["presentation"]]
        assert f"{word} {slot.concept}" in slot.explicit


def test_wording_says_nothing_about_the_labels() -> None:
    slots = plan(images_per_concept=12).slots
    by_cell: dict[tuple[str, str], list[str]] = {}
    for slot in slots:
        by_cell.setdefault((slot.concept, slot.labels["presentation"]), []).append(slot.template)
    for concept in ("mechanic", "nurse", "electrician"):
        assert by_cell[concept, "woman"] == by_cell[concept, "man"]


def test_a_new_attribute_with_an_uneven_target_needs_no_code() -> None:
    target = Table(rows={"*": [0.6, 0.25, 0.15]}, source="a survey")
    slots = plan(attributes={"a": AGE}, targets={"*": target}, images_per_concept=20).slots
    assert Counter(slot.labels["age"] for slot in slots) == {
        "young": 36,
        "grown": 15,
        "old": 9,
    }  # by hand: 60 images x 0.6, 0.25, 0.15


def test_two_attributes_are_crossed_and_their_forms_stack() -> None:
    crossed = plan(attributes={"a": PRESENTATION, "b": AGE})
    assert Counter(slot.cell for slot in crossed.slots) == dict.fromkeys(crossed.cells, 3)
    assert crossed.slots[0].labels == {"presentation": "woman", "age": "young"}
    assert "a young female mechanic" in crossed.slots[0].explicit


def test_a_joint_target_can_leave_cells_out() -> None:
    joint = Table(rows={"*": [0.5, 0.0, 0.0, 0.0, 0.0, 0.5]}, source="only these")
    crossed = plan(attributes={"a": PRESENTATION, "b": AGE}, targets={"presentation,age": joint, "*": Uniform()})
    assert {slot.cell for slot in crossed.slots} == {("woman", "young"), ("man", "old")}


def test_each_attribute_can_have_its_own_target() -> None:
    targets = {"*": Uniform(), "age": Table(rows={"*": [0.5, 0.5, 0.0]}, source="x")}
    crossed = plan(attributes={"a": PRESENTATION, "b": AGE}, targets=targets, images_per_concept=8)
    assert Counter(slot.labels["age"] for slot in crossed.slots) == {"young": 12, "grown": 12}  # by hand: 3 x 8 halved


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"concepts": []}, "concepts is empty"),
        ({"templates": []}, "templates is empty"),
        ({"attributes": {}}, "attributes is empty"),
        ({"concepts": ["nurse", "nurse"]}, "concept 'nurse' is listed twice"),
        ({"templates": ["{concept}", "{concept}"]}, "template '{concept}' is listed twice"),
        ({"attributes": {"a": PRESENTATION, "b": PRESENTATION}}, "attribute 'presentation' is listed twice"),
        ({"concepts": ["nurse", "pilot"]}, "concept 'pilot' is held out"),
        ({"templates": ["a pilot and {a_concept}"]}, "captions leak: 'pilot' .held-out concept pilot."),
        ({"templates": ["a female {concept}"]}, "captions leak: 'female' .presentation=woman. in the caption"),
        ({"concepts": ["policeman man"]}, "captions leak: 'man'"),
        ({"images_per_concept": 1}, "quota of mechanic, cell presentation=woman"),
        ({"images_per_concept": 0}, "images_per_concept must be >= 1, got 0"),
        ({"targets": {"age": Uniform()}}, "target for attribute 'age', but the attributes are presentation"),
        ({"targets": {}}, "attribute presentation has no target"),
        ({"targets": {"*": Table(rows={"*": [0.2, 0.3, 0.5]}, source="x")}}, "needs 2 shares"),
        ({"targets": {"*": Table(rows={"*": [0.5, 0.5], "nurze": [0.1, 0.9]}, source="x")}}, "unknown concept 'nurze'"),
        ({"attributes": {"a": SAME_FORMS}}, "attribute x: two values have the same form"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plan(**changes)


def test_two_hundred_concepts_with_six_cells_of_ten_are_planned_in_seconds() -> None:
    start = time.process_time()
    large = plan(
        attributes={"a": PRESENTATION, "b": AGE},
        concepts=[f"worker {number}" for number in range(200)],
        images_per_concept=60,
    )
    assert time.process_time() - start < 10
    assert len(large.slots) == 12_000


def test_a_second_attribute_and_a_joint_target_take_a_few_lines_of_yaml(tmp_path: Path) -> None:
    experiment = tmp_path / "experiment" / "joint.yaml"
    experiment.parent.mkdir()
    experiment.write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - /attribute@recipe.plan.attributes.second: skin\n"
        "recipe:\n"
        "  plan:\n"
        "    targets:\n"
        '      "presentation,skin":\n'
        "        _target_: evenhand.evaluation.targets.Table\n"
        '        rows: {"*": [0.25, 0.15, 0.1, 0.2, 0.2, 0.1]}\n'
        "        source: example\n"
    )
    config = compose_config(
        "build", ["experiment=joint", "recipe=tinytown_renders", f"hydra.searchpath=[file://{tmp_path}]"]
    )
    wanted = config.build("recipe").plan
    counts = Counter(slot.cell for slot in wanted.slots)
    # By hand: 320 images times 0.25, 0.15, 0.1, 0.2, 0.2, 0.1.
    assert [counts[cell] for cell in wanted.cells] == [80, 48, 32, 64, 64, 32]
