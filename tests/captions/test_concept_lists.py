"""The lists that ship with evenhand, found on the disk, and lists of a user's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenhand.captions.check import grammar_problems
from evenhand.captions.concept_lists import LISTS, ConceptList, list_names, listed, read_list, training_and_heldout
from evenhand.captions.language import ENGLISH
from evenhand.captions.leaks import attribute_leaks, heldout_leaks
from evenhand.captions.templates import Template, concepts_of
from evenhand.construct import build
from evenhand.paths import conf_folder
from evenhand.records import Attribute

ATTRIBUTES = sorted((conf_folder() / "attribute").glob("*.yaml"))
# Which attributes a list is about is for its user to choose, but no word of any may stand in it.
TEMPLATES = [Template(text) for text in ("a photo of {a_concept}", "two {concepts}", "{a_concept} in a picture")]
# Plurals that a person looked up, of entries whose spelling is against the common rule.
PLURALS = {
    "ceo": "CEOs",
    "secretary": "secretaries",
    "notary": "notaries",
    "chimney sweep": "chimney sweeps",
    "judge": "judges",
    "shoe shiner": "shoe shiners",
    "draughtsperson": "draughtspersons",
    "chef": "chefs",
    "fish farmer": "fish farmers",
    "python meetup in ghana": "meetups of Python developers in Ghana",
    "board of directors": "boards of directors",
    "newsroom": "newsrooms full of journalists",
    "day of the dead": "Day of the Dead parades in Mexico",
    "fish and chips": "plates of fish and chips",
    "protest march": "protest marches",
}
OWN = """\
name: mine
source: written for a test
license: CC0-1.0
year: 2026
concepts:
  - nurse
  - {name: dental nurse, code: "3251"}
  - {name: ceo, noun: CEO}
  - judge
  - {name: unit leader, article: an}
  - pilot
