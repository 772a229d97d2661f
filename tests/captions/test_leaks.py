from __future__ import annotations

import random
import re
import time

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
        ("(man)", "presentation=man"),
        ("a wo\u200bman", "presentation=woman"),  # a zero-width space
        ("a fe\u00admale nurse", "presentation=woman"),  # a soft hyphen
        ("a \u202eman\u202c", "presentation=man"),  # direction marks
    ],
)
def test_an_attribute_word_is_found(caption: str, value: str) -> None:
    found = attribute_leaks([caption], [PRESENTATION, SKIN])
    assert [leak.of for leak in found] == [value]
    assert repr(caption) in str(found[0])


@pytest.mark.parametrize(
    "caption", ["a portrait of a manager", "a tomato", "a human", "femaleness", "a white dog", "in the dark", ""]
)
def test_a_word_inside_another_is_no_leak(caption: str) -> None:
    assert attribute_leaks([caption], [PRESENTATION, SKIN]) == []


def test_every_value_that_a_caption_gives_away_is_listed() -> None:
    found = attribute_leaks(["a nurse", "a dark-skinned male nurse"], [PRESENTATION, SKIN])
    assert [(leak.of, leak.word) for leak in found] == [("presentation=man", "male"), ("skin=dark", "dark skinned")]


SPOKEN = Attribute(
    name="spoken",
    values=("f", "m"),
    forms={"f": "f {}", "m": "m {}"},
    words={
        "f": ("\u5973\u6027", "\uc5ec\uc131", "\u092e\u0939\u093f\u0932\u093e"),
        "m": ("\u0631\u062c\u0644", "M\u00e4nner"),
    },
)


@pytest.mark.parametrize(
    ("caption", "value"),
    [
        ("\u4e00\u4f4d\u5973\u6027\u533b\u751f", "f"),  # Chinese: a female doctor, written without spaces
        ("\uc5ec\uc131\uc774 \uc6c3\ub294\ub2e4", "f"),  # Korean: woman with an ending
        ("\u090f\u0915 \u092e\u0939\u093f\u0932\u093e", "f"),  # Hindi: a woman
        ("\u0631\u064e\u062c\u064f\u0644", "m"),  # Arabic: man, with vowel points
        ("zwei Ma\u0308nner", "m"),  # German, the umlaut as two characters
    ],
)
def test_attribute_words_are_found_in_other_scripts(caption: str, value: str) -> None:
    assert [leak.of for leak in attribute_leaks([caption], [SPOKEN])] == [f"spoken={value}"]


@pytest.mark.parametrize(
    "caption",
    [
        "\u4e00\u4f4d\u533b\u751f",
        "\u0631\u062c\u0644\u0627\u0646",
        "\u092e\u0939\u093f\u0932\u093e\u0913\u0902",
        "zwei Mannen",
    ],
)
def test_other_words_of_other_scripts_are_no_leak(caption: str) -> None:
    assert attribute_leaks([caption], [SPOKEN]) == []


def test_the_longest_of_several_words_at_a_place_is_named() -> None:
    words = {"light": ("white", "white person", "person"), "dark": ()}
    attribute = Attribute(name="x", values=("light", "dark"), forms={"light": "l {}", "dark": "d {}"}, words=words)
    assert [leak.word for leak in attribute_leaks(["a white person", "a person in white"], [attribute])] == [
        "white person",
        "person",
    ]


def plainly(text: str) -> str:
    """Text as the reference search below sees it: lower case, every other character a space."""
    return re.sub(r"[^a-z ]", " ", text.lower())


def test_the_search_finds_what_a_regular_expression_for_each_phrase_finds() -> None:
    rng = random.Random(0)
    words = ["man", "a", "male", "nurse", "manager", "white", "person", "Man-made", "men."]
    phrases = {"woman": ("nurse a", "a white person", "men"), "man": ("man", "male man", "a"), "none": ("manage",)}
    attribute = Attribute(
        name="x", values=tuple(phrases), forms={value: f"{value} {{}}" for value in phrases}, words=phrases
    )
    captions = [" ".join(rng.choices(words, k=rng.randint(0, 6))) for _ in range(500)]
    wanted = [
        (caption, f"x={value}")
        for caption in captions
        for value, entries in phrases.items()
        if any(re.search(rf"(?<![a-z]){phrase}(?![a-z])", plainly(caption)) for phrase in entries)
    ]
    found = [(leak.caption, leak.of) for leak in attribute_leaks(captions, [attribute])]
    assert found == wanted
    assert 0 < len(found) < 3 * len(captions)


def test_a_hundred_thousand_captions_are_searched_for_a_thousand_concepts_in_seconds() -> None:
    heldout = concepts_of([f"unheard {number}" for number in range(1000)], what="heldout")
    captions = [f"a portrait of a worker {number} at work" for number in range(100_000)] + ["an unheard 77"]
    start = time.process_time()
    found = heldout_leaks(captions, heldout)
    assert time.process_time() - start < 20
    assert [leak.of for leak in found] == ["held-out concept unheard 77"]


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
