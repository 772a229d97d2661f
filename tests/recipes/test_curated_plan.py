from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.evaluation.targets import Conditional, LeftAlone, Table, Uniform
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.preserve import Preserve, requests_of
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
REGION = Attribute(
    name="region",
    values=("n", "e", "s", "w"),
    forms={"n": "{} of the north", "e": "{} of the east", "s": "{} of the south", "w": "{} of the west"},
    words={"n": ("north",), "e": ("east",), "s": ("south",), "w": ("west",)},
)
AGE = Attribute(
    name="age",
    values=("young", "grown", "old"),
    forms={"young": "young {}", "grown": "middle-aged {}", "old": "old {}"},
    words={"young": ("young",), "grown": ("middle-aged",), "old": ("old", "elderly")},
)
WITH_COMMA = Attribute(name="a,b", values=("p", "q"), forms={"p": "p {}", "q": "q {}"}, words={"p": (), "q": ()})
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
        (
            {"targets": {"*": Table(rows={"*": [0.5, 0.5], "nurze": [0.1, 0.9]}, source="x")}},
            "target of presentation: unknown concept 'nurze'; did you mean 'nurse'",
        ),
        (
            {"targets": {"*": Table(rows={"nurse": [0.1, 0.9]}, source="x")}},
            "no target for concept 'mechanic'; it needs exactly one",
        ),
        ({"targets": {"*": LeftAlone()}}, "every concept is to stay as the base has it"),
        ({"attributes": {"a": WITH_COMMA}}, "attribute 'a,b': its name may not have ','"),
        ({"attributes": {"a": SAME_FORMS}}, "attribute x: two values have the same form"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plan(**changes)


def test_a_concept_whose_target_is_base_has_no_quota_but_captions_to_hold_it_with() -> None:
    alone = plan(targets={"*": Table(rows={"*": [0.5, 0.5], "nurse": "base"}, source="x")})
    assert [concept.name for concept in alone.concepts] == ["mechanic", "electrician"]
    assert [concept.name for concept in alone.left_alone] == ["nurse"]
    assert {slot.concept for slot in alone.slots} == {"mechanic", "electrician"} == set(alone.quotas)
    captions = alone.left_alone_captions
    assert len(captions) == alone.images_per_concept
    assert {caption.text for caption in captions} == {"a portrait of a nurse", "a nurse at work"}
    assert all(caption.concept == "nurse" and not caption.labels for caption in captions)


def test_what_a_target_leaves_out_is_asked_for_by_name_as_often_as_there_are_images() -> None:
    only_women = Table(rows={"*": [0.5, 0.5], "nurse": [1.0, 0.0]}, source="x")
    captions = plan(targets={"*": only_women}).left_out_captions
    assert Counter(caption.text for caption in captions) == {"a portrait of a male nurse": 3, "a male nurse at work": 3}
    assert all(caption.concept == "nurse" and caption.labels == {"presentation": "man"} for caption in captions)

    none_of_the_west = Table(rows={"*": [0.5, 0.5, 0.0, 0.0]}, source="x")
    captions = plan(attributes={"a": REGION}, targets={"*": none_of_the_west}).left_out_captions
    assert Counter((caption.concept, caption.labels["region"]) for caption in captions) == {
        (concept, region): 3 for concept in ("mechanic", "nurse", "electrician") for region in ("s", "w")
    }
    assert len({caption.text for caption in captions}) == 3 * 2 * 2  # concepts, regions, templates
    assert plan().left_out_captions == ()


@pytest.mark.parametrize("explicit", [True, False])
def test_they_are_in_preserve_where_explicit_captions_are(explicit: bool) -> None:
    half = plan(targets={"*": Table(rows={"*": [0.5, 0.5], "nurse": [1.0, 0.0]}, source="x")})
    preserve = Preserve(captions=("a male nurse at work",), images_per_caption=2, explicit=explicit, empty=1)
    counts = Counter(request.caption for request in requests_of(half, preserve))
    of_captions = {"a male nurse at work": 2, "": 1}
    assert counts == (
        of_captions if not explicit else {**of_captions, "a male nurse at work": 5, "a portrait of a male nurse": 3}
    )
    numbers = [request.number for request in requests_of(half, preserve) if request.caption == "a male nurse at work"]
    assert numbers == list(range(len(numbers)))  # no two of them are the same image
    assert {request.concept for request in requests_of(half, preserve)} == {""}


def test_without_a_base_target_nothing_is_left_alone() -> None:
    assert plan().left_alone == ()
    assert plan().left_alone_captions == ()


def test_captions_of_what_is_left_alone_must_be_neutral_as_well() -> None:
    alone = Table(rows={"*": [0.5, 0.5], "policeman man": "base"}, source="x")
    with pytest.raises(ValueError, match="captions leak: 'man'"):
        plan(concepts=["nurse", "policeman man"], targets={"*": alone})


def test_a_statistic_may_name_more_concepts_than_the_set_has() -> None:
    rows = {"nurse": [0.9, 0.1], "welder": [0.1, 0.9], "*": "base"}
    measured = plan(targets={"*": Table(rows=rows, source="a census", reference=True)}, images_per_concept=10)
    assert measured.quotas == {"nurse": [9, 1]}
    assert [target.concept for target in measured.targets] == ["nurse", "*"]


def test_a_row_for_a_heldout_concept_is_for_the_evaluation() -> None:
    both = plan(targets={"*": Table(rows={"*": [0.5, 0.5], "pilot": [0.1, 0.9]}, source="x")})
    assert "pilot" not in both.quotas


def test_each_concept_can_have_conditional_shares_of_its_own() -> None:
    given = {"woman": {"young": 1, "grown": 0, "old": 0}, "man": {"young": 0, "grown": 0, "old": 1}}
    turned = {"woman": given["man"], "man": given["woman"]}
    target = Conditional(given=Uniform(), rows={"*": given, "nurse": turned}, source="x")
    crossed = plan(attributes={"a": PRESENTATION, "b": AGE}, targets={"presentation,age": target})
    cells = {concept: {slot.cell for slot in crossed.slots if slot.concept == concept} for concept in crossed.quotas}
    assert cells["mechanic"] == {("woman", "young"), ("man", "old")}
    assert cells["nurse"] == {("woman", "old"), ("man", "young")}


def test_two_hundred_concepts_with_six_cells_of_ten_are_planned_in_seconds() -> None:
    start = time.process_time()
    large = plan(
        attributes={"a": PRESENTATION, "b": AGE},
        concepts=[f"worker {number}" for number in range(200)],
        images_per_concept=60,
    )
    assert time.process_time() - start < 10
    assert len(large.slots) == 12_000


VIEWS = [
    "a portrait",
    "a photo",
    "a picture",
    "a drawing",
    "a sketch",
    "a print",
    "a painting",
    "a view",
    "art",
    "film",
]


@pytest.mark.slow
def test_a_thousand_concepts_with_24_cells_are_planned_and_checked_within_a_minute() -> None:
    """Ten captions of each cell: grammar, attribute words and 200 held-out concepts are searched in 240,000."""
    start = time.process_time()
    large = plan(
        attributes={"a": PRESENTATION, "b": AGE, "c": REGION},
        concepts=[f"worker {number}" for number in range(1000)],
        heldout=[f"unheard {number}" for number in range(200)],
        templates=[f"{view} of {{a_concept}}" for view in VIEWS],
        images_per_concept=240,
    )
    assert time.process_time() - start < 60
    assert len({slot.explicit for slot in large.slots}) == len(large.slots) == 240_000
    assert set(Counter((slot.concept, slot.cell) for slot in large.slots).values()) == {10}


TERSE = 20  # lines of YAML


def config_of(folder: Path, files: dict[str, str], *overrides: str) -> Any:
    """A build's config with files of a user's own conf folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return compose_config("build", [f"hydra.searchpath=[file://{folder}]", *overrides])


MOOD = """\
_target_: evenhand.records.Attribute
name: mood
values: [glad, calm, sad]
forms: {glad: "glad {}", calm: "calm {}", sad: "sad {}"}
words: {glad: [glad, happy, smiling], calm: [calm, relaxed], sad: [sad, crying]}
"""
MOODS = """\
_target_: evenhand.evaluation.targets.Table
rows: {"*": {glad: 0.60, calm: 0.25, sad: 0.15}}
source: what we want to see
"""


def test_a_new_attribute_with_three_values_and_an_uneven_target_is_eight_lines_of_yaml(tmp_path: Path) -> None:
    files = {"attribute/mood.yaml": MOOD, "target/moods.yaml": MOODS}
    assert sum(len(text.splitlines()) for text in files.values()) == 8 <= TERSE
    config = config_of(tmp_path, files, "attribute=mood", "target=moods", "recipe.plan.images_per_concept=20")
    made = build(config.plain["recipe"]["plan"])
    # By hand: of 20 images 12, 5 and 3, for each of the 20 concepts.
    assert set(map(tuple, made.quotas.values())) == {(12, 5, 3)}
    assert len(made.slots) == 400
    assert any("a glad mechanic" in slot.explicit for slot in made.slots)


JOINT_OF_SIXTEEN = """\
# @package _global_
defaults:
  - /attribute@recipe.plan.attributes.second: age
  - /attribute@recipe.plan.attributes.third: glasses
recipe:
  plan:
    targets:
      presentation,age,glasses:
        _target_: evenhand.evaluation.targets.Table
        source: what we want to see
        rows:
          "*":
            woman:
              {under 20: {worn: 0.05, absent: 0.05}, 20 to 39: {worn: 0.05, absent: 0.10},
               40 to 59: {worn: 0.05, absent: 0.10}, 60 or over: {worn: 0.05, absent: 0.05}}
            man:
              {under 20: {worn: 0.00, absent: 0.10}, 20 to 39: {worn: 0.05, absent: 0.10},
               40 to 59: {worn: 0.10, absent: 0.05}, 60 or over: {worn: 0.05, absent: 0.05}}
"""


def test_a_joint_of_two_by_four_by_two_values_is_eighteen_lines_of_yaml(tmp_path: Path) -> None:
    assert len(JOINT_OF_SIXTEEN.splitlines()) == 18 <= TERSE
    files = {"experiment/sixteen.yaml": JOINT_OF_SIXTEEN}
    config = config_of(tmp_path, files, "experiment=sixteen", "recipe.plan.images_per_concept=40")
    made = build(config.plain["recipe"]["plan"])
    assert len(made.cells) == 16
    # By hand: 40 times the shares above, in their order.
    assert set(map(tuple, made.quotas.values())) == {(2, 2, 2, 4, 2, 4, 2, 2, 0, 4, 2, 4, 4, 2, 2, 2)}
    assert any("a 30-year-old female mechanic with glasses" in slot.explicit for slot in made.slots)


CONDITIONAL = """\
# @package _global_
defaults:
  - /attribute@recipe.plan.attributes.second: skin
recipe:
  plan:
    targets:
      presentation,skin:
        _target_: evenhand.evaluation.targets.Conditional
        given: ${target}
        source: what we want to see
        rows:
          "*":
            woman: {light: 0.50, medium: 0.25, dark: 0.25}
            man: {light: 0.25, medium: 0.25, dark: 0.50}
          nurse: base
"""


def test_shares_of_skin_under_each_presentation_are_fifteen_lines_of_yaml(tmp_path: Path) -> None:
    assert len(CONDITIONAL.splitlines()) == 15 <= TERSE
    target = "{_target_: evenhand.evaluation.targets.Table, source: x, rows: {'*': [0.25, 0.75]}}"
    files = {"experiment/conditional.yaml": CONDITIONAL, "target/quarter.yaml": target}
    config = config_of(tmp_path, files, "experiment=conditional", "target=quarter")
    made = build(config.plain["recipe"]["plan"])
    # By hand: of 16 images 4 of women (2, 1, 1) and 12 of men (3, 3, 6).
    assert set(map(tuple, made.quotas.values())) == {(2, 1, 1, 3, 3, 6)}
    assert [concept.name for concept in made.left_alone] == ["nurse"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["target=moods"], "target of presentation, row '\\*': unknown presentation 'glad'"),
        (["attribute=mood", "target=short"], r"must sum to 1, got 0.95 from .* .config key: recipe.plan.targets.\*."),
    ],
)
def test_a_wrong_target_is_refused_with_its_key_before_anything_loads(
    overrides: list[str], problem: str, tmp_path: Path
) -> None:
    files = {"attribute/mood.yaml": MOOD, "target/moods.yaml": MOODS, "target/short.yaml": MOODS.replace("15", "10")}
    with pytest.raises(ValueError, match=problem):
        config_of(tmp_path, files, *overrides).build("recipe")