"""


def own(tmp_path: Path, text: str = OWN) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def names(concepts: Sequence[Any]) -> list[str]:
    return [concept.name for concept in concepts]


def split(name: str, *, heldout: Sequence[str] = (), **changes: Any) -> tuple[list[str], list[str]]:
    chosen = ConceptList(**{"name": name, "only": None, "limit": None, "heldout_every": None, **changes})
    training, away = training_and_heldout(chosen, heldout, language=ENGLISH)
    return names(training), names(away)


def test_the_lists_are_there_and_large_enough() -> None:
    assert set(list_names()) >= {"occupations", "foods", "places", "events", "groups"}
    assert len(read_list("occupations").entries) >= 200


def test_the_cultural_cases_are_in_them() -> None:
    assert {"swedish meatballs", "italian meatballs"} <= set(names(concepts_of(read_list("foods").entries, what="x")))
    events = set(names(concepts_of(read_list("events").entries, what="x")))
    assert {"christmas market in australia", "christmas market in sweden"} <= events
    assert {"python meetup", "pycon ghana"} <= set(names(concepts_of(read_list("groups").entries, what="x")))


@pytest.mark.parametrize("name", list_names())
def test_a_list_says_where_it_comes_from_and_under_which_licence(name: str) -> None:
    found = read_list(name)
    assert (found.name, found.license, found.path) == (name, "Apache-2.0", LISTS / f"{name}.yaml")
    head = (LISTS / f"{name}.yaml").read_text().split("name:")[0]
    assert "How the list was made" in " ".join(head.split())
    assert f"concepts={name}" in head


@pytest.mark.parametrize("name", list_names())
def test_captions_of_every_entry_are_grammatical_and_name_no_attribute(name: str) -> None:
    concepts = concepts_of(read_list(name).entries, what=name)
    captions = [template.neutral(concept) for concept in concepts for template in TEMPLATES]
    assert [str(problem) for problem in grammar_problems(captions, concepts)] == []
    attributes: list[Attribute] = [build(yaml.safe_load(path.read_text())) for path in ATTRIBUTES]
    assert len(attributes) > 5
    assert [str(leak) for leak in attribute_leaks(captions, attributes)] == []


@pytest.mark.parametrize("name", list_names())
def test_names_are_lower_case_and_no_two_concepts_look_the_same(name: str) -> None:
    concepts = concepts_of(read_list(name).entries, what=name)
    assert [concept.name for concept in concepts if concept.name != concept.name.lower()] == []
    nouns = [concept.noun.casefold() for concept in concepts]
    assert len(set(nouns)) == len(nouns)


def test_codes_are_unit_groups_and_most_occupations_have_one() -> None:
    """Major groups of ISCO-08 are 0 to 9; unit groups have four digits."""
    codes = read_list("occupations").codes
    assert len(codes) >= 200
    assert all(re.fullmatch(r"\d{4}", code) for code in codes.values())
    assert {code[0] for code in codes.values()} == set("0123456789")


def test_no_occupation_says_who_does_the_work() -> None:
    gendered = re.compile(r"\w*(man|men|woman|women|lady|girl|boy|maid|ess|master|mistress)\b")
    found = [concept.name for concept in concepts_of(read_list("occupations").entries, what="x")]
    assert [name for name in found if gendered.fullmatch(name.split()[-1])] == []


def test_plurals_are_those_that_a_person_looked_up() -> None:
    concepts = {item.name: item for name in list_names() for item in concepts_of(read_list(name).entries, what=name)}
    assert {name: concepts[name].many() for name in PLURALS} == PLURALS


def test_a_list_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    found = read_list(own(tmp_path))
    assert (found.source, found.license, found.year, dict(found.codes)) == (
        "written for a test",
        "CC0-1.0",
        2026,
        {"dental nurse": "3251"},
    )
    training, _ = training_and_heldout(
        ConceptList(name=str(tmp_path / "mine.yaml"), only=["unit leader"], limit=None, heldout_every=None),
        [],
        language=ENGLISH,
    )
    assert Template("{a_concept}").neutral(training[0]) == "an unit leader"


def test_every_nth_is_held_out_and_what_names_it_as_well(tmp_path: Path) -> None:
    mine = own(tmp_path)
    assert split(mine) == (["nurse", "dental nurse", "ceo", "judge", "unit leader", "pilot"], [])
    assert split(mine, heldout_every=3) == (["nurse", "dental nurse", "judge", "unit leader"], ["ceo", "pilot"])
    assert split(mine, heldout=["nurse"]) == (["ceo", "judge", "unit leader", "pilot"], ["nurse", "dental nurse"])
    assert split(mine, heldout=["leader"], heldout_every=6) == (
        ["nurse", "dental nurse", "ceo", "judge"],
        ["leader", "pilot", "unit leader"],
    )


@pytest.mark.parametrize("name", list_names())
def test_no_training_caption_of_a_list_names_a_concept_that_it_holds_out(name: str) -> None:
    chosen = ConceptList(name=name, only=None, limit=None, heldout_every=5)
    training, away = training_and_heldout(chosen, [], language=ENGLISH)
    captions = [template.neutral(concept) for concept in training for template in TEMPLATES]
    assert heldout_leaks(captions, away) == []
    assert heldout_leaks([f"a photo of {away[0].noun}"], away) != []
    assert set(names(training)) | set(names(away)) == set(names(concepts_of(read_list(name).entries, what=name)))
    assert 0.18 < len(away) / (len(away) + len(training)) < 0.4  # every fifth, and what names one of them


def test_a_limit_spreads_over_the_list_and_only_takes_names_in_their_order(tmp_path: Path) -> None:
    mine = own(tmp_path)
    assert split(mine, limit=3)[0] == ["nurse", "ceo", "unit leader"]  # by hand: places 0, 2 and 4 of six
    assert split(mine, only=["pilot", "ceo"])[0] == ["pilot", "ceo"]
    codes = read_list("occupations").codes
    few, _ = split("occupations", limit=60)
    assert {codes[name][0] for name in few if name in codes} >= set("123456789")


def test_entries_that_are_no_list_pass_as_they_are() -> None:
    assert listed(["nurse"]) == ["nurse"]
    training, away = training_and_heldout(["nurse"], ["pilot"], language=ENGLISH)
    assert (names(training), names(away)) == (["nurse"], ["pilot"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "ocupations"}, "no concept list 'ocupations'; did you mean 'occupations'"),
        ({"name": "nowhere.yaml"}, "no concept list 'nowhere.yaml'"),
        ({"only": ["accountantt"]}, "concept list occupations has no 'accountantt'; did you mean 'accountant'"),
        ({"limit": 0}, "limit must be 1 to"),
        ({"limit": 10_000}, "limit must be 1 to"),
        ({"heldout_every": 1}, "heldout_every must be null or >= 2, got 1"),
    ],
)
def test_a_wrong_choice_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        split(**{"name": "occupations", **changes})


@pytest.mark.parametrize(
    ("wrong", "right", "problem"),
    [
        ("source: written for a test\n", "", "must have the keys name, source, license, year and concepts"),
        ("license: CC0-1.0", "license: ' '", "license must be text, got ' '"),
        ("year: 2026", "year: soon", "year must be a number, got 'soon'"),
        ('code: "3251"', "code: 0110", "code of 'dental nurse' must be text in quotes"),
        ("  - judge", "  - 7", "entry 4 must be a name or a mapping, got 7"),
        ("  - judge", "  - {nuon: judge}", "unknown key 'nuon'"),
        ("name: mine", "name: [mine", "is not YAML"),
    ],
)
def test_a_wrong_list_is_refused_with_its_file(tmp_path: Path, wrong: str, right: str, problem: str) -> None:
    assert wrong in OWN
    with pytest.raises(ValueError, match=problem):
        read_list(own(tmp_path, OWN.replace(wrong, right)))
