"""Certificates of sets with planted faults, against hand counts; the dataset card is read back from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from evenhand.evaluation.targets import Table, Uniform
from evenhand.files import append_jsonl, read_jsonl, sha256_file, write_jsonl_atomic
from evenhand.recipes.card import dataset_card
from evenhand.recipes.certificate import certify
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import Origin, train_row, write_metadata
from evenhand.recipes.self_generated import ATTEMPTS
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
ORIGIN = Origin(source="self:painted", confirmed_by="painted_reader", license="cc0-1.0")


def plan(target: Any = None) -> CuratedPlan:
    return CuratedPlan(
        attributes={"first": PRESENTATION},
        targets={"*": target or Uniform()},
        concepts=["mechanic", "nurse"],
        heldout=["pilot"],
        templates=["a portrait of {a_concept}"],
        images_per_concept=5,
        seed=0,
    )


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, CuratedPlan]:
    """A right set of ten noise images."""
    wanted = plan()
    rows = [train_row(slot, ORIGIN, seed=slot.index) for slot in wanted.slots]
    (tmp_path / "train").mkdir()
    for row in rows:
        pixels = np.random.default_rng(row.seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / row.file_name)
    write_metadata(tmp_path, rows)
    return tmp_path, wanted


def change_row(folder: Path, index: int, **changes: Any) -> None:
    path = folder / "train" / "metadata.jsonl"
    rows = read_jsonl(path)
    rows[index].update(changes)
    write_jsonl_atomic(path, rows)


def test_a_right_set_passes_and_its_counts_are_those_of_its_rows(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    certificate = certify(folder, wanted, ORIGIN)
    assert certificate["passed"]
    assert certificate["num_images"] == 10
    assert certificate["largest_deviation"] == {"per_concept": 0.5, "overall": 0.0}  # 2.5 of each value in a concept
    assert [entry["count"] for entry in certificate["overall"]] == [5, 5]
    assert sorted(entry["count"] for entry in certificate["cells"]) == [2, 2, 3, 3]
    assert certificate["leaks"] == certificate["duplicates"] == certificate["not_asked_for"] == []
    assert certificate["acceptance"] is None


def test_wrong_labels_are_counted_and_fail_the_certificate(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    for index, slot in enumerate(wanted.slots):
        change_row(folder, index, labels={"presentation": "woman"})
        assert slot.index == index
    certificate = certify(folder, wanted, ORIGIN)
    assert not certificate["passed"]
    assert certificate["largest_deviation"] == {"per_concept": 2.5, "overall": 5.0}


def test_a_row_that_nobody_asked_for_fails_the_certificate(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    change_row(folder, 0, concept="pirate")
    certificate = certify(folder, wanted, ORIGIN)
    assert not certificate["passed"]
    assert certificate["not_asked_for"] == [{"concept": "pirate", "cell": ["woman"]}]


@pytest.mark.parametrize("text", ["a portrait of a female mechanic", "a portrait of a Pilot"])
def test_a_leak_in_a_written_caption_is_listed(made: tuple[Path, CuratedPlan], text: str) -> None:
    folder, wanted = made
    change_row(folder, 3, text=text)
    certificate = certify(folder, wanted, ORIGIN)
    assert not certificate["passed"]
    assert len(certificate["leaks"]) == 1
    assert text in certificate["leaks"][0]


def test_equal_images_are_listed(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    (folder / "train" / "000004.png").write_bytes((folder / "train" / "000001.png").read_bytes())
    certificate = certify(folder, wanted, ORIGIN)
    assert certificate["duplicates"] == [["train/000001.png", "train/000004.png"]]
    assert not certificate["passed"]


def test_every_file_is_hashed_and_one_changed_byte_changes_the_sum(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    before = certify(folder, wanted, ORIGIN)
    assert before["files"]["train/000002.png"] == sha256_file(folder / "train" / "000002.png")
    assert len(before["files"]) == 11
    assert certify(folder, wanted, ORIGIN)["sha256"] == before["sha256"]
    with (folder / "train" / "000002.png").open("ab") as file:
        file.write(b"x")
    assert certify(folder, wanted, ORIGIN)["sha256"] != before["sha256"]


def test_acceptance_is_counted_from_the_attempts(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    append_jsonl(folder / ATTEMPTS, [{"attempts": [[0, 0, "presentation=man"], [0, 1, None], [9, 0, None]]}])
    first, second = certify(folder, wanted, ORIGIN)["acceptance"]
    assert (first["concept"], first["attempts"], first["confirmed"], first["rate"]) == ("mechanic", 2, 1, 0.5)
    assert first["refused"] == {"presentation=man": 1}
    assert (second["concept"], second["labels"], second["rate"]) == ("nurse", {"presentation": "man"}, 1.0)


def test_the_card_holds_the_counts_and_front_matter_that_datasets_reads(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    certificate = certify(folder, wanted, ORIGIN)
    _, front, body = dataset_card(certificate).split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc0-1.0"
    assert [config["config_name"] for config in yaml.safe_load(front)["configs"]] == ["default"]
    assert "| all | 5 | 5 |" in body
    assert certificate["sha256"] in body
    assert "painted_reader" in body


def test_the_card_of_a_licence_in_words_names_it_as_other(made: tuple[Path, CuratedPlan]) -> None:
    folder, wanted = made
    origin = Origin(source="renders:x", confirmed_by=None, license="Drawings: free for all uses")
    front = yaml.safe_load(dataset_card(certify(folder, wanted, origin)).split("---\n", 2)[1])
    assert (front["license"], front["license_name"]) == ("other", "drawings-free-for-all-uses")


def test_an_uneven_target_is_certified_against_its_own_counts(tmp_path: Path) -> None:
    wanted = plan(Table(rows={"*": [0.8, 0.2]}, source="a survey"))
    write_metadata(tmp_path, [train_row(slot, ORIGIN, seed=slot.index) for slot in wanted.slots])
    certificate = certify(tmp_path, wanted, ORIGIN)
    assert [entry["count"] for entry in certificate["overall"]] == [8, 2]
    assert certificate["targets"][0]["source"] == "a survey"
    assert certificate["passed"]
