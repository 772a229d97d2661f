from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evenhand.sources.columns import Columns
from evenhand.sources.folders import GeneratedFolder, ImageFolder
from tests.pictures import noise, png, write_folder
from tests.sources.sharing import check_sharing, pictures, reasons

NO_COLUMNS = Columns(text=None, concept=None, labels={}, license=None)
OURS = Columns(text="text", concept="concept", labels={"season": "labels.season"}, license="license")


def image_folder(folder: Path, **changes: Any) -> ImageFolder:
    given = {"columns": OURS, "concept": None, "license": "cc0-1.0", "depicts": "other", "consent": None}
    return ImageFolder(name="photos", folder=folder, **{**given, **changes})


def generated(folder: Path, **changes: Any) -> GeneratedFolder:
    given: dict[str, Any] = {"concept": None, "concepts": {}, "license": "x", "depicts": "synthetic", "consent": None}
    return GeneratedFolder(name="made", folder=folder, **{**given, **changes})


def row(name: str, **more: object) -> dict[str, object]:
    return {"file_name": name, "text": "t", "concept": "c", "labels": {"season": "winter"}, "license": "l", **more}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rows = [(row(f"sub/{number}.png"), png(noise(number))) for number in range(7)]
    return write_folder(tmp_path / "photos", rows)


def test_rows_are_shared_and_say_what_their_pictures_are(photos: Path) -> None:
    source = image_folder(photos)
    source.check()
    check_sharing(source)
    item = pictures(source)[2]
    assert (item.key, item.text, item.concept, item.license) == ("sub/2.png", "t", "c", "l")
    assert item.labels == {"season": "winter"}
    assert item.content == png(noise(2))


def test_a_csv_file_is_read_as_well(photos: Path) -> None:
    (photos / "metadata.jsonl").unlink()
    (photos / "metadata.csv").write_text("\ufefffile_name,text,concept,license\nsub/1.png,ein Bär,c,l\nsub/0.png,,c,\n")
    source = image_folder(photos, columns=Columns(text="text", concept="concept", labels={}, license="license"))
    source.check()
    first, second = pictures(source)
    assert (first.key, first.text, first.license) == ("sub/1.png", "ein Bär", "l")
    assert (second.text, second.license) == (None, None)


def test_nothing_outside_the_folder_is_read_and_each_bad_row_is_skipped_with_its_reason(photos: Path) -> None:
    secret = photos.parent / "secret.png"
    secret.write_bytes(png(noise(99)))
    (photos / "away.png").symlink_to(secret)
    bad = ["../secret.png", str(secret), "away.png", "gone.png", "a\0b.png", "sub", None, 7, "sub\\0.png", "sub/0.png"]
    lines = [json.dumps(row("sub/0.png", file_name=name)) for name in ["sub/0.png", *bad]]
    (photos / "metadata.jsonl").write_text("\n".join([*lines, "no json", "[1]", "{}"]) + "\n")
    found = reasons(image_folder(photos))
    assert [item.key for item in pictures(image_folder(photos))] == ["sub/0.png"]
    told = {key.partition(": ")[2].strip("'") or key: reason for key, reason in found.items()}
    assert told["../secret.png"] == "file name leaves the folder (..)"
    absolute = [reason for key, reason in told.items() if key.startswith(str(secret)[:40])]  # long names are cut
    assert absolute == ["absolute file name"]
    assert told["away.png"] == "link leaves the folder"
    assert told["gone.png"] == "no such file"
    assert told["sub"] == "not a file"
    assert told["None"] == "no file name"
    assert told["sub\\\\0.png"] == "backslash in the file name"
    assert found["metadata.jsonl:row 11"] == "file named by an earlier row"
    assert found["metadata.jsonl:row 12"] == found["metadata.jsonl:row 13"] == "not a row of metadata"
    assert sum(reason == "no row in the metadata" for reason in found.values()) == 6
    assert b"" not in [item.content for item in pictures(image_folder(photos))]


def test_metadata_files_below_name_files_beside_them(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_folder(tmp_path / part, [(row("0.png"), png(noise(len(part))))])
    assert [item.key for item in pictures(image_folder(tmp_path))] == ["test/0.png", "train/0.png"]


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match="source photos: no such folder"):
        image_folder(tmp_path / "gone").check()
    with pytest.raises(ValueError, match="not a folder"):
        image_folder(photos / "metadata.jsonl").check()
    with pytest.raises(ValueError, match="no metadata.jsonl or metadata.csv .*source=generated_folder"):
        image_folder(photos / "sub").check()
    with pytest.raises(ValueError, match="no column 'job'; it has file_name, text, concept, labels, license"):
        image_folder(photos, columns=Columns(text=None, concept="job", labels={}, license=None)).check()
    (photos / "metadata.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match="holds no rows"):
        image_folder(photos).check()
    (photos / "metadata.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match="no column 'file_name'"):
        image_folder(photos, columns=NO_COLUMNS).check()


def test_a_row_beyond_all_measure_is_skipped_and_the_next_one_read(photos: Path) -> None:
    (photos / "metadata.jsonl").unlink()
    (photos / "metadata.csv").write_text(f"file_name,text\nsub/0.png,{'x' * 200_000}\nsub/1.png,y\n")
    source = image_folder(photos, columns=NO_COLUMNS)
    assert [item.key for item in pictures(source)] == ["sub/1.png"]
    assert reasons(source)["metadata.csv:row 1"] == "not a row of metadata"


def test_pictures_of_any_tool_have_the_concept_of_their_folder(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["software_developer/a.png", "software_developer/deep/b.JPG", "sw/c.webp", "d", "e.png"]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(noise(number)))
    (tmp_path / "sw" / "c.txt").write_text("a caption\n")
    (tmp_path / "sw" / "settings.json").write_text("{}")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    source = generated(tmp_path, concepts={"sw": "developer"})
    source.check()
    check_sharing(source)
    found = {item.key: (item.concept, item.text) for item in pictures(source)}
    assert found == {
        "d": (None, None),
        "e.png": (None, None),
        "software_developer/a.png": ("software developer", None),
        "software_developer/deep/b.JPG": ("software developer", None),
        "sw/c.webp": ("developer", "a caption"),
    }
    assert {item.concept for item in pictures(generated(tmp_path, concept="nurse"))} == {"nurse"}
    with pytest.raises(ValueError, match="concepts must be empty"):
        generated(tmp_path, concept="nurse", concepts={"a": "b"})


def test_links_pipes_and_unreadable_files_are_skipped_and_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    outside = write_folder(tmp_path / "outside", [({"file_name": "secret.png"}, png(noise(0)))], metadata=False)
    write_folder(folder, [({"file_name": "0.png"}, png(noise(1)))], metadata=False)
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe.png")
    assert [item.key for item in pictures(generated(folder))] == ["0.png"]
    assert reasons(generated(folder)) == {
        "link.png": "a link, not a file",
        "linked": "a link, not a file",
        "pipe.png": "not a plain file",
    }


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(noise(0)))
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    assert [item.key for item in pictures(generated(tmp_path))] == ["0.png"]
    assert reasons(generated(tmp_path))["huge.png"].startswith("file too large")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="holds no pictures"):
        generated(tmp_path).check()
