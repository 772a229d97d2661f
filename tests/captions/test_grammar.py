"""Articles and plurals against lists written by hand from a dictionary's pronunciations."""

from __future__ import annotations

import pytest

from evenhand.captions.grammar import plural, with_article

TAKES_AN = """
accountant, electrician, artist, engineer, usher, umpire, urban planner, uninformed voter, unimpressed critic,
unidentified person, hour, honest broker, heiress, heir, honourable judge, MC, FBI agent, HR manager, mp, nhs
nurse, X-ray technician, x-ray technician, SUV driver, 8-year-old, 80-year-old, 11th-grader, 18-wheeler driver,
emt, EMT, older pilot, illustrator, office clerk, umbrella maker, LGBT activist, hd photo, mp3 player, nth attempt,
1880s photo, 1850 portrait, hors d'oeuvre, Yvonne, unarmed guard, ugly duckling, umami broth, uninvited guest, heirloom
"""
TAKES_A = """
mechanic, ceo, CEO, uniform maker, university student, union leader, unicyclist, unique voice, european,
eulogist, one-man band, user researcher, usability tester, ukulele player, urologist, uranium miner, utility
worker, NASA engineer, UNESCO official, UX designer, ux designer, UK soldier, us senator, TV host, tv host, 3d
artist, 100-metre runner, 1st mate, 110-metre hurdler, housekeeper, hospital porter, hotel manager, history
teacher, yoga teacher, police officer, DJ, Ugandan, Uruguayan, unanimous jury, unidirectional sign, ureter, url,
mr president, dr house, st bernard, ms world, xmas party, yacht builder, horse, Oaxacan dish, 1950s photo,
118-metre tower, Utrecht native, unimodal curve
"""
PLURALS = {
    "mechanic": "mechanics",
    "flight attendant": "flight attendants",
    "secretary": "secretaries",
    "attorney": "attorneys",
    "woman": "women",
    "policewoman": "policewomen",
    "fireman": "firemen",
    "german": "germans",
    "human": "humans",
    "person": "people",
    "child": "children",
    "actress": "actresses",
    "coach": "coaches",
    "boss": "bosses",
    "ceo": "ceos",
    "housewife": "housewives",
    "midwife": "midwives",
    "chief": "chiefs",
    "chef": "chefs",
    "photo": "photos",
    "hero": "heroes",
    "meetup of python developers": "meetups of python developers",
    "christmas market in australia": "christmas markets in australia",
    "police": "police",
    "passer-by": "passers-by",
    "runner-up": "runners-up",
    "close-up": "close-ups",
    "editor-in-chief": "editors-in-chief",
    "mother-in-law": "mothers-in-law",
    "stay-at-home parent": "stay-at-home parents",
    "attorney general": "attorneys general",
    "newsroom full of journalists": "newsrooms full of journalists",
    "monarch": "monarchs",
    "church": "churches",
    "stomach": "stomachs",
    "analysis": "analyses",
    "quiz": "quizzes",
    "bus": "buses",
    "grandchild": "grandchildren",
    "alumnus": "alumni",
    "soliloquy": "soliloquies",
    "Portuguese": "Portuguese",
    "cheese": "cheeses",
    "diocese": "dioceses",
    "headquarters": "headquarters",
    "midwife at work": "midwives at work",
}


def listed(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.replace("\n", " ").split(",")]


@pytest.mark.parametrize("phrase", listed(TAKES_AN))
def test_a_phrase_that_begins_with_a_vowel_sound_takes_an(phrase: str) -> None:
    assert with_article(phrase) == f"an {phrase}"


@pytest.mark.parametrize("phrase", listed(TAKES_A))
def test_a_phrase_that_begins_with_a_consonant_sound_takes_a(phrase: str) -> None:
    assert with_article(phrase) == f"a {phrase}"


@pytest.mark.parametrize("phrase", sorted(PLURALS))
def test_the_head_of_a_phrase_is_put_into_the_plural(phrase: str) -> None:
    assert plural(phrase) == PLURALS[phrase]


def test_a_phrase_without_a_word_has_neither_article_nor_plural() -> None:
    with pytest.raises(ValueError, match="no article for '--'"):
        with_article("--")
    with pytest.raises(ValueError, match="no plural for ' '"):
        plural(" ")
