"""What can be wrong with a set that others made, through the programs that take one.

Twenty kinds. What spoils one picture is left out and counted with its reason, or made plain with a note; what spoils
the whole set ends in one line. While a program runs, every file that it opens, makes or removes is noted: nothing that
a row of metadata names outside of the source's folder is read, and nothing outside of the run folder is written.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evenhand.files import read_json, read_jsonl
from evenhand.paths import program_path
from tests.bad_pictures import encode, picture
from tests.bad_rows import EMOJI, HIDDEN, LONG, RTL, Bad, kinds, row
from tests.watched import LOG, Done, run

SOURCE = [
    "source=image_folder",
    "source.folder=photos",
    "source.license=cc0-1.0",
    "source.depicts=synthetic",
    "source.columns.text=text",
    "source.columns.concept=job",
    "+source.columns.labels.presentation=shown",
    "run_folder=out/made",
]
BUILD = [
    str(program_path("data_recipes/build")),
    "recipe=collected",
    *SOURCE,
    "recipe.labels_from=source",
    "recipe.reader=null",
    "recipe.captions.origin=source",
    "recipe.plan.concepts=[mechanic,nurse]",
    "recipe.plan.heldout=[]",
    "recipe.plan.images_per_concept=4",
]
AUDIT = [str(program_path("data_recipes/audit")), *SOURCE, "by=labels", "target=uniform"]
MOST_SECONDS = 5.0
SECRET = "secret"  # in the name of everything that no program may open


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A folder to work in with the source ``photos``, and secrets beside it."""
    folder = tmp_path / "work"
    for name in ("photos", "tmp"):
        (folder / name).mkdir(parents=True)
    for secret in (folder / "secret.png", tmp_path / "secret.png"):
        secret.write_bytes(encode(picture(80, 99), "PNG"))
    (folder / "photos" / "link.png").symlink_to("../secret.png")
    return folder


def fill(folder: Path, pictures: list[Bad]) -> None:
    """Write pictures and their rows into the source, and one picture that no row names."""
    (folder / "photos" / "stray.png").write_bytes(encode(picture(80, 98), "PNG"))
    for bad in pictures:
        if bad.content is not None:
            (folder / "photos" / bad.name).write_bytes(bad.content)
    rows = [{**bad.row, "file_name": bad.row["file_name"].format(outside=folder.parent)} for bad in pictures]
    text = "".join(json.dumps(each) + "\n" for each in rows)
    (folder / "photos" / "metadata.jsonl").write_text(text, encoding="utf-8")


def strangers(done: Done, folder: Path) -> set[Path]:
    """Secrets that were opened, and what was changed outside of the run folder and the one for temporary files.

    A source is hashed as a whole before it is used, what its links lead to as well. So a link may be opened as such;
    through a row it would be opened by the name that it leads to.
    """
    opened = {path for path in done.read | done.written if path.stem == SECRET}
    allowed = (folder / "out", folder / "tmp", Path("/dev/null"))
    changed = {path for path in done.written if path != folder and not any(map(path.is_relative_to, allowed))}
    return opened | changed


def test_the_watch_sees_what_is_read_and_written(scene: Path) -> None:
    """The control of all tests below."""
    script = scene / "script.py"
    script.write_text("open('photos/../secret.png', 'rb').read(); open('stray.txt', 'w').write('x'); print('done')")
    done = run([str(script)], scene)
    assert (done.code, done.stdout) == (0, "done\n")
    assert strangers(done, scene) == {scene / "secret.png", scene / "stray.txt"}


def expected(pictures: list[Bad]) -> Counter[str]:
    counted = Counter(bad.skipped for bad in pictures if bad.skipped is not None)
    counted["no row in the metadata"] = 1  # stray.png
    return counted


