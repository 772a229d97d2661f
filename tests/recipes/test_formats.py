"""Sets written in other forms: the same bytes twice, the same rows in plain `datasets`, and back again to the byte."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from evenhand.files import read_jsonl, sha256_path, write_json_atomic
from evenhand.recipes.certificate import CERTIFICATE, certify
from evenhand.recipes.formats import export_set
from evenhand.recipes.stored import open_set
from evenhand.recipes.verification import verify
from tests.recipes.noise_set import ORIGIN, certified_set, change_row, plan

SMALL_MB = 0.001  # a few of the noise images fill a shard
FORMS = ("imagefolder", "parquet", "webdataset")
# Run isolated (-I): neither the checkout nor PYTHONPATH is on the path, and importing evenhand fails.
READ_WITH_DATASETS = """
import hashlib, io, json, sys
sys.modules["evenhand"] = None
try:
    import evenhand
except ImportError:
    pass
else:
    raise SystemExit("evenhand was imported")
from datasets import Image, load_dataset

def rows(part, image):
    kept = part.cast_column(image, Image(decode=False)) if image in part.column_names else part
    for row, decoded in zip(kept, part):
        found = {**row.pop("json", {}), **row}
        picture = found.pop(image, None)
        if picture is not None:
            found["size"] = decoded[image].size
            path = picture["path"]
            content = picture["bytes"] if picture["bytes"] is not None else open(path, "rb").read()
            found["sha256"] = hashlib.sha256(content).hexdigest()
        yield {key: value for key, value in found.items() if not key.startswith("__")}

folder, builder = sys.argv[1:]
image = "png" if builder == "webdataset" else "image"
found = {}
for config in ("default", "preserve"):
    found[config] = list(rows(load_dataset(folder, config, split="train"), image))
plain = load_dataset(builder, data_dir=folder + "/train", split="train")
found["by builder"] = list(rows(plain, image))
found["num streamed"] = sum(1 for _ in load_dataset(folder, "default", split="train", streaming=True))
print(json.dumps(found))
"""


def read_elsewhere(folder: Path, builder: str, home: Path) -> dict[str, Any]:
    """What plain `datasets` finds in a folder, in a process that has no evenhand."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ_WITH_DATASETS, str(folder), builder],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def exported(source: Path, to: Path, form: str, *, shard_mb: float = SMALL_MB) -> Path:
    export_set(source, to, form=form, shard_mb=shard_mb)
    return to


@pytest.mark.parametrize("form", FORMS)
def test_plain_datasets_reads_every_form_where_evenhand_is_not_there(form: str, tmp_path: Path) -> None:
    """Rows are compared with ``metadata.jsonl``, read as JSON; pictures by the sha256 of their bytes."""
    certificate = certified_set(tmp_path / "test set")
    folder = exported(tmp_path / "test set", tmp_path / "other", form)
    found = read_elsewhere(folder, form, tmp_path)
    for config, part in (("default", "train"), ("preserve", "preserve")):
        rows = read_jsonl(tmp_path / "test set" / part / "metadata.jsonl")
        expected = [
            {
                **{key: value for key, value in row.items() if key != "file_name"},
                "labels": {"presentation": row["labels"].get("presentation")},
                "size": [8, 8],
                "sha256": certificate["files"][f"{part}/{row['file_name']}"],
            }
            for row in rows
        ]
        assert found[config] == expected
    assert found["by builder"] == found["default"]
    assert found["num streamed"] == 10


@pytest.mark.parametrize("form", FORMS)
def test_the_same_set_gives_the_same_bytes_twice_and_is_as_its_certificate_says(form: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    first = exported(tmp_path / "set", tmp_path / "first", form)
    second = exported(tmp_path / "set", tmp_path / "second", form)
    assert sha256_path(first) == sha256_path(second)
    assert (first / CERTIFICATE).read_bytes() == (tmp_path / "set" / CERTIFICATE).read_bytes()
    found = verify(first)
    assert (found.form, found.confirmed, found.passed) == (form, True, True)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_folder_comes_back_from_every_form_to_the_byte(form: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    back = exported(exported(tmp_path / "set", tmp_path / "other", form), tmp_path / "back", "imagefolder")
    assert sha256_path(back) == sha256_path(tmp_path / "set")


def test_parquet_shards_hold_no_more_than_they_may_and_the_types_that_datasets_knows(tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "set" / "train").glob("*.png"))]
    folder = exported(tmp_path / "set", tmp_path / "parquet", "parquet")
    shards = sorted((folder / "train").glob("*"))
    assert len(shards) > 1
    assert [path.name for path in shards] == [
        f"{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards))
    ]
    held = [[len(entry["bytes"]) for entry in pq.read_table(path)["image"].to_pylist()] for path in shards]
    assert all(sum(part) <= SMALL_MB * 1e6 for part in held)
    assert [size for part in held for size in part] == sizes
    schema = pq.read_schema(shards[0])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"]["_type"] == "Image"
    assert str(schema.field("seed").type) == "int64"
    assert len(sorted(exported(tmp_path / "set", tmp_path / "one", "parquet", shard_mb=1).glob("train/*"))) == 1


def test_an_image_that_is_larger_than_a_shard_has_one_to_itself(tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "tar", "webdataset", shard_mb=0.0001)
    assert len(list((folder / "train").glob("*.tar"))) == 10


