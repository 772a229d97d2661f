"""Streams of `datasets` itself, from folders laid out like data sets on the hub: no test reaches the hub."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evenhand.sources.columns import Columns
from evenhand.sources.hub import HubDataset
from tests.pictures import noise, png, write_folder
from tests.sources.sharing import check_sharing, pictures, reasons

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COLUMNS = Columns(text=None, concept="job", labels={"presentation": "shown"}, license=None)


def hub(repo: Path | str, **changes: Any) -> HubDataset:
    given: dict[str, Any] = {
        "revision": None,
        "config": None,
        "split": "train",
        "image_column": "image",
        "columns": COLUMNS,
        "concept": None,
        "license": "cc0-1.0",
        "depicts": "other",
        "consent": None,
    }
    return HubDataset(name="hub", repo=str(repo), **{**given, **changes})


@pytest.fixture
def parquet_repo(tmp_path: Path) -> Path:
    names = datasets.ClassLabel(names=["woman", "man"])
    features = datasets.Features({"image": datasets.Image(), "job": datasets.Value("string"), "shown": names})
    datasets.disable_progress_bars()
    for number in range(2):
        rows = {
            "image": [{"bytes": png(noise(number * 4 + each)), "path": None} for each in range(4)],
            "job": ["nurse"] * 4,
            "shown": [0, 1, 1, 0],
        }
        (tmp_path / "data").mkdir(exist_ok=True)
        path = tmp_path / "data" / f"train-{number:05d}-of-00002.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return tmp_path


def test_a_split_is_streamed_undecoded_and_shared(parquet_repo: Path) -> None:
    source = hub(parquet_repo)
    source.check()
    check_sharing(source)
    found = pictures(source)
    assert [item.content for item in found] == [png(noise(number)) for number in range(8)]
    assert [item.labels["presentation"] for item in found[:4]] == ["woman", "man", "man", "woman"]
    assert found[5].key == "train:000000005"
    assert source.inputs == {"hub": parquet_repo}


def test_a_picture_that_its_row_only_names_is_read_from_the_data_set_alone(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    write_folder(
        repo / "train", [({"file_name": f"{each}.png", "job": "judge"}, png(noise(each))) for each in range(5)]
    )
    source = hub(repo, columns=Columns(text=None, concept="job", labels={}, license=None))
    source.check()
    check_sharing(source)
    assert [item.content for item in pictures(source)] == [png(noise(number)) for number in range(5)]

    secret = tmp_path / "secret.png"
    secret.write_bytes(png(noise(99)))
    cells = [{"bytes": None, "path": str(secret)}, {"bytes": None, "path": "../secret.png"}, None]
    cells += [{"bytes": None, "path": "https://example.org/a.png"}, {"bytes": png(noise(7)), "path": str(secret)}]
    cells += [{"bytes": None, "path": f"zip://a::{secret}"}, {"bytes": None, "path": f"simplecache::{secret}"}]
    table = pa.table({"image": cells, "job": ["nurse"] * 7})
    other = tmp_path / "other"
    other.mkdir()
    features = datasets.Features({"image": datasets.Image(), "job": datasets.Value("string")})
    pq.write_table(table.cast(features.arrow_schema), other / "train.parquet")
    source = hub(other, columns=Columns(text=None, concept="job", labels={}, license=None))
    assert [item.content for item in pictures(source)] == [png(noise(7))]
    assert list(reasons(source).values()) == [
        "absolute file name",
        "file name leaves the folder (..)",
        "no bytes of a picture in its row",
        "absolute file name",
        "absolute file name",
        "its picture lies outside of the data set",
    ]


def test_a_picture_in_an_archive_of_the_data_set_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", png(noise(number)))
        rows = [json.dumps({"file_name": f"{number}.png", "job": "nurse"}) + "\n" for number in range(5)]
        archive.writestr("metadata.jsonl", "".join(rows))
    source = hub(tmp_path, columns=Columns(text=None, concept="job", labels={}, license=None))
    check_sharing(source)
    assert [item.content for item in pictures(source)] == [png(noise(number)) for number in range(5)]


def test_a_name_that_leaves_the_folder_ends_the_stream_in_one_line(tmp_path: Path) -> None:
    """`datasets` refuses it, and would be heard only as a traceback."""
    (tmp_path / "secret.png").write_bytes(png(noise(9)))
    repo = write_folder(tmp_path / "repo", [({"file_name": "0.png", "job": "judge"}, png(noise(0)))])
    lines = (repo / "metadata.jsonl").read_text()
    (repo / "metadata.jsonl").write_text(lines + lines.replace("0.png", "../secret.png"))
    source = hub(repo, columns=Columns(text=None, concept="job", labels={}, license=None))
    with pytest.raises(ValueError, match="broke off after 1 rows: Invalid metadata file_name '../secret.png'"):
        list(source.items())


def test_the_hub_is_asked_for_a_pinned_revision_only() -> None:
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(ValueError, match="revision must be the full commit hash of owner/name"):
            hub("owner/name", revision=revision)
    assert hub("owner/name", revision=COMMIT).inputs == {}
    with pytest.raises(ValueError, match="source hub: owner/name cannot be streamed"):
        hub("owner/name", revision=COMMIT).check()


def test_a_folder_has_no_revision(parquet_repo: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, which has no revision"):
        hub(parquet_repo, revision=COMMIT)


def test_what_is_missing_is_named_before_anything_is_streamed(parquet_repo: Path) -> None:
    with pytest.raises(ValueError, match="no column 'picture'; it has image, job, shown"):
        hub(parquet_repo, image_column="picture").check()
    with pytest.raises(ValueError, match="column 'job' holds no pictures"):
        hub(parquet_repo, image_column="job").check()
    with pytest.raises(ValueError, match="Bad split: test"):
        hub(parquet_repo, split="test").check()


def test_code_of_a_data_set_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "repo.py").write_text(
        f"open({str(mark)!r}, 'w')\nimport datasets\nclass A(datasets.GeneratorBasedBuilder): pass\n"
    )
    with pytest.raises(ValueError, match="cannot be streamed"):
        hub(repo).check()
    assert not mark.exists()
