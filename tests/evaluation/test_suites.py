from __future__ import annotations

from typing import Any

import pytest

from evenhand.captions.language import Language
from evenhand.evaluation.suites import Suites
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman",), "man": ("man",)},
)
NEUTRAL = {"suite": "heldout", "concepts": "jobs", "templates": ["a portrait of {a_concept}", "{a_concept} at work"]}


def suites(*groups: dict[str, Any], num_seeds: dict[str, int] | None = None) -> Suites:
    used = {group["suite"]: 2 for group in groups}
    return Suites(
        concepts={"jobs": ["electrician", "ceo"], "food": [{"name": "meatballs", "noun": "plate of meatballs"}]},
        groups=groups,
        num_seeds=used if num_seeds is None else num_seeds,
    )


def test_neutral_prompts_are_concepts_times_templates_with_the_right_article() -> None:
    entries = suites({**NEUTRAL, "expects": {"occupation": "{concept}"}}).prompts({})
    assert [entry.prompt.text for entry in entries] == [
        "a portrait of an electrician",
        "an electrician at work",
        "a portrait of a ceo",
        "a ceo at work",
    ]
    assert [entry.prompt.id for entry in entries][:2] == ["heldout-electrician-00", "heldout-electrician-01"]
    assert entries[2].prompt.expects == {"occupation": "ceo"}
    assert {entry.num_seeds for entry in entries} == {2}


def test_explicit_prompts_name_every_value_and_expect_it() -> None:
    group = {"suite": "explicit", "concepts": ["jobs"], "templates": ["a photo of {a_concept}"], "name": "presentation"}
    entries = suites(group).prompts({"presentation": PRESENTATION})
    assert [(entry.prompt.text, entry.prompt.expects) for entry in entries][:2] == [
        ("a photo of a female electrician", {"presentation": "woman"}),
        ("a photo of a male electrician", {"presentation": "man"}),
    ]
    assert len({entry.prompt.id for entry in entries}) == 4


def test_a_scene_takes_its_noun() -> None:
    group = {"suite": "scene", "concepts": "food", "templates": ["{a_concept}"]}
    (entry,) = suites(group).prompts({})
    assert (entry.prompt.text, entry.prompt.concept) == ("a plate of meatballs", "meatballs")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({**NEUTRAL, "suite": "other"}, "unknown suite 'other'"),
        ({**NEUTRAL, "concepts": "animals"}, "no concept list 'animals'"),
        ({**NEUTRAL, "template": []}, "unknown keys .'template'."),
        ({"suite": "heldout", "concepts": "jobs"}, "missing keys .'templates'."),
        ({**NEUTRAL, "templates": ["a portrait"]}, "exactly one placeholder"),
    ],
)
def test_a_group_that_cannot_be_is_refused(group: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suites(group)


def test_num_seeds_must_be_given_for_every_suite_and_no_other() -> None:
    with pytest.raises(ValueError, match="num_seeds.heldout must be >= 1"):
        suites(NEUTRAL, num_seeds={})
    with pytest.raises(ValueError, match="no group of suite 'train'"):
        suites(NEUTRAL, num_seeds={"heldout": 1, "train": 1})


def test_a_heldout_concept_in_the_train_suite_is_refused() -> None:
    with pytest.raises(ValueError, match="in suites heldout and train"):
        suites(NEUTRAL, {**NEUTRAL, "suite": "train"}).prompts({})


def test_an_explicit_group_without_its_attribute_is_refused() -> None:
    with pytest.raises(ValueError, match="names attribute 'presentation', whose forms are not given"):
        suites({**NEUTRAL, "suite": "explicit", "name": "presentation"}).prompts({})


def test_wordings_are_counted_for_each_concept_and_value() -> None:
    group = {**NEUTRAL, "suite": "explicit", "name": "presentation"}
    entries = suites(group).prompts({"presentation": PRESENTATION})
    assert [entry.wording for entry in entries] == [0, 0, 1, 1] * 2
    assert entries[0].prompt.expects != entries[1].prompt.expects


@pytest.mark.parametrize("rows", [{"groups": ["heldout"]}, {"heldout": ["heldout", "fixed"]}])
def test_a_shared_row_must_be_of_suites_that_are_there(rows: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="shared_rows"):
        Suites(concepts={"jobs": ["pilot"]}, groups=[NEUTRAL], num_seeds={"heldout": 1}, shared_rows=rows)


def test_prompts_can_be_in_another_language() -> None:
    """Written by hand after German grammar: the dative of a masculine noun, and a noun of its own for one value."""
    german = Language(
        name="german", article="given", plural="given", articles={"masculine": {"nominative": "ein", "dative": "einem"}}
    )
    forms = {"presentation": {"woman": {"noun": "Ärztin", "article": "eine"}, "man": "männlicher Arzt"}}
    asked = Suites(
        concepts={"jobs": [{"name": "doctor", "noun": "Arzt", "noun_class": "masculine", "forms": forms}]},
        groups=[{"suite": "heldout", "concepts": "jobs", "templates": ["ein Foto mit {a_concept:dative}"]}],
        num_seeds={"heldout": 1},
        language=german,
    )
    assert [entry.prompt.text for entry in asked.prompts({})] == ["ein Foto mit einem Arzt"]