def test_a_tar_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "tar", "webdataset", shard_mb=1)
    with tarfile.open(folder / "train" / "00000-of-00001.tar") as archive:
        members = archive.getmembers()
        first = archive.extractfile(members[0])
        assert first is not None
        assert first.read() == (tmp_path / "set" / "train" / "000000.png").read_bytes()
    assert [member.name for member in members[:4]] == ["000000.png", "000000.json", "000001.png", "000001.json"]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, 0, "", "")
    }


def test_rows_without_labels_come_last_in_a_tar_and_first_again_where_they_were(tmp_path: Path) -> None:
    """`datasets` takes the type of a column from the first five samples: here, nothing would be known of labels."""
    folder = tmp_path / "set"
    wanted = plan()
    certified_set(folder, wanted=wanted)
    rows = read_jsonl(folder / "preserve" / "metadata.jsonl")
    for row in rows[:8]:
        row["labels"] = {}
    (folder / "preserve" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json_atomic(folder / CERTIFICATE, certify(folder, wanted, ORIGIN))
    other = exported(folder, tmp_path / "tar", "webdataset", shard_mb=1)
    found = read_elsewhere(other, "webdataset", tmp_path)["preserve"]
    assert [row["labels"]["presentation"] is None for row in found] == [False] * 2 + [True] * 11
    assert open_set(other).rows("preserve") == tuple(rows)


def test_labels_that_no_row_has_still_make_a_column(tmp_path: Path) -> None:
    """Parquet has no struct without fields."""
    folder = tmp_path / "set"
    wanted = plan()
    certified_set(folder, wanted=wanted)
    rows = [{**row, "labels": {}} for row in read_jsonl(folder / "preserve" / "metadata.jsonl")]
    (folder / "preserve" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json_atomic(folder / CERTIFICATE, certify(folder, wanted, ORIGIN))
    other = exported(folder, tmp_path / "parquet", "parquet")
    assert open_set(other).rows("preserve") == tuple(rows)
    assert pq.read_table(next((other / "preserve").glob("*")))["labels"][0].as_py() == {"presentation": None}


def test_captions_alone_go_into_parquet_and_not_into_a_webdataset(tmp_path: Path) -> None:
    certified_set(tmp_path / "images")
    rows = read_jsonl(tmp_path / "images" / "train" / "metadata.jsonl")
    captions = [
        {**{key: row[key] for key in ("text", "concept", "labels")}, "counterfactuals": {"woman": "a", "man": "b"}}
        for row in rows
    ]
    folder = tmp_path / "captions"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    write_json_atomic(folder / CERTIFICATE, certify(folder, plan(), ORIGIN))
    other = exported(folder, tmp_path / "parquet", "parquet")
    assert open_set(other).rows("train") == tuple(captions)
    assert verify(other).confirmed
    back = exported(other, tmp_path / "back", "imagefolder")
    assert (back / "train" / "captions.jsonl").read_bytes() == (folder / "train" / "captions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="captions alone cannot be a WebDataset"):
        export_set(folder, tmp_path / "tar", form="webdataset", shard_mb=1)
    assert not (tmp_path / "tar").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_set_that_is_not_as_its_certificate_says_is_not_written(form: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    change_row(tmp_path / "set", 0, text="a portrait of a kind mechanic")
    with pytest.raises(ValueError, match=r"train/metadata\.jsonl is not as its certificate says"):
        export_set(tmp_path / "set", tmp_path / "other", form=form, shard_mb=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"form": "zip"}, "format must be one of imagefolder, parquet, webdataset, got 'zip'"),
        ({"shard_mb": 0.0}, "shard_mb must be > 0"),
        ({"shard_mb": float("nan")}, "shard_mb must be > 0"),
        ({"shard_mb": float("inf")}, "shard_mb must be > 0"),
        ({"to": "set"}, "is there already"),
        ({"folder": "nothing"}, "file not found: .*certificate.json"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is(arguments: dict[str, Any], problem: str, tmp_path) -> None:
    certified_set(tmp_path / "set")
    chosen = {"form": "parquet", "shard_mb": 1.0, "to": "other", "folder": "set", **arguments}
    with pytest.raises(ValueError, match=problem):
        export_set(
            tmp_path / chosen["folder"], tmp_path / chosen["to"], form=chosen["form"], shard_mb=chosen["shard_mb"]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_place_where_no_folder_can_be_is_said_in_one_line(tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="to=.*/file/other cannot be written: Not a directory"):
        export_set(tmp_path / "set", tmp_path / "file" / "other", form="parquet", shard_mb=1)


@pytest.mark.parametrize("member", ["000000.json", "000000.png"])
def test_a_tar_with_half_a_sample_is_refused(member: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "tar", "webdataset", shard_mb=1)
    (shard,) = (folder / "train").glob("*.tar")
    with tarfile.open(shard) as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames() if name != member}  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"the sample 000000 lacks its image or its \.json"):
        open_set(folder)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_shard_that_is_cut_short_is_named(form: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "other", form, shard_mb=1)
    (shard,) = (folder / "train").iterdir()
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ValueError, match=rf"{shard.name}.* cannot be read as|lacks its image"):
        open_set(folder)


def test_no_name_in_a_shard_leads_out_of_the_folder(tmp_path: Path) -> None:
    """A row that asks to be written elsewhere; its certificate says so too, so only the name itself is wrong."""
    import pyarrow as pa

    certified_set(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "parquet", "parquet", shard_mb=1)
    (shard,) = (folder / "train").iterdir()
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[0]["image"]["path"] = "../../escaped.png"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    with pytest.raises(ValueError, match="no name for a file of the set"):
        export_set(folder, tmp_path / "back", form="imagefolder", shard_mb=1)
    assert not (tmp_path / "escaped.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parquet", "set"]
