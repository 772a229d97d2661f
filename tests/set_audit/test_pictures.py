"""Pictures as they stream by: order, what is left out, and what is never kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evenhand.hygiene.people import Depicts
from evenhand.readers.planted import Planted
from evenhand.records import SubjectReading
from evenhand.set_audit.pictures import LABELS, Picture, look
from evenhand.sources.columns import Columns
from evenhand.sources.folders import GeneratedFolder, ImageFolder
from evenhand.sources.records import Skipped
from tests.set_audit.made import COLORS, PRESENTATION, paint, settings

READER = Planted(
    name="planted",
    colors={"presentation": {value: COLORS[value] for value in PRESENTATION.values}},
    max_distance=60.0,
    confusion=0.0,
    abstain=0.0,
    seed=0,
)
LOADED = {"planted": READER.load(device=torch.device("cpu"))}


def generated(folder: Path, *, depicts: Depicts = "synthetic") -> GeneratedFolder:
    consent = "all of them signed for it" if depicts == "people" else None
    return GeneratedFolder(
        name="made", folder=folder, concept=None, concepts={}, license="CC0-1.0", depicts=depicts, consent=consent
    )


def seen(
    source: GeneratedFolder | ImageFolder, *, batch_size: int = 4, num_threads: int = 2
) -> list[Picture | Skipped]:
    return list(look(source, LOADED, [PRESENTATION], settings(), batch_size=batch_size, num_threads=num_threads))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place in range(7):
        paint(tmp_path / "mechanic" / f"{place}.png", "man" if place else "woman", seed=place)
    paint(tmp_path / "nurse" / "0.png", "nobody", seed=9)
    (tmp_path / "mechanic" / "3b.png").write_bytes((tmp_path / "mechanic" / "3.png").read_bytes()[:200])
    paint(tmp_path / "nurse" / "small.png", "man", seed=10, size_px=4)
    return tmp_path


def values(reader: str, pictures: list[Picture | Skipped]) -> list[str | None]:
    return [each.readings[reader][0].value for each in pictures if isinstance(each, Picture)]


def test_pictures_come_in_the_sources_order_with_what_was_read(folder: Path) -> None:
    found = seen(generated(folder))
    pictures = [each for each in found if isinstance(each, Picture)]
    assert [each.key for each in pictures] == [*(f"mechanic/{place}.png" for place in range(7)), "nurse/0.png"]
    assert [each.concept for each in pictures] == ["mechanic"] * 7 + ["nurse"]
    assert values("planted", found) == ["woman", *["man"] * 6, None]
    assert values(LABELS, found) == [None] * 8
    assert [each.key for each in found if isinstance(each, Skipped)] == ["mechanic/3b.png", "nurse/small.png"]
    assert [each.reason.partition(" (")[0] for each in found if isinstance(each, Skipped)] == ["truncated", "too small"]


@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (3, 4), (64, 2)])
def test_neither_batches_nor_threads_change_what_is_seen(folder: Path, batch_size: int, num_threads: int) -> None:
    def facts(found: list[Picture | Skipped]) -> list[object]:
        return sorted(repr(each) for each in found)

    assert facts(seen(generated(folder), batch_size=batch_size, num_threads=num_threads)) == facts(
        seen(generated(folder))
    )


def test_thumbnails_are_kept_of_generated_pictures_and_never_of_people(folder: Path) -> None:
    kept, people = (seen(generated(folder, depicts=depicts)) for depicts in ("synthetic", "people"))
    assert all(each.thumbnail for each in kept if isinstance(each, Picture))
    assert all(each.thumbnail is None for each in people if isinstance(each, Picture))


def test_a_picture_is_not_lost_for_its_caption_and_labels_are_checked(tmp_path: Path) -> None:
    rows = [
        {"file_name": "0.png", "text": "a portrait of a nurse", "labels": {"presentation": "woman"}},
        {"file_name": "1.png", "text": "<b>bold</b>", "labels": {"presentation": "androgynous"}},
        {"file_name": "2.png", "text": "x" * 1000, "labels": {}},
        {"file_name": "3.png", "text": None, "labels": None},
    ]
    for place in range(len(rows)):
        paint(tmp_path / f"{place}.png", "woman", seed=place)
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Columns(text="text", concept=None, labels={"presentation": "labels.presentation"}, license=None)
    source = ImageFolder(
        name="made",
        folder=tmp_path,
        columns=columns,
        concept="nurse",
        license="CC0-1.0",
        depicts="synthetic",
        consent=None,
    )
    pictures = [each for each in seen(source) if isinstance(each, Picture)]
    assert [each.text for each in pictures] == ["a portrait of a nurse", None, None, None]
    problems = [(each.text_problem or "").partition(" (")[0] for each in pictures]
    assert problems == ["", "markup in the caption", "caption too long", ""]
    assert [each.readings[LABELS][0].unread for each in pictures] == [
        None,
        "unknown value 'androgynous'",
        "no label",
        "no label",
    ]
    assert isinstance(pictures[0].readings[LABELS][0], SubjectReading)
    assert {each.concept for each in pictures} == {"nurse"}
