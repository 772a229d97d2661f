from __future__ import annotations

import pytest

from evenhand.captions.leaks import attribute_leaks, heldout_leaks
from evenhand.captions.templates import concepts_of
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
SKIN = Attribute(
    name="skin",
    values=("light", "dark"),
    forms={"light": "light-skinned {}", "dark": "dark-skinned {}"},
    words={"light": ("light-skinned", "white person"), "dark": ("dark-skinned",)},
)
HELDOUT = concepts_of(["cook", "police officer", {"name": "ox", "noun": "ox"}], what="heldout")


@pytest.mark.parametrize(
    ("caption", "value"),
    [
        ("a portrait of a female mechanic", "presentation=woman"),
        ("A WOMAN", "presentation=woman"),
        ("a ｗｏｍａｎ", "presentation=woman"),
        ("a man-made lake", "presentation=man"),
        ("a Light Skinned judge", "skin=light"),
        ("a light\u2011skinned judge", "skin=light"),
        ("a white   person", "skin=light"),
        ("a man.", "presentation=man"),
    ],
)
def test_an_attribute_word_is_found(caption: str, value: str) -> None:
    found = attribute_leaks([caption], [PRESENTATION, SKIN])
    assert [leak.of for leak in found] == [value]
    assert caption in str(found[0])


@pytest.mark.parametrize(
    "caption", ["a portrait of a manager", "a tomato", "a human", "femaleness", "a white dog", "in the dark", ""]
)
def test_a_word_inside_another_is_no_leak(caption: str) -> None:
    assert attribute_leaks([caption], [PRESENTATION, SKIN]) == []


def test_every_value_that_a_caption_gives_away_is_listed() -> None:
    found = attribute_leaks(["a nurse", "a dark-skinned male nurse"], [PRESENTATION, SKIN])
    assert [(leak.of, leak.word) for leak in found] == [("presentation=man", "male"), ("skin=dark", "dark skinned")]


@pytest.mark.parametrize(
    "caption", ["a Cook at work", "two cooks", "police-officers", "three oxen", "a police officer"]
)
def test_a_heldout_concept_is_found_in_singular_and_plural(caption: str) -> None:
    assert len(heldout_leaks([caption], HELDOUT)) == 1


@pytest.mark.parametrize("caption", ["a cooker", "a police car", "a box", "an officer"])
def test_a_similar_word_is_no_heldout_concept(caption: str) -> None:
    assert heldout_leaks([caption], HELDOUT) == []


def test_without_words_nothing_leaks() -> None:
    silent = Attribute(name="x", values=("a", "b"), forms={"a": "a {}", "b": "b {}"}, words={"a": (), "b": (" ",)})
    assert attribute_leaks(["a b x"], [silent]) == []
    assert heldout_leaks(["a b x"], []) == []
