from __future__ import annotations

import pytest

from evenhand.captions.templates import Concept, Template, concept_of, concepts_of
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
SKIN = Attribute(
    name="skin",
    values=("light", "olive"),
    forms={"light": "light-skinned {}", "olive": "olive-skinned {}"},
    words={"light": ("light-skinned",), "olive": ("olive-skinned",)},
)
GLASSES = Attribute(
    name="glasses",
    values=("worn", "absent"),
    forms={"worn": "{} with glasses", "absent": "{} without glasses"},
    words={"worn": ("with glasses",), "absent": ("without glasses",)},
)
ELECTRICIAN = concept_of("electrician")


def test_neutral_and_explicit_captions_come_from_the_same_template() -> None:
    template = Template("a portrait of {a_concept}")
    assert template.neutral(ELECTRICIAN) == "a portrait of an electrician"
    assert template.explicit(ELECTRICIAN, [PRESENTATION], {"presentation": "woman"}) == (
        "a portrait of a female electrician"
    )


def test_forms_are_applied_from_the_noun_outwards_and_the_article_fits_the_whole_phrase() -> None:
    labels = {"presentation": "man", "skin": "olive", "glasses": "worn"}
    caption = Template("{a_concept} at work").explicit(ELECTRICIAN, [PRESENTATION, SKIN, GLASSES], labels)
    assert caption == "an olive-skinned male electrician with glasses at work"


def test_a_template_can_take_the_bare_noun_or_the_plural() -> None:
    nurses = Template("two {concepts}").explicit(concept_of("nurse"), [PRESENTATION, GLASSES], {"presentation": "woman", "glasses": "absent"})  # fmt: skip  # noqa: E501
    assert nurses == "two female nurses without glasses"
    assert Template("a meetup of {concept}").neutral(concept_of("python developers")) == "a meetup of python developers"


def test_a_concept_brings_its_own_noun_article_and_plural() -> None:
    concept = concept_of({"name": "market", "noun": "onion market", "article": "the", "plural": "onion marketplaces"})
    assert Template("{a_concept}").neutral(concept) == "the onion market"
    assert Template("{concepts}").neutral(concept) == "onion marketplaces"
    assert Template("{a_concept}").explicit(concept, [PRESENTATION], {"presentation": "man"}) == "a male onion market"
    bare = concept_of({"name": "people", "article": ""})
    assert Template("{a_concept}").explicit(bare, [PRESENTATION], {"presentation": "man"}) == "male people"


@pytest.mark.parametrize(
    "text", ["a portrait", "{concept} and {concept}", "{}", "{noun}", "{a_concept} {", "}{concept}"]
)
def test_a_template_without_exactly_one_known_placeholder_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needs exactly one placeholder"):
        Template(text)


def test_what_looks_like_code_in_a_concept_is_only_text() -> None:
    assert Template("{concept}").neutral(concept_of(r"\1 <b>x</b> $y")) == r"\1 <b>x</b> $y"
    with pytest.raises(ValueError, match="without braces"):
        concept_of("{concept}")


def test_wrong_concepts_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown key 'nuon'; its keys are name, noun, article, plural"):
        concept_of({"name": "mechanic", "nuon": "mechanic"})
    with pytest.raises(ValueError, match="no name"):
        concept_of({"noun": "mechanic"})
    with pytest.raises(ValueError, match="heldout: concept 'nurse' is listed twice"):
        concepts_of(["nurse", "judge", "nurse"], what="heldout")
    with pytest.raises(ValueError, match="must be words"):
        Concept(name=" ", noun=" ")
