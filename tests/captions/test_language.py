"""Captions in other languages, from YAML alone. Expected sentences were written by hand after each grammar."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
import yaml

from evenhand.captions.language import ENGLISH, Language
from evenhand.captions.leaks import attribute_leaks, heldout_leaks
from evenhand.captions.templates import Concept, Template, check_forms, concepts_of, with_own_nouns
from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman",), "man": ("man",)},
)
GLASSES = Attribute(
    name="glasses",
    values=("worn", "absent"),
    forms={"worn": "{} mit Brille", "absent": "{} ohne Brille"},
    words={"worn": ("mit Brille",), "absent": ("ohne Brille",)},
)
WOMAN, MAN = {"presentation": "woman"}, {"presentation": "man"}
GERMAN_CONCEPTS = """\
- name: doctor
  noun: ärztliche Fachkraft
  noun_class: feminine
  plural: ärztliche Fachkräfte
  cases: {dative: {noun: ärztlichen Fachkraft}}
  forms:
    presentation:
      woman: {noun: Ärztin, noun_class: feminine, plural: Ärztinnen}
      man: {noun: Arzt, noun_class: masculine, plural: Ärzte, cases: {genitive: {noun: Arztes}}}
- {name: apprentice, noun: Lehrling, noun_class: masculine, plural: Lehrlinge}
- {name: child, noun: Kind, noun_class: neuter, plural: Kinder, cases: {dative: {plural: Kindern}}}
"""


def language(name: str) -> Language:
    made: Language = build(compose_config("build", [f"language={name}"]).plain["language"])
    return made


def concepts(text: str, name: str) -> dict[str, Concept]:
    return {item.name: item for item in concepts_of(yaml.safe_load(text), what="concepts", language=language(name))}


@pytest.mark.parametrize(
    ("template", "concept", "labels", "expected"),
    [
        ("{a_concept} bei der Arbeit", "doctor", {}, "eine ärztliche Fachkraft bei der Arbeit"),
        ("{a_concept} bei der Arbeit", "doctor", WOMAN, "eine Ärztin bei der Arbeit"),
        ("{a_concept} bei der Arbeit", "doctor", MAN, "ein Arzt bei der Arbeit"),
        ("ein Foto von {a_concept:dative}", "doctor", {}, "ein Foto von einer ärztlichen Fachkraft"),
        ("ein Foto von {a_concept:dative}", "doctor", WOMAN, "ein Foto von einer Ärztin"),
        ("ein Foto von {a_concept:dative}", "doctor", MAN, "ein Foto von einem Arzt"),
        ("das Bild {a_concept:genitive}", "doctor", MAN, "das Bild eines Arztes"),
        ("zwei {concepts}", "doctor", {}, "zwei ärztliche Fachkräfte"),
        ("zwei {concepts}", "doctor", WOMAN, "zwei Ärztinnen"),
        ("zwei {concepts}", "doctor", MAN, "zwei Ärzte"),
        ("man sieht {a_concept:accusative}", "apprentice", {}, "man sieht einen Lehrling"),
        ("man sieht {a_concept:accusative}", "apprentice", WOMAN, "man sieht einen weiblichen Lehrling"),
        ("{a_concept}", "apprentice", MAN, "ein männlicher Lehrling"),
        ("mit {a_concept:dative}", "apprentice", MAN, "mit einem männlichen Lehrling"),
        ("{a_concept}", "child", MAN, "ein männliches Kind"),
        ("zwei {concepts}", "child", WOMAN, "zwei weibliche Kinder"),
        ("mit zwei {concepts:dative}", "child", WOMAN, "mit zwei weiblichen Kindern"),
    ],
)
def test_german_articles_cases_plurals_and_adjectives(
    template: str, concept: str, labels: dict[str, str], expected: str
) -> None:
    named = [PRESENTATION] if labels else []
    assert Template(template).explicit(concepts(GERMAN_CONCEPTS, "german")[concept], named, labels) == expected


def test_other_attributes_stand_around_a_noun_of_its_own() -> None:
    doctor = concepts(GERMAN_CONCEPTS, "german")["doctor"]
    text = Template("{a_concept} am Fenster").explicit(doctor, [PRESENTATION, GLASSES], {**WOMAN, "glasses": "worn"})
    assert text == "eine Ärztin mit Brille am Fenster"


def test_swedish_genders_and_adjectives() -> None:
    text = """\
    - {name: doctor, noun: läkare, noun_class: common, plural: läkare}
    - {name: assistant, noun: vårdbiträde, noun_class: neuter, plural: vårdbiträden}
    """
    swedish = concepts(text, "swedish")
    template = Template("ett porträtt av {a_concept}")
    assert template.neutral(swedish["doctor"]) == "ett porträtt av en läkare"
    assert template.neutral(swedish["assistant"]) == "ett porträtt av ett vårdbiträde"
    assert template.explicit(swedish["doctor"], [PRESENTATION], WOMAN) == "ett porträtt av en kvinnlig läkare"
    assert template.explicit(swedish["assistant"], [PRESENTATION], MAN) == "ett porträtt av ett manligt vårdbiträde"
    two = Template("två {concepts}").explicit(swedish["assistant"], [PRESENTATION], WOMAN)
    assert two == "två kvinnliga vårdbiträden"


def test_arabic_is_written_from_right_to_left_and_has_no_article() -> None:
    text = """\
    - name: doctor
      noun: شخص يعمل في الطب
      plural: أشخاص يعملون في الطب
      forms:
        presentation:
          woman: {noun: طبيبة, plural: طبيبات}
          man: {noun: طبيب, plural: أطباء}
    """
    doctor = concepts(text, "arabic")["doctor"]
    template = Template("صورة {a_concept} في العمل")
    assert template.neutral(doctor) == "صورة شخص يعمل في الطب في العمل"
    assert template.explicit(doctor, [PRESENTATION], WOMAN) == "صورة طبيبة في العمل"
    assert template.explicit(doctor, [PRESENTATION], MAN) == "صورة طبيب في العمل"
    assert Template("صورة {concepts}").explicit(doctor, [PRESENTATION], WOMAN) == "صورة طبيبات"
    assert unicodedata.bidirectional(template.neutral(doctor)[0]) == "AL"  # characters in the order of reading


def test_counterfactuals_are_the_same_sentence_with_each_value() -> None:
    doctor = concepts(GERMAN_CONCEPTS, "german")["doctor"]
    labels = {**WOMAN, "glasses": "absent"}
    assert Template("{a_concept} am Fenster").counterfactuals(doctor, [PRESENTATION, GLASSES], labels) == {
        "presentation": {
            "woman": "eine Ärztin ohne Brille am Fenster",
            "man": "ein Arzt ohne Brille am Fenster",
        },
        "glasses": {
            "worn": "eine Ärztin mit Brille am Fenster",
            "absent": "eine Ärztin ohne Brille am Fenster",
        },
    }


def test_a_noun_for_a_value_in_a_neutral_caption_gives_the_value_away() -> None:
    doctor = concepts(GERMAN_CONCEPTS, "german")["doctor"]
    (extended,) = with_own_nouns([PRESENTATION], [doctor])
    assert extended.words["woman"] == ("woman", "Ärztin", "Ärztinnen")
    captions = ["ein Foto von einer ÄRZTIN", "ein Foto des Arztes", "ein Foto von einer ärztlichen Fachkraft"]
    assert [leak.of for leak in attribute_leaks(captions, [extended])] == ["presentation=woman", "presentation=man"]
    assert attribute_leaks(captions, [PRESENTATION]) == []


def test_a_held_out_concept_is_found_in_each_of_its_forms() -> None:
    doctor = concepts(GERMAN_CONCEPTS, "german")["doctor"]
    captions = ["zwei ärztliche Fachkräfte", "zwei Ärztinnen", "das Bild eines Arztes", "eine Lehrkraft"]
    assert [leak.caption for leak in heldout_leaks(captions, [doctor])] == captions[:3]


def test_other_spellings_of_a_held_out_concept_are_searched_for() -> None:
    (developer,) = concepts_of([{"name": "software developer", "spellings": ["coder", "programmer"]}], what="x")
    captions = ["a photo of a coder", "two software developers", "a photo of a decoder"]
    assert [leak.caption for leak in heldout_leaks(captions, [developer])] == captions[:2]


def test_captions_are_composed_whatever_the_file_that_they_come_from() -> None:
    """Some editors write an umlaut as a letter and a mark, which a tokenizer takes for another word."""
    apart = unicodedata.normalize("NFD", "Köchin")
    (cook,) = concepts_of([{"name": "cook", "noun": apart, "article": "eine"}], what="x", language=language("german"))
    assert apart != "Köchin"
    assert Template("{a_concept} am Herd").neutral(cook) == "eine Köchin am Herd"


def test_an_article_with_an_apostrophe_stands_at_the_noun() -> None:
    italian = Language(name="italian", article="given", plural="given")
    (lawyer,) = concepts_of([{"name": "lawyer", "noun": "avvocata", "article": "un'"}], what="x", language=italian)
    assert Template("{a_concept} al lavoro").neutral(lawyer) == "un'avvocata al lavoro"


def test_english_nouns_of_their_own_take_their_article_by_the_rules() -> None:
    entry = {
        "name": "server",
        "noun": "restaurant server",
        "forms": {"presentation": {"woman": "actress", "man": "usher"}},
    }
    (server,) = concepts_of([entry], what="x", language=ENGLISH)
    assert Template("{a_concept}").explicit(server, [PRESENTATION], WOMAN) == "an actress"
    assert Template("two {concepts}").explicit(server, [PRESENTATION], WOMAN) == "two actresses"


def test_forms_are_put_around_the_part_of_a_group_that_is_described() -> None:
    entry = {"name": "meetup", "noun": "meetup of Python developers", "described": "Python developers"}
    (meetup,) = concepts_of([entry], what="x")
    assert Template("a photo of {a_concept}").neutral(meetup) == "a photo of a meetup of Python developers"
    assert Template("{a_concept}").explicit(meetup, [PRESENTATION], MAN) == "a meetup of male Python developers"
    assert Template("two {concepts}").explicit(meetup, [PRESENTATION], MAN) == "two meetups of male Python developers"
    with pytest.raises(ValueError, match="'meetup of coders' must hold 'Python developers', what is described, once"):
        concepts_of([{**entry, "noun": "meetup of coders"}], what="x")


@pytest.mark.parametrize(
    ("entry", "template", "problem"),
    [
        ({"name": "x", "noun": "Haus"}, "{a_concept}", "no article in language german.*feminine, masculine, neuter"),
        ({"name": "x", "noun": "Haus", "noun_class": "neutral"}, "{a_concept}", "its noun_class must be one of"),
        ({"name": "x", "noun": "Haus", "article": "ein"}, "mit {a_concept:dative}", "no case 'dative' of 'Haus'"),
        ({"name": "x", "noun": "Haus", "noun_class": "neuter"}, "{a_concept:dativ}", "no case 'dativ' of 'Haus'"),
        ({"name": "x", "noun": "Haus", "noun_class": "neuter"}, "zwei {concepts}", "'Haus' has no plural"),
    ],
)
def test_what_the_language_cannot_say_is_refused_with_the_cure(
    entry: dict[str, Any], template: str, problem: str
) -> None:
    (concept,) = concepts_of([entry], what="concepts", language=language("german"))
    with pytest.raises(ValueError, match=problem):
        Template(template).neutral(concept)


@pytest.mark.parametrize(
    ("forms", "problem"),
    [
        ({"presentation": {"woman": "nurse"}}, "its noun for presentation=woman is its neutral noun, 'nurse'"),
        ({"presentation": {"woman": "a b", "man": "a b"}}, "is the one for presentation=woman"),
        ({"presentation": {"woman": "x"}, "age": {"old": "y"}}, "nouns of its own for presentation and age"),
        ({"presentation": {"woman": {"noon": "x"}}}, "unknown key 'noon'; its keys are noun"),
        ({"presentation": {"woman": {"article": "a"}}}, "no noun; its keys are"),
        ({"presentation": {"woman": {"noun": "x", "cases": {"dative": {"form": "y"}}}}}, "cases.dative: unknown key"),
        ({"presentation": "woman"}, "has no attribute 'items'"),
    ],
)
def test_wrong_nouns_for_values_are_refused(forms: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        concepts_of([{"name": "nurse", "forms": forms}], what="concepts")


def test_a_noun_for_a_value_that_is_not_declared_is_refused() -> None:
    named = concepts_of([{"name": "nurse", "forms": {"presentation": {"womann": "x"}}}], what="concepts")
    with pytest.raises(
        ValueError, match="concept 'nurse': forms.presentation names 'womann'; the values are woman, man"
    ):
        check_forms([PRESENTATION], named)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"article": "none", "articles": {"x": {"y": "z"}}}, "articles are listed, but article is 'none'"),
        ({"articles": {"x": {}}}, "articles.x is empty"),
        ({"forms": {"presentation": {"woman": {"x": "kvinnlig"}}}}, "forms.presentation.woman.x needs one {}"),
    ],
)
def test_a_language_that_contradicts_itself_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Language(**{"name": "x", "article": "given", "plural": "given", **changes})


def test_forms_for_a_value_that_is_not_declared_are_refused() -> None:
    spoken = Language(name="x", article="none", plural="given", forms={"presentation": {"womann": {"x": "{}"}}})
    with pytest.raises(ValueError, match="forms.presentation names 'womann'; the values are woman, man"):
        spoken.check(PRESENTATION)
