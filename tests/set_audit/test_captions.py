"""What captions give away and where they are wrong, counted in pictures."""

from __future__ import annotations

import pytest

from evenhand.captions.language import ENGLISH, Language
from evenhand.compose import compose_config
from evenhand.set_audit.captions import caption_report, unseen_prompts
from evenhand.set_audit.pictures import Picture
from tests.set_audit.made import PRESENTATION, picture

SUITE = compose_config("build", ["suite=tinytown_demo"]).build("suite")
UNSEEN = unseen_prompts(SUITE, [PRESENTATION])


def captioned(*texts: str | None, concept: str = "mechanic") -> list[Picture]:
    return [picture(str(place), {}, text=text, concept=concept) for place, text in enumerate(texts)]


def test_a_value_that_is_named_is_counted_in_pictures() -> None:
    pictures = captioned("a portrait of a mechanic", "a female mechanic", "a female mechanic", "two Women", None)
    found = caption_report(pictures, [PRESENTATION], unseen=None, language=ENGLISH)
    (woman,) = found["attribute_words"]
    assert (woman["value"], woman["n_images"]) == ("presentation=woman", 2)
    assert (found["n_captions"], found["n_different"], found["n_without"]) == (4, 3, 1)
    assert found["leaks"] is None


def test_held_out_concepts_and_unseen_prompts_are_leaks_and_trained_concepts_are_none() -> None:
    pictures = captioned("a photo of a pilot", "a photo of a pilot", "A portrait of a  Teacher!", "a photo of a nurse")
    found = caption_report(pictures, [PRESENTATION], unseen=UNSEEN, language=ENGLISH)["leaks"]
    assert found["n_images"] == 3
    assert {(entry["of"], entry["n_images"]) for entry in found["concepts"]} == {
        ("held-out concept pilot", 2),
        ("held-out concept teacher", 1),
    }
    assert found["prompts"] == ["A portrait of a  Teacher!"]
    clean = caption_report(captioned("a photo of a nurse"), [PRESENTATION], unseen=UNSEEN, language=ENGLISH)
    assert clean["leaks"]["n_images"] == 0


@pytest.mark.parametrize("english", [True, False])
def test_articles_are_checked_in_english_and_doubled_words_in_every_language(english: bool) -> None:
    language = ENGLISH if english else Language(name="other", article="none", plural="given")
    pictures = captioned("a electrician", "a photo of of a nurse", "a nurse")
    found = caption_report(pictures, [PRESENTATION], unseen=None, language=language)["grammar"]
    assert found["n_captions"] == (2 if english else 1)


@pytest.mark.parametrize("concept", ["x-", "{}", "12345", "sheep", "()", "女", " "])
def test_whatever_a_stranger_calls_a_concept_captions_are_checked(concept: str) -> None:
    found = caption_report(
        captioned("an electrician", concept=concept), [PRESENTATION], unseen=UNSEEN, language=ENGLISH
    )
    assert found["grammar"]["n_captions"] == 0
