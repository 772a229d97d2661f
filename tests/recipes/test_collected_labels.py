"""Who says what a collected picture shows: its columns, readers, or both; captions, filters, and pictures of people."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from evenhand.files import read_jsonl
from evenhand.hygiene.filters import ReaderFilter
from evenhand.recipes.annotation import Captions
from evenhand.sources.columns import Columns
from tests.painted import PaintedReader
from tests.recipes.collected_photos import (
    OtherReader,
    build,
    certified,
    collected,
    plan_of,
    rows_of,
    source_of,
    truth,
)


def test_labels_of_the_source_ask_no_reader(photos: Path, tmp_path: Path) -> None:
    recipe = collected(source_of(photos), reader=None, labels_from="source")
    certificate = certified(tmp_path / "run", recipe)
    assert (certificate["passed"], certificate["confirmed_by"]) == (True, None)
    assert "labels are as the sources give them; no reader was asked" in certificate["notes"]
    known = truth(tmp_path / "run", photos)
    rows = [json.loads(line) for line in (tmp_path / "run" / "train" / "metadata.jsonl").read_text().splitlines()]
    assert {row["file_name"]: f"{row['concept']} {row['labels']['presentation']}" for row in rows} == known


def test_a_picture_is_used_only_where_readers_see_what_the_source_says(photos: Path, tmp_path: Path) -> None:
    """Thirty of the source's labels are wrong; each of them is found."""
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    for row in rows[:30]:
        row["shown"] = {"woman": "man", "man": "woman"}[row["shown"]]
    rows[30]["shown"], rows[31]["shown"] = "robot", None
    (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = collected(source_of(photos), labels_from="both")
    certificate = certified(tmp_path / "run", recipe)
    numbers = {reason: entry["number"] for reason, entry in certificate["skipped"].items()}
    assert numbers == {
        "readers and source disagree on presentation": 30,
        "unknown presentation in the source": 1,
        "no presentation in the source": 1,
    }
    wrong = {f"photos:{row['file_name']}" for row in rows[:32]}
    assert not wrong & {row.source for row in build(tmp_path / "run", recipe)}


def test_readers_that_disagree_are_counted_and_none_of_them_is_believed(photos: Path, tmp_path: Path) -> None:
    recipe = collected(source_of(photos), second_readers={"one": OtherReader(name="other")})
    assert recipe.origin.confirmed_by == "painted_reader and other"
    certificate = certified(tmp_path / "run", recipe)
    doubtful = [row for row, content in rows_of(90) if row["shown"] == "woman" and _red(content) < 64]
    assert 0 < len(doubtful) < 45
    assert certificate["skipped"] == {
        "readers disagree on presentation": {
            "number": len(doubtful),
            "keys": sorted(f"photos:{row['file_name']}" for row in doubtful)[:3],
        }
    }


def _red(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        return int(image.getpixel((0, 0))[0])  # type: ignore[index]  # an RGB picture


def test_a_reader_can_say_what_a_picture_shows(photos: Path, tmp_path: Path) -> None:
    columns = Columns(text=None, concept=None, labels={}, license=None)
    recipe = collected(source_of(photos, columns=columns), concept_attribute="occupation")
    assert certified(tmp_path / "run", recipe)["passed"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "train" / "metadata.jsonl").read_text().splitlines()]
    known = truth(tmp_path / "run", photos)
    assert {row["file_name"]: f"{row['concept']} {row['labels']['presentation']}" for row in rows} == known
    assert {row["license"] for row in rows} == {"cc-by-4.0"}
    lies = Columns(text=None, concept=None, labels={}, license=None)
    with pytest.raises(ValueError, match="60 of 90 places were left out: 60 reader sees another occupation than the"):
        build(
            tmp_path / "lies",
            collected(source_of(photos, columns=lies, concept="nurse"), concept_attribute="occupation"),
        )


def test_own_captions_are_kept_where_they_are_neutral_and_right(photos: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    bad = ["a female mechanic", "an nurse", "", "a judge and an electrician", "<b>a mechanic</b>", "x" * 101]
    for row, text in zip(rows, bad, strict=False):
        row["text"] = text
    rows[6]["text"] = "  qāḍī  – قاضٍ 👩‍⚖️ "
    (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = plan_of(images_per_concept=20)
    recipe = collected(source_of(photos), plan=plan, captions=Captions(origin="source", max_characters=100))
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    assert set(certificate["skipped"]) == {
        "caption names presentation=woman",
        "caption has a mistake",
        "empty caption",
        "no caption",
        "caption names held-out concept electrician",
        "markup in the caption",
        "caption too long",
    } - {"empty caption"}
    train = [row for row in build(tmp_path / "run", recipe) if row.file_name.startswith("train/")]
    texts = {row.text for row in train}
    assert {row.explicit for row in train} == {""}  # nobody knows how a caption of somebody's own would name the values
    assert texts <= {"a mechanic at a desk", "a nurse at a desk", "a judge at a desk", "qāḍī – قاضٍ 👩‍⚖️"}


def test_a_filter_leaves_out_what_its_reader_says(photos: Path, tmp_path: Path) -> None:
    no_judges = ReaderFilter(
        name="no_judges",
        reader=PaintedReader(),
        attribute="occupation",
        allowed=("mechanic", "nurse"),
        min_subjects=None,
        max_subjects=None,
        unread="skip",
        about="picture",
    )
    recipe = collected(source_of(photos), plan=plan_of(concepts=["mechanic", "nurse"]), filters={"a": no_judges})
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["filters"] == {"no_judges": 0}  # judges are none of the plan's, which is seen before
    columns = Columns(text=None, concept=None, labels={}, license=None)
    recipe = collected(
        source_of(photos, columns=columns, concept="nurse"), plan=plan_of(concepts=["nurse"]), filters={"a": no_judges}
    )
    assert certified(tmp_path / "other", recipe)["filters"] == {"no_judges": 30}


def test_pictures_of_people_are_labelled_by_no_reader_and_no_file_name_is_copied(photos: Path, tmp_path: Path) -> None:
    people = source_of(photos, depicts="people", consent="release forms of 2025")
    with pytest.raises(ValueError, match="source photos depicts people, and this would write a reader's labels"):
        collected(people)
    with pytest.raises(ValueError, match="depicts people"):
        collected(people, labels_from="both")
    with pytest.raises(ValueError, match="photos depicts people, and explicit captions.*preserve.explicit=false"):
        collected(people, reader=None, labels_from="source")
    recipe = collected(people, reader=None, labels_from="source", preserve=None)
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    assert (certificate["people"]["depicts"], certificate["people"]["consent"]) == ("people", "release forms of 2025")
    metadata = (tmp_path / "run" / "train" / "metadata.jsonl").read_text()
    assert ".png" in metadata
    assert "mechanic/" not in metadata


@pytest.mark.parametrize(("depicts", "names_values"), [("people", False), ("other", True)])
def test_no_caption_beside_a_picture_of_a_person_names_what_is_known_of_them(
    photos: Path, tmp_path: Path, depicts: str, names_values: bool
) -> None:
    given = source_of(photos, depicts=depicts, consent="release forms of 2025")
    certified(tmp_path / "run", collected(given, reader=None, labels_from="source", preserve=None))
    explicit = [row["explicit"] for row in read_jsonl(tmp_path / "run" / "train" / "metadata.jsonl")]
    assert len(explicit) > 0
    assert all(explicit) if names_values else not any(explicit)
