"""Certificates of sets with planted faults, against hand counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenhand.captions.language import Language
from evenhand.captions.quotas import Cell
from evenhand.captions.templates import concepts_of
from evenhand.evaluation.targets import Table
from evenhand.files import read_jsonl, sha256_file, write_json_atomic
from evenhand.recipes.certificate import CERTIFICATE, certify, read_certificate
from evenhand.recipes.claims import claims_of, claims_of_plan
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.report import BuildAccount, CellAccount, SkippedItems
from tests.recipes.noise_set import ORIGIN, PRESENTATION, change_row, make_set, plan


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, CuratedPlan]:
    """A right set of ten noise images to train on and thirteen to preserve."""
    return tmp_path, make_set(tmp_path)


def certificate_of(made: tuple[Path, CuratedPlan], account: BuildAccount | None = None) -> dict[str, Any]:
    folder, wanted = made
    return certify(folder, wanted, ORIGIN, account)


def test_a_right_set_passes_and_its_counts_are_those_of_its_rows(made) -> None:
    certificate = certificate_of(made)
    assert certificate["passed"]
    assert (certificate["num_images"], certificate["num_preserve"]) == (10, 13)
    assert certificate["largest_deviation"] == {"per_concept": 0.5, "overall": 0.0}  # 2.5 of each value in a concept
    assert [entry["count"] for entry in certificate["overall"]] == [5, 5]
    assert sorted(entry["count"] for entry in certificate["cells"]) == [2, 2, 3, 3]
    for kind in ("leaks", "grammar", "duplicates", "not_asked_for", "unreadable"):
        assert certificate[kind] == [], kind
    assert certificate["acceptance"] is None
    assert certificate["licenses"] == {"cc0-1.0": 23}
    assert certificate["sources"] == {"self:painted": "cc0-1.0"}


def test_wrong_labels_are_counted_and_fail_the_certificate(made) -> None:
    folder, wanted = made
    for index, slot in enumerate(wanted.slots):
        change_row(folder, index, labels={"presentation": "woman"})
        assert slot.index == index
    certificate = certificate_of(made)
    assert not certificate["passed"]
    assert certificate["largest_deviation"] == {"per_concept": 2.5, "overall": 5.0}


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({"concept": "pirate"}, {"concept": "pirate", "cell": ["woman"]}),
        ({"labels": {"presentation": "robot"}}, {"concept": "mechanic", "cell": ["robot"]}),
        ({"labels": {}}, {"concept": "mechanic", "cell": [None]}),
    ],
)
def test_a_row_that_nobody_asked_for_fails_the_certificate(made, changes: Any, cell: Any) -> None:
    change_row(made[0], 0, **changes)
    certificate = certificate_of(made)
    assert not certificate["passed"]
    assert certificate["not_asked_for"] == [cell]


@pytest.mark.parametrize("text", ["a portrait of a female mechanic", "a portrait of a Pilot"])
def test_a_leak_in_a_written_caption_is_listed(made, text: str) -> None:
    change_row(made[0], 3, text=text)
    certificate = certificate_of(made)
    assert not certificate["passed"]
    assert len(certificate["leaks"]) == 1
    assert text in certificate["leaks"][0]


def test_a_mistake_of_grammar_in_a_written_caption_is_listed(made) -> None:
    change_row(made[0], 3, text="a portrait of an mechanic")
    certificate = certificate_of(made)
    assert not certificate["passed"]
    assert len(certificate["grammar"]) == 1
    assert "a portrait of an mechanic" in certificate["grammar"][0]


def test_equal_images_are_listed_and_as_many_as_may_be_are_no_fault(made) -> None:
    folder, _ = made
    (folder / "train" / "000004.png").write_bytes((folder / "train" / "000001.png").read_bytes())
    certificate = certificate_of(made)
    assert certificate["duplicates"] == [["train/000001.png", "train/000004.png"]]
    assert not certificate["passed"]
    twice = certificate_of(made, BuildAccount(max_repeats=2))
    assert (twice["passed"], twice["duplicates"], twice["max_repeats"]) == (True, [], 2)
    (folder / "train" / "000005.png").write_bytes((folder / "train" / "000001.png").read_bytes())
    thrice = certificate_of(made, BuildAccount(max_repeats=2))
    assert [len(group) for group in thrice["duplicates"]] == [3]
    assert not thrice["passed"]


def test_pictures_that_look_alike_are_told_and_fail_nothing(made) -> None:
    """The same picture a little brighter, in other bytes; noise images have nothing in common."""
    folder, _ = made
    assert certificate_of(made)["near_duplicates"]["num_groups"] == 0
    with Image.open(folder / "train" / "000001.png") as opened:
        pixels = np.asarray(opened)
    Image.fromarray(np.clip(pixels.astype(int) + 2, 0, 255).astype(np.uint8)).save(folder / "train" / "000007.png")
    certificate = certificate_of(made)
    near = certificate["near_duplicates"]
    assert (near["num_groups"], near["num_images"]) == (1, 2)
    assert near["groups"] == [["train/000001.png", "train/000007.png"]]
    assert certificate["duplicates"] == []
    assert certificate["passed"]


def test_a_picture_that_is_gone_cut_short_or_of_no_row_fails_the_certificate(made) -> None:
    folder, _ = made
    (folder / "train" / "000000.png").unlink()
    cut = folder / "train" / "000001.png"
    cut.write_bytes(cut.read_bytes()[:100])
    (folder / "train" / "stray.txt").write_text("left by an editor")
    certificate = certificate_of(made)
    assert not certificate["passed"]
    problems = dict(problem.split(": ", 1) for problem in certificate["unreadable"])
    assert problems.keys() == {"train/000000.png", "train/000001.png", "train/stray.txt"}
    assert problems["train/000000.png"] == "not there"
    assert problems["train/stray.txt"] == "no row names it"


def test_hidden_files_are_no_part_of_the_set(made) -> None:
    """A picture that a killed build left half written, and what a desktop leaves in every folder."""
    before = certificate_of(made)
    (made[0] / "train" / ".000003.0a1b2c3d.tmp.png").write_bytes(b"half")
    (made[0] / "preserve" / ".DS_Store").write_bytes(b"x")
    assert certificate_of(made) == before


def test_a_picture_that_two_rows_name_is_told(made) -> None:
    change_row(made[0], 1, file_name="000000.png")
    problems = certificate_of(made)["unreadable"]
    assert "train/000000.png: 2 rows name it" in problems
    assert "train/000001.png: no row names it" in problems


def test_no_path_of_the_metadata_is_followed(made, tmp_path: Path) -> None:
    """The picture that the row names is there, outside of the part; it is not read, so it has no sha256."""
    change_row(made[0], 0, file_name="../preserve/000012.png")
    certificate = certificate_of(made)
    assert "train/../preserve/000012.png: not there" in certificate["unreadable"]
    assert not any(".." in name for name in certificate["files"])


def test_every_file_is_hashed_and_one_changed_byte_changes_the_sum(made) -> None:
    folder, _ = made
    before = certificate_of(made)
    assert before["files"]["train/000002.png"] == sha256_file(folder / "train" / "000002.png")
    assert before["files"]["preserve/metadata.jsonl"] == sha256_file(folder / "preserve" / "metadata.jsonl")
    assert len(before["files"]) == 10 + 13 + 2
    assert certificate_of(made)["sha256"] == before["sha256"]
    with (folder / "train" / "000002.png").open("ab") as file:
        file.write(b"x")
    assert certificate_of(made)["sha256"] != before["sha256"]


def test_licences_are_counted_row_by_row(made) -> None:
    for index in (2, 3):
        change_row(made[0], index, license="cc-by-4.0")
    assert certificate_of(made)["licenses"] == {"cc0-1.0": 21, "cc-by-4.0": 2}


def test_what_the_build_tells_stands_in_the_certificate(made) -> None:
    cell = CellAccount(
        concept="mechanic",
        labels={"presentation": "woman"},
        attempts=3,
        confirmed=2,
        refused={"presentation=man": 1},
        disagreed=1,
    )
    account = BuildAccount(
        acceptance=(cell,),
        skipped={"truncated": SkippedItems(number=7, keys=("a.png", "b.png"))},
        filters={"nsfw": 2},
        notes=("half of a folder was read",),
        sources={"photos": "cc-by-4.0"},
        depicts="people",
        consent="signed forms of 2025",
    )
    certificate = certificate_of(made, account)
    (accepted,) = certificate["acceptance"]
    assert (accepted["attempts"], accepted["confirmed"], accepted["rate"]) == (3, 2, 0.6667)
    assert (accepted["refused"], accepted["disagreed"]) == ({"presentation=man": 1}, 1)
    assert certificate["skipped"] == {"truncated": {"number": 7, "keys": ["a.png", "b.png"]}}
    assert (certificate["filters"], certificate["notes"]) == ({"nsfw": 2}, ["half of a folder was read"])
    assert certificate["sources"] == {"photos": "cc-by-4.0"}
    assert (certificate["people"]["depicts"], certificate["people"]["consent"]) == ("people", "signed forms of 2025")
    json.dumps(certificate, allow_nan=False)


def test_an_uneven_target_is_certified_against_its_own_counts(tmp_path: Path) -> None:
    wanted = make_set(tmp_path, wanted=plan(Table(rows={"*": [0.8, 0.2]}, source="a survey")))
    certificate = certify(tmp_path, wanted, ORIGIN)
    assert [entry["count"] for entry in certificate["overall"]] == [8, 2]
    assert certificate["targets"][0]["source"] == "a survey"
    assert certificate["passed"]


def test_a_concept_that_is_left_alone_has_no_cell_and_may_not_be_trained_on(tmp_path: Path) -> None:
    target = Table(rows={"*": [0.5, 0.5], "nurse": "base"}, source="a survey")
    wanted = make_set(tmp_path, wanted=plan(target))
    certificate = certify(tmp_path, wanted, ORIGIN)
    assert certificate["passed"]
    assert certificate["left_alone"] == ["nurse"]
    assert {entry["concept"] for entry in certificate["cells"]} == {"mechanic"}
    change_row(tmp_path, 0, concept="nurse")
    assert not certify(tmp_path, wanted, ORIGIN)["passed"]


def test_a_set_of_captions_alone_is_certified_without_images(made) -> None:
    folder, wanted = made
    rows = read_jsonl(folder / "train" / "metadata.jsonl")
    captions = folder / "captions" / "train" / "captions.jsonl"
    captions.parent.mkdir(parents=True)
    captions.write_text(
        "".join(json.dumps({key: row[key] for key in ("text", "concept", "labels", "template")}) + "\n" for row in rows)
    )
    certificate = certify(folder / "captions", wanted, ORIGIN)
    assert certificate["passed"]
    assert (certificate["holds"], certificate["num_images"]) == ("captions", 10)
    assert list(certificate["files"]) == ["train/captions.jsonl"]
    assert certificate["licenses"] == {"cc0-1.0": 10}


def test_an_empty_set_does_not_pass(made) -> None:
    folder, wanted = made
    for path in (folder / "train").iterdir():
        path.unlink()
    (folder / "train" / "metadata.jsonl").write_text("")
    assert not certify(folder, wanted, ORIGIN)["passed"]


def test_the_claims_of_a_plan_come_back_from_the_certificate(tmp_path: Path) -> None:
    """Concepts with words of their own too, in a language whose words are all given."""
    german = {"name": "german", "article": "given", "plural": "given"}
    doctor = {"name": "doctor", "noun": "Mensch in einem Arztkittel", "article": "ein", "plural": "Menschen"}
    wanted = plan(
        attributes={"first": replace(PRESENTATION, words={"woman": ("Frau",), "man": ("Mann", "Männer")})},
        concepts=[{"name": "ceo", "noun": "CEO", "article": "a", "plural": "CEOs"}, "nurse"],
    )
    claims = claims_of_plan(wanted, license="mit", max_repeats=3)
    claims = replace(claims, heldout=concepts_of([doctor], what="heldout", language=Language(**german)))
    cells = [
        {"concept": cell.concept, "labels": cell.labels, "wanted": cell.wanted, "quota": cell.quota}
        for cell in claims.cells
    ]
    written = json.loads(json.dumps({**claims.as_json(), "cells": cells, "license": "mit"}))
    again = claims_of(written, where=tmp_path)
    assert again.concepts == claims.concepts
    assert [concept.phrases() for concept in again.heldout] == [concept.phrases() for concept in claims.heldout]
    assert again.heldout[0].language == Language(**german)
    assert [attribute.words for attribute in again.attributes] == [attribute.words for attribute in claims.attributes]
    assert (again.cells, again.license, again.max_repeats) == (claims.cells, "mit", 3)
    assert again.targets == wanted.targets


def test_a_certificate_of_another_version_or_without_its_claims_is_refused(made) -> None:
    folder, _ = made
    certificate = certificate_of(made)
    write_json_atomic(folder / CERTIFICATE, {**certificate, "version": 1})
    with pytest.raises(ValueError, match="has version 1, and this evenhand reads version 2"):
        read_certificate(folder)
    write_json_atomic(folder / CERTIFICATE, [])
    with pytest.raises(ValueError, match="has version None"):
        read_certificate(folder)
    del certificate["vocabulary"]
    with pytest.raises(ValueError, match="lacks something that a certificate has: KeyError\\('vocabulary'\\)"):
        claims_of(certificate, where=folder)


def test_the_counts_of_a_random_set_are_those_of_a_plain_counter(tmp_path: Path) -> None:
    """An oracle that knows nothing of plans: rows counted by concept and label."""
    wanted = make_set(tmp_path, wanted=plan(images_per_concept=9, concepts=["mechanic", "nurse", "judge"]))
    values = np.random.default_rng(7).choice(["woman", "man"], size=len(wanted.slots))
    for index, value in enumerate(values):
        change_row(tmp_path, index, labels={"presentation": str(value)})
    rows = read_jsonl(tmp_path / "train" / "metadata.jsonl")
    expected: Counter[tuple[str, Cell]] = Counter((row["concept"], (row["labels"]["presentation"],)) for row in rows)
    certificate = certify(tmp_path, wanted, ORIGIN)
    found = {(entry["concept"], (entry["labels"]["presentation"],)): entry["count"] for entry in certificate["cells"]}
    assert found == {key: expected[key] for key in found}