def test_a_build_leaves_out_what_cannot_be_used_and_counts_it(scene: Path) -> None:
    pictures = kinds()
    fill(scene, pictures)
    done = run(BUILD, scene)
    assert done.code == 0, done.stderr
    assert strangers(done, scene) == set()
    certificate = read_json(scene / "out" / "made" / "certificate.json")
    assert certificate["passed"]
    assert {reason: entry["number"] for reason, entry in certificate["skipped"].items()} == expected(pictures)
    for bad in pictures:
        if bad.skipped is not None and bad.content is not None:
            assert f"images:{bad.name}" in certificate["skipped"][bad.skipped]["keys"]
        if bad.note is not None:
            assert f"pictures with {bad.note}: 1" in certificate["notes"]
    rows = read_jsonl(scene / "out" / "made" / "train" / "metadata.jsonl")
    used = {each["source"]: each for each in rows}
    assert set(used) == {f"images:{bad.name}" for bad in pictures if bad.skipped is None}
    assert used["images:phone.jpg"]["text"] == RTL
    assert used["images:emoji.png"]["text"] == EMOJI
    for each in rows:
        with Image.open(scene / "out" / "made" / "train" / each["file_name"]) as image:
            assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
            assert image.size == ((80, 100) if each["source"] == "images:phone.jpg" else (80, 80))
    made = b"".join(path.read_bytes() for path in (scene / "out").rglob("*") if path.is_file())
    for trace in (b"A telephone", HIDDEN.encode(), LONG.encode()[:200]):
        assert trace not in made


def test_an_audit_counts_what_it_cannot_use(scene: Path) -> None:
    pictures = kinds()
    fill(scene, pictures)
    done = run(AUDIT, scene)
    assert done.code == 3, done.stderr  # it is no balanced set
    assert strangers(done, scene) == set()
    audit = read_json(scene / "out" / "made" / "audit.json")
    by_picture = expected([bad for bad in pictures if not bad.of_caption])
    # What a set may not have and a measurement may: an audit shows duplicates and labels that are none.
    for reason in (
        "duplicate",
        "near duplicate",
        "no presentation in the source",
        "unknown presentation in the source",
    ):
        assert by_picture.pop(reason) == 1
    assert {entry["reason"]: entry["number"] for entry in audit["skipped"]} == by_picture
    unusable_captions = expected([bad for bad in pictures if bad.of_caption])
    del unusable_captions["no row in the metadata"]
    assert {entry["reason"]: entry["number"] for entry in audit["captions"]["unusable"]} == unusable_captions
    assert [group["keys"] for group in audit["duplicates"]["equal"]["groups"]] == [["good.png", "good_copy.png"]]
    assert [group["keys"] for group in audit["duplicates"]["near"]["groups"]] == [["good.png", "good_like.jpg"]]
    assert {bad.note for bad in pictures if bad.note is not None} <= set(audit["notes"])
    page = (scene / "out" / "made" / "audit.html").read_text()
    assert HIDDEN not in page
    assert "\u202e" not in page


def as_parquet(scene: Path) -> dict[str, int]:
    """Rows with bytes, and rows that name files; what must be skipped of them."""
    cells = [
        {"bytes": encode(picture(80, 1), "PNG"), "path": "/etc/passwd"},
        {"bytes": encode(picture(80, 2), "PNG")[:2000], "path": "a.png"},
        {"bytes": None, "path": str(scene / "secret.png")},
        {"bytes": None, "path": "../secret.png"},
        {"bytes": None, "path": "photos/../../secret.png"},
    ]
    table = pa.table({"image": cells, "job": ["nurse"] * 5, "shown": ["man"] * 5, "text": ["a nurse"] * 5})
    pq.write_table(table, scene / "photos" / "rows.parquet")
    return {"truncated": 1, "no bytes of a picture in its row": 3}


def as_webdataset(scene: Path) -> dict[str, int]:
    """Samples under names that lead elsewhere, which are names and no places, and one that is a link."""
    said = json.dumps({"job": "nurse", "shown": "man", "text": "a nurse"}).encode()
    with tarfile.open(scene / "photos" / "shard.tar", "w") as shard:
        for number, name in enumerate(["good", "../outside", "/absolute"]):
            for ending, content in (("json", said), ("png", encode(picture(80, number), "PNG"))):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(scene / "secret.png")
        shard.addfile(link)
    return {"member that is no plain file": 1}


