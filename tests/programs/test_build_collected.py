"""``build recipe=collected`` from the command line: from every kind of source, by several processes, and killed."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import datasets
import pytest
from PIL import Image

from evenhand.files import read_json
from evenhand.paths import program_path
from tests.pictures import noise, png, write_folder

JOBS = ("mechanic", "nurse")
SHOWN = ("woman", "man")
COMMON = [
    "recipe=collected",
    "recipe.labels_from=source",
    "recipe.reader=null",
    "recipe.plan.concepts=[mechanic,nurse]",
    "recipe.plan.heldout=[]",
    "recipe.plan.images_per_concept=10",
    "recipe.block_size=4",
    "limits.min_side_px=16",
    "source.license=cc0-1.0",
    "source.depicts=synthetic",
]
COLUMNS = ["source.columns.concept=job", "+source.columns.labels.presentation=shown"]


def picture(number: int) -> bytes:
    """Coarse noise: pictures of fine noise look alike to a perceptual hash."""
    return png(noise(number, size_px=8).resize((32, 32), Image.Resampling.BICUBIC))


def rows(number: int) -> list[tuple[dict[str, object], bytes]]:
    return [
        (
            {"file_name": f"{each:03d}.png", "job": JOBS[each % 2], "shown": SHOWN[each // 2 % 2]},
            picture(each),
        )
        for each in range(number)
    ]


def command(folder: Path, *overrides: str) -> list[str]:
    program = str(program_path("data_recipes/build"))
    return [sys.executable, program, *COMMON, f"run_folder={folder}", *overrides]


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *overrides), capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """What the set is."""
    files = sorted(path for part in ("train", "preserve") for path in (folder / part).glob("*"))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {**found, "certificate.json": (folder / "certificate.json").read_bytes()}


def image_folder(folder: Path) -> list[str]:
    write_folder(folder, rows(60))
    return ["source=image_folder", f"source.folder={folder}", *COLUMNS]


def generated_folder(folder: Path) -> list[str]:
    """Pictures only: what each shows is the name of its folder, and the labels are read by a reader of colours."""
    for job in JOBS:
        for number in range(20):
            color = {"woman": (200, 60, 60), "man": (60, 60, 200)}[SHOWN[number % 2]]
            image = noise(number + 100 * len(job), size_px=8).resize((32, 32), Image.Resampling.BICUBIC)
            image.paste(color, (0, 0, 32, 16))
            (folder / job).mkdir(parents=True, exist_ok=True)
            image.save(folder / job / f"{number}.png")
    return [
        "source=generated_folder",
        f"source.folder={folder}",
        "reader=planted",
        "reader.max_distance=1000",
        "recipe.reader=${reader}",
        "recipe.labels_from=readers",
        "recipe.near_distance=null",
    ]


def parquet(folder: Path) -> list[str]:
    table: dict[str, list[object]] = {"image": [], "job": [], "shown": []}
    for row, content in rows(60):
        table["image"].append({"bytes": content, "path": None})
        table["job"].append(row["job"])
        table["shown"].append(SHOWN.index(str(row["shown"])))
    kinds = {
        "image": datasets.Image(),
        "job": datasets.Value("string"),
        "shown": datasets.ClassLabel(names=list(SHOWN)),
    }
    datasets.disable_progress_bars()
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(table, features=datasets.Features(kinds)).to_parquet(str(folder / "train-0.parquet"))
    return ["source=parquet", f"source.folder={folder}", *COLUMNS]


def hub(folder: Path) -> list[str]:
    parquet(folder)
    return ["source=hub", f"source.repo={folder}", "source.revision=null", *COLUMNS]


def webdataset(folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "00000.tar", "w") as shard:
        for row, content in rows(60):
            for ending, data in (("png", content), ("json", json.dumps(row).encode())):
                head = tarfile.TarInfo(f"{str(row['file_name'])[:3]}.{ending}")
                head.size = len(data)
                shard.addfile(head, io.BytesIO(data))
    return ["source=webdataset", f"source.folder={folder}", *COLUMNS]


@pytest.mark.parametrize(
    "kind", [image_folder, generated_folder, parquet, hub, webdataset], ids=lambda kind: kind.__name__
)
def test_a_set_is_built_and_certified_from_every_kind_of_source(kind, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run(tmp_path / "set", *kind(tmp_path / "source"))
    assert done.returncode == 0, done.stderr
    certificate = read_json(tmp_path / "set" / "certificate.json")
    assert certificate["passed"]
    assert {cell["count"] for cell in certificate["cells"]} == {5}
    assert certificate["skipped"] == {}
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train")
    assert len(loaded) == 20
    if kind is not generated_folder:
        truth = {content: row for row, content in rows(60)}
        for row in loaded:
            found = next(known for content, known in truth.items() if same(content, row["image"]))
            assert (row["concept"], row["labels"]) == (found["job"], {"presentation": found["shown"]})


def same(content: bytes, image: Image.Image) -> bool:
    with Image.open(io.BytesIO(content)) as opened:
        return opened.tobytes() == image.tobytes()


def test_a_second_call_does_nothing_and_another_source_is_refused(tmp_path: Path) -> None:
    overrides = image_folder(tmp_path / "source")
    assert run(tmp_path / "set", *overrides).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    assert run(tmp_path / "set", *overrides).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before
    (tmp_path / "source" / "000.png").write_bytes(picture(1000))
    other = run(tmp_path / "set", *overrides)
    assert other.returncode == 2
    assert "source images" in other.stderr.splitlines()[-1]


def test_what_is_wrong_ends_in_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    overrides = image_folder(tmp_path / "source")
    for more, told in (
        (["source.folder=gone"], "source images: no such folder: gone"),
        (["source.columns.concept=work"], "has no column 'work'; it has file_name, job, shown"),
        (["source.folder=???"], "recipe.sources.first.folder has no value; set source.folder=..."),
        (["recipe.reader=${reader}"], "labels_from=source asks no reader: set recipe.reader=null"),
        (["source.depicts=people"], "depicts people but names no consent"),
    ):
        done = run(tmp_path / "set", *overrides, *more)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr.splitlines()[-1]
        assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_two_processes_and_kills_at_random_moments_give_the_set_of_one_process(tmp_path: Path) -> None:
    overrides = image_folder(tmp_path / "source")
    assert run(tmp_path / "alone", *overrides).returncode == 0
    together = run(tmp_path / "together", *overrides, "launch.num_processes=2")
    assert together.returncode == 0, together.stderr
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    dice = random.Random(time.time())
    killed, num_kills = tmp_path / "killed", 0
    for _ in range(4):
        num_files = sum(1 for _ in killed.rglob("*"))
        wanted = num_files + dice.randint(1, 12)
        with subprocess.Popen(
            command(killed, *overrides), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            while sum(1 for _ in killed.rglob("*")) < wanted and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        num_kills += process.returncode == -signal.SIGKILL
    assert num_kills >= 2
    finished = run(killed, *overrides, "launch.num_processes=2")
    assert finished.returncode == 0, finished.stderr
    assert contents(killed) == contents(tmp_path / "alone")
