from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from evenhand.sources.columns import Columns
from evenhand.sources.webdataset import WebDataset
from tests.pictures import noise, png
from tests.sources.sharing import check_sharing, pictures, reasons

COLUMNS = Columns(text="txt", concept="job", labels={"season": "labels.season"}, license="license")


def shards(folder: Path, **changes: Any) -> WebDataset:
    given: dict[str, Any] = {
        "columns": COLUMNS,
        "concept": None,
        "license": "cc0-1.0",
        "depicts": "other",
        "consent": None,
    }
    return WebDataset(name="tar", folder=folder, **{**given, **changes})


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    head = tarfile.TarInfo(name)
    head.size = len(content)
    shard.addfile(head, io.BytesIO(content))


def sample(shard: tarfile.TarFile, name: str, number: int, **row: object) -> None:
    add(shard, f"{name}.png", png(noise(number)))
    add(shard, f"{name}.txt", f"caption {number}\n".encode())
    add(shard, f"{name}.json", json.dumps({"job": "nurse", "labels": {"season": "winter"}, **row}).encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard_number in range(2):
        with tarfile.open(tmp_path / f"{shard_number:05d}.tar", "w") as shard:
            for number in range(3):
                sample(shard, f"sub/{number:04d}", shard_number * 3 + number)
    return tmp_path


def test_samples_of_all_shards_are_shared(folder: Path) -> None:
    source = shards(folder)
    source.check()
    check_sharing(source)
    found = pictures(source)
    assert [item.key for item in found][2:4] == ["00000.tar:sub/0002", "00001.tar:sub/0000"]
    assert [item.content for item in found] == [png(noise(number)) for number in range(6)]
    assert [item.text for item in found] == [f"caption {number}" for number in range(6)]
    assert (found[0].concept, found[0].labels) == ("nurse", {"season": "winter"})


def test_datasets_sees_the_same_samples(folder: Path) -> None:
    """The reference: the loader of Hugging Face, on the same shards."""
    rows = datasets.load_dataset("webdataset", data_files=str(folder / "*.tar"), split="train", streaming=True)
    rows = rows.cast_column("png", datasets.Image(decode=False))
    reference = [(row["__key__"], row["png"]["bytes"], row["txt"].strip(), row["json"]["job"]) for row in rows]
    ours = [(item.key.partition(":")[2], item.content, item.text, item.concept) for item in pictures(shards(folder))]
    assert ours == reference


def test_only_plain_files_are_read_and_nothing_is_unpacked(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(noise(99)))
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as shard:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE)):
            head = tarfile.TarInfo(f"{name}.png")
            head.type, head.linkname = kind, str(secret)
            shard.addfile(head)
        add(shard, "../../escaped.png", png(noise(0)))
        add(shard, "/absolute.png", png(noise(1)))
    before = sorted(tmp_path.rglob("*"))
    found = {item.key: item.content for item in pictures(shards(folder))}
    assert found == {"a.tar:../../escaped": png(noise(0)), "a.tar:/absolute": png(noise(1))}  # names, and no paths
    assert set(reasons(shards(folder)).values()) == {"member that is no plain file (link or device)"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_sample_is_skipped_and_the_next_one_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        add(shard, "a.txt", b"no picture")
        add(shard, "b.png", png(noise(0)))
        add(shard, "b.jpg", png(noise(1)))
        add(shard, "c.png", png(noise(2)))
        add(shard, "c.json", b"[1, 2]")
        add(shard, "d.png", png(noise(3)))
        sample(shard, "e", 4)
        add(shard, "d.png", png(noise(5)))
        add(shard, "f.txt", b"x" * (1 << 21))
        add(shard, "f.png", png(noise(6)))
        add(shard, "no-ending", b"x")
    found = reasons(shards(tmp_path))
    again = next(key for key in found if key.startswith("a.tar:d at byte"))
    assert found == {
        "a.tar:a": "no picture in the sample",
        "a.tar:b": "several pictures in one sample (2)",
        "a.tar:c": "its json cannot be read",
        again: "sample name used twice",
        "a.tar:f": "text too large (2097152 bytes)",
    }
    assert [item.key for item in pictures(shards(tmp_path))] == ["a.tar:d", "a.tar:e"]


@pytest.mark.parametrize("cut", [100, 300, 600])
def test_a_shard_that_is_cut_short_gives_what_is_whole_and_the_next_one_is_read(folder: Path, cut: int) -> None:
    """Wherever it is cut: a sample is given whole, or there is a reason."""
    path = folder / "00000.tar"
    with tarfile.open(path) as shard:
        last = shard.getmember("sub/0002.png")
    path.write_bytes(path.read_bytes()[: last.offset_data + cut])
    source = shards(folder)
    source.check()
    whole = [item for item in pictures(source) if item.key.startswith("00000")]
    assert [item.content for item in whole] == [png(noise(number)) for number in range(2)]
    assert reasons(source)
    assert len([item for item in pictures(source) if item.key.startswith("00001")]) == 3


def test_what_is_no_shard_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no \\*.tar in"):
        shards(tmp_path).check()
    with tarfile.open(tmp_path / "a.tar", "w:gz") as shard:
        add(shard, "a.png", b"x")
    with pytest.raises(ValueError, match="a.tar cannot be read as an uncompressed tar file"):
        shards(tmp_path).check()