def as_generated(scene: Path) -> dict[str, int]:
    """Files without metadata, one folder for each concept."""
    folder = scene / "photos" / "nurse"
    folder.mkdir()
    for bad in kinds():
        if bad.content is not None:
            (folder / bad.name).write_bytes(bad.content)
    (folder / "outside").symlink_to(scene, target_is_directory=True)
    return {"truncated": 1, "too small": 1, "too many pixels": 1, "not a picture": 1, "a link, not a file": 2}


COLUMNS = ["source.columns.text=text", "source.columns.concept=job", "+source.columns.labels.presentation=shown"]


@pytest.mark.parametrize(
    ("source", "made", "given"),
    [
        ("parquet", as_parquet, [*COLUMNS, "by=labels"]),
        ("webdataset", as_webdataset, [*COLUMNS, "by=labels"]),
        ("generated_folder", as_generated, ["reader=planted"]),
    ],
    ids=["parquet", "webdataset", "generated folder"],
)
def test_no_source_leads_out_of_its_folder(
    source: str, made: Callable[[Path], dict[str, int]], given: list[str], scene: Path
) -> None:
    skipped = made(scene)
    common = ["source.folder=photos", "source.license=cc0-1.0", "source.depicts=synthetic", "run_folder=out/made"]
    done = run([AUDIT[0], f"source={source}", *common, *given, "target=uniform"], scene)
    assert done.code in (0, 3), done.stderr
    assert strangers(done, scene) == set()
    audit = read_json(scene / "out" / "made" / "audit.json")
    assert {entry["reason"]: entry["number"] for entry in audit["skipped"]} == skipped
    assert audit["n_images"] > 0


def good() -> list[Bad]:
    return [bad for bad in kinds() if bad.skipped is None]


def missing_column(scene: Path) -> None:
    pictures = [replace(bad, row={key: bad.row[key] for key in bad.row if key != "job"}) for bad in good()]
    fill(scene, pictures)


def no_rows(scene: Path) -> None:
    (scene / "photos" / "metadata.jsonl").write_text("")


def no_metadata(scene: Path) -> None:
    (scene / "photos" / "a.png").write_bytes(encode(picture(80), "PNG"))


def a_file(scene: Path) -> None:
    shutil.rmtree(scene / "photos")
    (scene / "photos").write_bytes(encode(picture(80), "PNG"))


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What is wrong with a source as a whole, and what the line about it must name."""

    name: str
    names: tuple[str, ...]
    spoil: Callable[[Path], None] = lambda scene: fill(scene, good())
    overrides: tuple[str, ...] = ()


WHOLE = [
    Whole(
        name="a missing column", spoil=missing_column, names=("metadata.jsonl has no column 'job'", "source.columns")
    ),
    Whole(name="no rows", spoil=no_rows, names=("photos/metadata.jsonl", "holds no rows")),
    Whole(name="no metadata", spoil=no_metadata, names=("photos has no metadata.jsonl", "source=generated_folder")),
    Whole(name="no folder", spoil=lambda scene: shutil.rmtree(scene / "photos"), names=("no such folder: photos",)),
    Whole(name="a file", spoil=a_file, names=("not a folder: photos",)),
    Whole(
        name="people without consent",
        overrides=("source.depicts=people",),
        names=("depicts people but names no consent", "source.consent"),
    ),
    Whole(
        name="limits that leave nothing",
        overrides=("limits.max_pixels=10",),
        names=("max_pixels=10 leaves no picture", "limits"),
    ),
]


def assert_refused(done: Done, scene: Path, before: list[str], names: tuple[str, ...]) -> None:
    assert (done.code, done.stdout) == (2, ""), done.stderr
    assert len(done.errors) == 1, done.stderr
    assert [name for name in names if name not in done.errors[0]] == [], done.errors[0]
    assert "Traceback" not in done.stderr
    assert listing(scene) == before
    assert strangers(done, scene) == set()
    assert done.seconds < MOST_SECONDS


def listing(scene: Path) -> list[str]:
    return sorted(str(path) for path in scene.rglob("*") if path.name != LOG)


@pytest.mark.parametrize("program", [BUILD, AUDIT], ids=["build", "audit"])
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_a_source_that_cannot_be_used_ends_in_one_line(case: Whole, program: list[str], scene: Path) -> None:
    case.spoil(scene)
    before = listing(scene)
    assert_refused(run([*program, *case.overrides], scene), scene, before, case.names)


def test_readers_do_not_label_real_people(scene: Path) -> None:
    fill(scene, good())
    before = listing(scene)
    people = ["source.depicts=people", "source.consent=model releases"]
    labelling = [each for each in BUILD if not each.startswith(("recipe.labels_from", "recipe.reader"))]
    done = run([*labelling, *people], scene)
    assert_refused(done, scene, before, ("images depicts people", "readers may only measure", "columns.labels"))
    explicit = run([*BUILD, *people], scene)
    assert_refused(explicit, scene, before, ("images depicts people", "recipe.preserve.explicit=false"))
    named = ["source.columns.concept=null", "source.concept=nurse", "+source.columns.labels.glasses=full_name"]
    assert_refused(run([*AUDIT, *people, *named], scene), scene, before, ("'full_name' says who they are",))


def without_power() -> tuple[str, ...]:
    """Words that start a command which may not read what the rights of a file forbid, even for root."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv to take that from it")
    powers = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}")


