"""Sets from painted pictures of others: what is in each of them is known, and the reader of colours reads it."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evenhand.files import read_jsonl
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.preserve import Preserve
from evenhand.records import SubjectReading
from evenhand.sources.records import Skipped, SourceItem
from tests.painted import PaintedReader
from tests.pictures import painted, png, write_folder
from tests.rank_threads import on_ranks
from tests.recipes.collected_photos import (
    ALONE,
    COLUMNS,
    CPU,
    JOBS,
    PRESENTATION,
    build,
    certified,
    collected,
    contents,
    plan_of,
    rows_of,
    source_of,
    truth,
)


def test_a_set_of_collected_pictures_meets_its_quotas_and_is_certified(photos: Path, tmp_path: Path) -> None:
    recipe = collected(source_of(photos))
    recipe.check(tmp_path / "run")
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    assert {cell["count"] for cell in certificate["cells"]} == {3}
    assert recipe.num_images == 18 + 18 + 2
    assert certificate["confirmed_by"] == "painted_reader"
    assert certificate["licenses"] == {"cc0-1.0": 38}
    explicit = {row["text"] for row in read_jsonl(tmp_path / "run" / "preserve" / "metadata.jsonl")} - {""}
    assert {row["explicit"] for row in read_jsonl(tmp_path / "run" / "train" / "metadata.jsonl")} == explicit
    rows = [json.loads(line) for line in (tmp_path / "run" / "train" / "metadata.jsonl").read_text().splitlines()]
    known = truth(tmp_path / "run", photos)
    assert {row["file_name"]: f"{row['concept']} {row['labels']['presentation']}" for row in rows} == known
    assert all(row["source"].startswith("photos:") and (photos / row["source"][7:]).is_file() for row in rows)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_processes_makes_the_same_set(photos: Path, tmp_path: Path, num_ranks: int) -> None:
    certified(tmp_path / "alone", collected(source_of(photos)))
    shares = on_ranks(num_ranks, lambda ranks: build(tmp_path / "shared", collected(source_of(photos)), ranks))
    write_metadata(tmp_path / "shared", [row for share in shares for row in share])
    assert all(shares)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


@pytest.mark.parametrize("num_rows", [0, 1, 9, 18, 30, 37])
def test_a_build_that_stopped_while_it_wrote_goes_on_in_another_number_of_processes(
    photos: Path, tmp_path: Path, num_rows: int
) -> None:
    certified(tmp_path / "whole", collected(source_of(photos)))
    images = collected(source_of(photos)).build(tmp_path / "again", device=CPU, ranks=ALONE)
    for _ in range(num_rows):
        next(images)
    images.close()
    shares = on_ranks(2, lambda ranks: build(tmp_path / "again", collected(source_of(photos)), ranks))
    write_metadata(tmp_path / "again", [row for share in shares for row in share])
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


@pytest.mark.parametrize("num_blocks", [1, 5, 11])
def test_a_build_that_stopped_while_it_looked_reads_only_the_blocks_that_it_had_not(
    photos: Path, tmp_path: Path, num_blocks: int
) -> None:
    class Dying(PaintedReader):
        def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
            batches.append(len(images))
            if len(batches) > num_blocks:
                raise KeyboardInterrupt
            return super().read(images)

    batches: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "again", collected(source_of(photos), reader=Dying()))
    num_read = sum(batches[:-1])
    assert num_read == 8 * num_blocks

    class Counting(PaintedReader):
        def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
            counted.append(len(images))
            return super().read(images)

    counted: list[int] = []
    certified(tmp_path / "again", collected(source_of(photos), reader=Counting()))
    assert sum(counted) == 90 - num_read
    certified(tmp_path / "whole", collected(source_of(photos)))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert build(tmp_path / "again", collected(source_of(photos), reader=Dying()))  # a finished one reads nothing


def test_another_seed_draws_other_pictures(photos: Path, tmp_path: Path) -> None:
    first = {row.source for row in build(tmp_path / "a", collected(source_of(photos)))}
    other = {row.source for row in build(tmp_path / "b", collected(source_of(photos), plan=plan_of(seed=1)))}
    assert len(first & other) < len(first) == 18


def test_no_more_than_a_block_is_in_memory(tmp_path: Path) -> None:
    """A source that counts: when the first place of a block is read, all blocks before it stand in the index."""

    class Counting:
        name, license, depicts, consent = "counting", "cc0-1.0", "synthetic", None
        inputs: dict[str, Path] = {}  # noqa: RUF012

        def check(self) -> None: ...

        def items(
            self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Any = None
        ) -> Iterator[SourceItem | Skipped]:
            for number, (row, content) in enumerate(rows_of(60)):
                if number % 8 == 0 and looking:
                    index = tmp_path / "candidates" / "000.jsonl"
                    seen.append(len(index.read_text().splitlines()) if index.is_file() else 0)
                if only(str(number)):
                    labels = {"presentation": str(row["shown"])}
                    yield SourceItem(
                        key=f"{number}", content=content, concept=str(row["job"]), labels=labels, source="counting"
                    )

    seen: list[int] = []
    looking = True
    images = collected(Counting()).build(tmp_path, device=CPU, ranks=ALONE)
    next(images)
    looking = False
    assert seen[:8] == list(range(8))
    assert len(list(images)) == 37


def test_cells_that_cannot_be_filled_are_all_told_and_nothing_is_written(photos: Path, tmp_path: Path) -> None:
    recipe = collected(source_of(photos), plan=plan_of(images_per_concept=32))
    with pytest.raises(ValueError, match="lack pictures for 6 cells") as told:
        build(tmp_path / "run", recipe)
    for job in JOBS:
        for value in PRESENTATION.values:
            assert f"{job}, presentation={value}: 15 found, 16 wanted, 1 missing" in str(told.value)
    assert "lower images_per_concept to 30" in str(told.value)
    assert not (tmp_path / "run" / "train").exists()
    assert len(json.loads((tmp_path / "run" / "candidates" / "lacking.json").read_text())) == 6


def test_scarce_pictures_are_used_again_up_to_the_limit_and_the_certificate_knows(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", rows_of(60, women=0.1))  # 2 women and 18 men of each job
    certificate = certified(tmp_path / "a", collected(source_of(photos), max_repeats=2, preserve=None, plan=plan_of()))
    assert (certificate["passed"], certificate["max_repeats"]) == (True, 2)
    uses = Counter(path.read_bytes() for path in (tmp_path / "a" / "train").glob("*.png"))
    assert Counter(uses.values()) == {1: 3 * 3 + 3, 2: 3}  # three slots of two women: one of them twice
    with pytest.raises(ValueError, match="3 cells, each used at most 1 times: mechanic, presentation=woman: 2 found"):
        build(tmp_path / "b", collected(source_of(photos)))


def test_reweighting_makes_the_set_as_large_as_its_pictures_allow(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", rows_of(60, women=0.1))
    plan = plan_of(images_per_concept=1000)
    recipe = collected(source_of(photos), plan=plan, mode="reweight", max_repeats=5, preserve=None)
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    assert {cell["count"] for cell in certificate["cells"]} == {10}  # 2 women 5 times
    assert recipe.num_images == 60
    recipe = collected(source_of(photos), plan=plan, mode="reweight", max_repeats=100, preserve=None)
    certified(tmp_path / "all", recipe)
    uses = Counter(path.read_bytes() for path in (tmp_path / "all" / "train").glob("*.png"))
    assert Counter(uses.values()) == {1: 54, 9: 6}  # every man once, and as many women


def test_what_cannot_be_used_is_counted_with_its_reason(photos: Path, tmp_path: Path) -> None:
    lines = (photos / "metadata.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    (photos / "mechanic/000.png").write_bytes(png(painted("mechanic", "woman", 0))[:-30])
    (photos / "copy.png").write_bytes((photos / "nurse/001.png").read_bytes())
    Image.new("RGB", (4, 4)).save(photos / "tiny.png")
    Image.new("RGB", (16, 16), (9, 9, 9)).save(photos / "nobody.png")
    more = [{**first, "file_name": name} for name in ("copy.png", "tiny.png", "nobody.png", "../x.png")]
    more[0]["job"] = "nurse"
    more.append({**first, "file_name": "judge/002.png"})
    more.append({**first, "file_name": "electrician.png", "job": "electrician"})
    (photos / "electrician.png").write_bytes(png(painted("electrician", "man", 500)))
    (photos / "metadata.jsonl").write_text("\n".join([*lines, *map(json.dumps, more)]) + "\n")
    recipe = collected(source_of(photos))
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    numbers = {reason: entry["number"] for reason, entry in certificate["skipped"].items()}
    assert numbers == {
        "concept is none of the plan's": 1,
        "duplicate": 1,
        "file name leaves the folder": 1,
        "file named by an earlier row": 1,
        "presentation unread: no person found": 1,
        "too small": 1,
        "truncated": 1,
    }
    assert certificate["skipped"]["truncated"]["keys"] == ["photos:mechanic/000.png"]


def test_equal_names_and_settings_that_nothing_reads_are_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match="two sources are called 'photos'"):
        collected(source_of(photos), source_of(photos))
    with pytest.raises(ValueError, match="sources is empty"):
        collected()
    with pytest.raises(ValueError, match="labels_from=source asks no reader: set recipe.reader=null"):
        collected(source_of(photos), labels_from="source")
    with pytest.raises(ValueError, match="labels_from=readers needs a reader"):
        collected(source_of(photos), reader=None)
    with pytest.raises(ValueError, match="reader painted_reader is asked twice"):
        collected(source_of(photos), second_readers={"one": PaintedReader()})
    with pytest.raises(ValueError, match="has no pictures for 'a car'"):
        collected(
            source_of(photos), preserve=Preserve(captions=("a car",), images_per_caption=1, explicit=True, empty=0)
        )
    with pytest.raises(ValueError, match="empty=19 is more than the set's 18 images"):
        collected(source_of(photos), preserve=Preserve(captions=(), images_per_caption=0, explicit=True, empty=19))
    with pytest.raises(ValueError, match="max_repeats must be >= 1, got 0"):
        collected(source_of(photos), max_repeats=0)
    blind = PaintedReader(attributes={"presentation": ("woman", "robot")})
    with pytest.raises(ValueError, match="reader painted_reader knows no presentation=man"):
        collected(source_of(photos), reader=blind)


def test_several_sources_fill_one_set_each_with_its_licence(tmp_path: Path) -> None:
    rows = list(rows_of(36))
    first = write_folder(tmp_path / "first", rows[:18])
    second = write_folder(tmp_path / "second", rows[18:])
    columns = replace(COLUMNS, license=None)
    recipe = collected(
        source_of(first, name="first", columns=columns),
        source_of(second, name="second", columns=columns, license="mit", depicts="synthetic"),
        plan=plan_of(images_per_concept=10),
    )
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    assert certificate["sources"] == {"first": "cc-by-4.0", "second": "mit"}
    rows_there = build(tmp_path / "run", recipe)
    licences = Counter((row.source.partition(":")[0], row.license) for row in rows_there)
    assert set(licences) == {("first", "cc-by-4.0"), ("second", "mit")}
    assert certificate["licenses"] == {license: number for (_, license), number in licences.items()}
    assert certificate["license"] == "cc-by-4.0; mit"
    assert certificate["people"]["depicts"] == "other"


def test_a_picture_that_changed_between_the_passes_is_told(photos: Path, tmp_path: Path) -> None:
    images = collected(source_of(photos)).build(tmp_path / "run", device=CPU, ranks=ALONE)
    next(images)
    images.close()
    for path in photos.rglob("*.png"):
        path.write_bytes(png(painted("judge", "man", 1000)))
    with pytest.raises(ValueError, match="has changed since it was looked at; bring it back"):
        build(tmp_path / "run", collected(source_of(photos)))
    for path in photos.rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="is gone since it was looked at"):
        build(tmp_path / "run", collected(source_of(photos)))


def test_pictures_come_upright_smaller_and_without_what_was_hidden_in_them(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    rows = list(rows_of(36))
    write_folder(photos, rows)
    for row, content in rows:
        image = Image.open(io.BytesIO(content)).rotate(90)
        exif = image.getexif()
        exif[0x0112], exif[0x010E] = 6, "a secret"  # turned by 90 degrees; a description
        exif.get_ifd(0x8825)[2] = (59.0, 19.0, 0.0)
        image.save(photos / str(row["file_name"]), exif=exif)
    recipe = collected(source_of(photos), max_side_px=8)
    certificate = certified(tmp_path / "run", recipe)
    assert certificate["passed"]
    assert any("turned upright" in note for note in certificate["notes"])
    for path in (tmp_path / "run").rglob("*.png"):
        assert b"secret" not in path.read_bytes()
        with Image.open(path) as image:
            assert (image.size, image.mode, image.info, dict(image.getexif())) == ((8, 8), "RGB", {}, {})


def test_preserve_holds_the_same_pictures_under_explicit_and_empty_captions(photos: Path, tmp_path: Path) -> None:
    rows = build(tmp_path / "run", collected(source_of(photos)))
    train = [row for row in rows if row.file_name.startswith("train/")]
    preserve = [row for row in rows if row.file_name.startswith("preserve/")]
    assert len(train) == 18
    assert len(preserve) == 20
    sources = {row.source for row in train}
    assert all(row.source in sources for row in preserve)
    empty = [row for row in preserve if row.text == ""]
    assert len(empty) == 2
    assert all(row.labels == {} for row in empty)
    named = [row.text for row in preserve if row.text]
    assert all(("female" in text) != (" male" in f" {text}") for text in named)
    assert len({row.file_name for row in rows}) == len(rows)
