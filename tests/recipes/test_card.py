"""The dataset card, read back as the hub reads it, with names in it that would be markup if nothing were escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from evenhand.recipes.card import dataset_card, plain
from evenhand.recipes.curated_set import Origin
from evenhand.recipes.report import BuildAccount, CellAccount, SkippedItems
from tests.recipes.noise_set import certified_set, plan


def read(card: str) -> Any:
    """As the hub does; it raises for a head that it cannot take."""
    return DatasetCard(card)


def test_the_card_holds_the_counts_and_front_matter_that_the_hub_reads(tmp_path: Path) -> None:
    certificate = certified_set(tmp_path)
    card = read((tmp_path / "README.md").read_text())
    assert card.data.license == "cc0-1.0"
    assert card.data.language == ["en"]
    assert card.data.size_categories == ["n<1K"]
    assert [config["config_name"] for config in card.data.configs] == ["default", "preserve"]
    assert "| all | 5 | 5 |" in card.text
    assert "| verdict | passed |" in card.text
    assert certificate["sha256"] in card.text
    assert r"the reader painted\_reader;" in card.text


@pytest.mark.parametrize(
    ("form", "path"),
    [("imagefolder", "train/**"), ("parquet", "train/*.parquet"), ("webdataset", "train/*.tar")],
)
def test_the_card_names_the_files_of_its_form(form: str, path: str, tmp_path: Path) -> None:
    card = read(dataset_card(certified_set(tmp_path), form=form))
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": path}]


@pytest.mark.parametrize(
    ("license", "head"),
    [
        ("cc-by-4.0", ("cc-by-4.0", None)),
        ("openrail++", ("openrail++", None)),
        ("Drawings: free for all uses", ("other", "drawings-free-for-all-uses")),
        ("mylicense", ("other", "mylicense")),  # the hub refuses an id that it does not know
        ("---\nlicense: mit", ("other", "license-mit")),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_other(license: str, head: Any, tmp_path: Path) -> None:
    origin = Origin(source="renders:x", confirmed_by=None, license=license)
    card = read(dataset_card(certified_set(tmp_path, origin=origin)))
    assert (card.data.license, card.data.to_dict().get("license_name")) == head


def test_several_licences_are_other_and_each_is_listed_with_its_rows(tmp_path: Path) -> None:
    certificate = {**certified_set(tmp_path), "licenses": {"cc0-1.0": 20, "cc-by-4.0": 3}}
    card = read(dataset_card(certificate))
    assert card.data.license == "other"
    assert "| cc0-1.0 | 20 |" in card.text
    assert "| cc-by-4.0 | 3 |" in card.text


def test_what_was_left_out_and_what_is_known_of_people_stands_on_the_card(tmp_path: Path) -> None:
    cell = CellAccount(
        concept="nurse", labels={"presentation": "man"}, attempts=9, confirmed=2, refused={"woman": 7}, disagreed=1
    )
    account = BuildAccount(
        acceptance=(cell,),
        skipped={"truncated": SkippedItems(number=7, keys=("a.png",))},
        filters={"nsfw": 2},
        notes=("half of the folder was read",),
        depicts="people",
        consent="signed forms of 2025",
        max_repeats=3,
    )
    certificate = certified_set(tmp_path, account=account)
    text = dataset_card(certificate)
    for said in (
        "- truncated: 7",
        "- by the filter nsfw: 2",
        "- half of the folder was read",
        "signed forms of 2025",
        certificate["people"]["note"],
        certificate["people"]["readers_limits"],
        "2 of 9 generated images were confirmed. Lowest: nurse, man, with 2 of 9.",
        "The readers disagreed in 1 of 9 attempts.",
        "(each may be in it 3 times)",
    ):
        assert said in text, said


def test_a_set_that_failed_says_so_and_shows_why(tmp_path: Path) -> None:
    certificate = certified_set(tmp_path)
    failed = {**certificate, "passed": False, "leaks": [f"'man' in caption {number}" for number in range(7)]}
    text = dataset_card(failed)
    assert "| verdict | **FAILED** |" in text
    assert "| captions that leak | 7: 'man' in caption 0; " in text
    assert "caption 4; ... |" in text
    assert "caption 5" not in text


def test_concepts_that_are_left_alone_are_named_without_a_claim(tmp_path: Path) -> None:
    text = dataset_card({**certified_set(tmp_path), "left_alone": ["judge"]})
    assert "To stay as the base has them: judge." in text


def test_targets_are_shown_with_the_values_that_their_shares_are_for(tmp_path: Path) -> None:
    certificate = certified_set(tmp_path)
    assert "- presentation, every concept: woman 0.5, man 0.5 (uniform)" in dataset_card(certificate)
    joint = {"attribute": "presentation,skin", "shares": [0.4, 0.1, 0.2, 0.3], "concept": "*", "source": "a survey"}
    alone = {"attribute": "presentation,skin", "shares": [], "concept": "nurse", "source": "base"}
    two = {**certificate["attributes"], "skin": ["light", "dark"]}
    told = {**joint, "year": 2024, "population": "Ghana"}
    text = dataset_card({**certificate, "attributes": two, "targets": [told, alone]})
    assert (
        "- presentation,skin, every other concept: woman light 0.4, woman dark 0.1, man light 0.2, man dark 0.3 "
        "(a survey; 2024; Ghana)" in text
    )
    assert "- presentation,skin, nurse: as the base has it (base)" in text


def test_a_set_of_captions_alone_says_nothing_of_pictures(tmp_path: Path) -> None:
    text = dataset_card({**certified_set(tmp_path), "holds": "captions"})
    assert "path: train/captions.jsonl" in text
    assert "## Captions per cell" in text
    for word in ("pictures that", "## People", "imagefolder"):
        assert word not in text


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    wanted = plan(concepts=[f"job number {number}" for number in range(60)], images_per_concept=2)
    text = dataset_card(certified_set(tmp_path, wanted=wanted))
    assert "| job number 49 | 1 | 1 |" in text
    assert "job number 50" not in text
    assert "| 10 more in certificate.json |  |  |" in text
    assert "| all | 60 | 60 |" in text


HOSTILE = "x | y <script>alert(1)</script> [link](http://a) `code` **b**\n# head\x00"


def test_no_name_is_taken_for_markup_or_html(tmp_path: Path) -> None:
    """Each name is put where a user, a source or a file may bring one; only our own code block and table remain."""
    certificate = certified_set(tmp_path)
    cells = [{**entry, "concept": entry["concept"] + HOSTILE} for entry in certificate["cells"]]
    hostile = {
        **certificate,
        "attributes": {HOSTILE: ["woman", "man"], "presentation": [HOSTILE, "man"]},
        "confirmed_by": HOSTILE,
        "source": HOSTILE,
        "sources": {HOSTILE: HOSTILE},
        "licenses": {HOSTILE: 23},
        "cells": cells,
        "left_alone": [HOSTILE],
        "targets": [{**certificate["targets"][0], "source": HOSTILE, "concept": HOSTILE}],
        "skipped": {HOSTILE: {"number": 1, "keys": []}},
        "filters": {HOSTILE: 1},
        "notes": [HOSTILE],
        "leaks": [HOSTILE],
        "unreadable": [HOSTILE],
        "people": {**certificate["people"], "consent": HOSTILE},
    }
    card = read(dataset_card(hostile))
    assert "<script" not in card.text
    assert "\x00" not in card.text
    assert not re.search(r"(?<!\\)\]\(http", card.text)
    assert "# head" not in re.sub(r"\\#", "", card.text)
    honest = read(dataset_card(certificate))
    for mark in ("\n# ", "\n```"):
        assert card.text.count(mark) == honest.text.count(mark)
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}  # tables of two and of three columns


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("christmas market in australia", "christmas market in australia"),
        ("a_b", r"a\_b"),
        ("R&D <3", "R&amp;D &lt;3"),
        ("סטודנט 👩🏽‍🔧 Ärztin", "סטודנט 👩🏽‍🔧 Ärztin"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_name_is_shown_as_it_is(text: str, shown: str) -> None:
    assert plain(text) == shown