@pytest.mark.parametrize("program", [BUILD, AUDIT], ids=["build", "audit"])
def test_a_folder_that_may_not_be_read_ends_in_one_line(program: list[str], scene: Path) -> None:
    fill(scene, good())
    before = listing(scene)
    (scene / "photos").chmod(0)
    try:
        done = run(program, scene, before=without_power())
    finally:
        (scene / "photos").chmod(0o755)
    assert_refused(done, scene, before, ("folder photos may not be read",))


def test_what_may_not_be_read_inside_a_folder_is_counted(scene: Path) -> None:
    closed, below = scene / "photos" / "closed.png", scene / "photos" / "below"
    fill(scene, [*good(), Bad(name="closed.png", content=b"x", row=row("closed.png", "nurse", "man"))])
    below.mkdir()
    (below / "a.png").write_bytes(encode(picture(80), "PNG"))
    closed.chmod(0)
    below.chmod(0)
    try:
        done = run(BUILD, scene, before=without_power())
    finally:
        closed.chmod(0o644)
        below.chmod(0o755)
    assert done.code == 0, done.stderr
    skipped = read_json(scene / "out" / "made" / "certificate.json")["skipped"]
    assert skipped["unreadable file"]["keys"] == ["images:closed.png"]
    assert skipped["unreadable folder"]["keys"] == ["images:below"]


def small_disk(scene: Path, kilobytes: int) -> tuple[str, ...]:
    """Words that start a command which sees a disk of this size in ``out``, and no other process does."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to make a small disk with")
    mounted = f'mount -t tmpfs -o size={kilobytes}k none out && "$@"; code=$?; ls -R out > seen.txt; exit $code'
    words = ("unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh")
    (scene / "out").mkdir()
    if subprocess.run([*words, "true"], cwd=scene, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    return words


@pytest.mark.parametrize("program", [BUILD, AUDIT], ids=["build", "audit"])
def test_a_full_disk_is_said_before_anything_is_made(program: list[str], scene: Path) -> None:
    fill(scene, good())
    done = run(program, scene, before=small_disk(scene, 4))
    assert (done.code, done.stdout) == (2, ""), done.stderr
    assert len(done.errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "make room" in done.errors[0]
    assert strangers(done, scene) == set()


def test_a_disk_that_fills_up_ends_in_one_line_and_a_new_one_is_gone_on_with(scene: Path) -> None:
    """Noise of 500 px is larger than a build can know beforehand."""
    noise = np.random.default_rng(0)
    large = [
        replace(bad, content=encode(Image.fromarray(noise.integers(0, 256, (500, 500, 3), dtype=np.uint8)), "PNG"))
        for bad in good()
    ]
    fill(scene, large)
    done = run(BUILD, scene, before=small_disk(scene, 2000))
    assert (done.code, done.stdout) == (2, ""), done.stderr
    assert len(done.errors) == 1, done.stderr
    assert [name for name in ("out/made", "No space left", "make room") if name not in done.errors[0]] == []
    assert ".tmp" not in (scene / "seen.txt").read_text()
    assert "certificate.json" not in (scene / "seen.txt").read_text()
    assert run(BUILD, scene).code == 0
