"""The check of whole captions. Right and wrong ones were written by hand, none made by the code that is tested."""

from __future__ import annotations

import time

import pytest

from evenhand.captions.check import grammar_problems
from evenhand.captions.templates import concept_of

CONCEPTS = [concept_of(name) for name in ("nurse", "flight attendant", "bora bora", "board of directors")]
WRONG = {
    "a photo of a accountant": ("article", "an accountant"),
    "an mechanic at work": ("article", "a mechanic"),
    "An mechanic": ("article", "a mechanic"),
    "a street. An mechanic": ("article", "a mechanic"),
    "a FBI agent": ("article", "an FBI"),
    "a MRI scan": ("article", "an MRI"),
    "an university": ("article", "a university"),
    "a 8-year-old": ("article", "an 8"),
    'a "honest" broker': ("article", 'an "honest'),
    "AN PHOTO OF A CAT": ("article", "a PHOTO"),
    "a the cat": ("two articles", ""),
    "the the cat": ("doubled word", "the"),
    "a photo of of a cat": ("doubled word", "of"),
    "two woman": ("singular after a numeral", "women"),
    "two young woman at work": ("singular after a numeral", "women"),
    "several happy flight attendant": ("singular after a numeral", "flight attendants"),
    "3 nurse, smiling": ("singular after a numeral", "nurses"),
    "a women with glasses": ("plural after an article", "woman"),
    "a portrait of a young nurses": ("plural after an article", "nurse"),
    "a boards of directors": ("plural after an article", "board of directors"),
    "a photo of  a cat": ("spaces", ""),
    "a photo of a cat ": ("spaces", ""),
    "a\tcat": ("spaces", ""),
    "a cat , asleep": ("spaces", ""),
    "a cat,, asleep": ("punctuation", ""),
    "a photo of {concept}": ("placeholder", ""),
    "a/an accountant": ("placeholder", ""),
    "photo of nurse(s)": ("placeholder", ""),
}
RIGHT = """\
a photo of an accountant
a mechanic at work
an FBI agent
a NASA engineer
an hour, a unicorn, an umbrella
an LED light
a LED light
a STOP sign
a herb garden
an herb garden
A PHOTO OF A FISH
vitamin A deficiency
a Type A personality
grades A, B and C
players a and b
at 10 a.m. in a cafe
two women
two women's teams
a women's team
a pair of nurses
a few nurses
a couple of flight attendants
a nurses meeting
a portrait of two nurses
two person teams
a meetup of nurses in a hall
two boards of directors
a visit to bora bora
a holiday in Bora Bora
he had had enough
a bowl of ramen, etc., on a table
wait ... what?
a close-up of an x-ray
a one-way street
an 18-wheeler and an 1880s photo"""


@pytest.mark.parametrize("caption", WRONG)
def test_a_mistake_is_found_and_named(caption: str) -> None:
    problems = grammar_problems([caption], CONCEPTS)
    assert [(problem.kind, problem.wanted) for problem in problems] == [WRONG[caption]]
    assert all(repr(caption) in str(problem) and problem.found for problem in problems)


@pytest.mark.parametrize("caption", RIGHT.splitlines())
def test_a_caption_without_a_mistake_has_none(caption: str) -> None:
    assert grammar_problems([caption], CONCEPTS) == []


def test_an_empty_caption_is_no_mistake_and_a_caption_is_listed_once() -> None:
    assert grammar_problems([""]) == []
    assert [problem.caption for problem in grammar_problems(["a apple", "a pear", "a apple"])] == ["a apple"]


def test_a_concepts_own_article_and_plural_are_right() -> None:
    assert grammar_problems(["an unity"]) != []
    own = [
        concept_of({"name": "unity", "article": "an"}),
        concept_of({"name": "staff officer", "plural": "staff officer"}),
    ]
    assert grammar_problems(["a photo of an unity, seen", "two staff officer"], own) == []
    assert grammar_problems(["an unitycycle"], own) != []


def test_other_languages_are_held_to_the_rules_of_all_only() -> None:
    assert grammar_problems(["a casa, an der Elbe"], english=False) == []
    assert [problem.kind for problem in grammar_problems(["ein  Haus", "das das Haus"], english=False)] == [
        "spaces",
        "doubled word",
    ]


def test_twenty_thousand_captions_of_a_thousand_concepts_are_checked_in_seconds() -> None:
    """A tenth of 1,000 occupations times 24 cells times 10 captions; a mistake among them is found."""
    concepts = [concept_of(f"worker {number}") for number in range(1000)]
    captions = [
        f"a portrait of a young female worker {number} with glasses, wording {place}"
        for number in range(1000)
        for place in range(24)
    ]
    start = time.process_time()
    assert grammar_problems(captions, concepts) == []
    assert time.process_time() - start < 6
    assert (
        len(grammar_problems([*captions[:100], "a portrait of a young female worker 7s with glasses"], concepts)) == 1
    )
