"""The audit of a set as a person runs it: of a folder of a tool's pictures, and of a set with its own certificate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evenhand.files import read_json, write_json_atomic, write_jsonl_atomic
from tests.set_audit.made import paint

ROOT = Path(__file__).resolve().parents[2]
EXIT_USER_ERROR, EXIT_MISSED = 2, 3
SMALL = ("reader=planted", "limits.min_side_px=8", "device=cpu")


def run(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "data_recipes" / "audit.py"), *SMALL, *overrides],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )


def test_pictures_of_a_tool_that_shows_men_only_miss_an_even_target(tmp_path: Path) -> None:
    for place in range(40):
        paint(tmp_path / "outputs" / "software_developer" / f"{place:02d}.png", "man", seed=place)
    (tmp_path / "outputs" / "software_developer" / "00.png").write_bytes(b"torn")
    command = ("source=generated_folder", "source.folder=outputs", "source.license=unknown", "claim=generator")
    done = run(*command, "target=uniform", cwd=tmp_path)
    assert done.returncode == EXIT_MISSED, done.stderr
    assert "39 pictures of 1 concepts, read by planted; 1 files could not be used." in done.stdout
    assert "Perceived presentation: 0.0 % woman, 100.0 % man." in done.stdout
    folder = tmp_path / "runs" / "audits" / "generated-presentation"
    audit = read_json(folder / "audit.json")
    assert audit["concepts"] == {"software developer": 39}
    assert "<title>generated: audit of a set" in (folder / "audit.html").read_text()
    assert (folder / "provenance.json").is_file()

    # The same command says the same without looking again; with another target the folder is not overwritten.
    before = (folder / "audit.json").stat().st_mtime_ns
    again = run(*command, "target=uniform", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (EXIT_MISSED, done.stdout)
    assert (folder / "audit.json").stat().st_mtime_ns == before
    other = run(*command, "target=own", cwd=tmp_path)
    assert other.returncode == EXIT_USER_ERROR
    assert "run_name" in other.stderr
    # Nobody declared a target: the same pictures are shown, and not judged.
    undeclared = run(*command, "target=own", "run_name=shown", cwd=tmp_path)
    assert undeclared.returncode == 0, undeclared.stderr
    assert "None is declared" in undeclared.stdout


def curated(folder: Path, shown: list[str], labels: list[str]) -> None:
    """A set whose certificate asks for as many women as men; what is painted may differ from its labels."""
    rows = []
    for place, (value, label) in enumerate(zip(shown, labels, strict=True)):
        paint(folder / "train" / f"{place:03d}.png", value, seed=place)
        row = {"file_name": f"{place:03d}.png", "text": "a portrait of a nurse", "concept": "nurse"}
        rows.append({**row, "labels": {"presentation": label}, "license": "CC0-1.0"})
    write_jsonl_atomic(folder / "train" / "metadata.jsonl", rows)
    target = {"attribute": "presentation", "shares": [0.5, 0.5], "concept": "*", "source": "uniform"}
    certificate = {"attributes": {"presentation": ["woman", "man"]}, "targets": [target]}
    write_json_atomic(folder / "certificate.json", certificate)


def test_a_sets_own_labels_are_not_believed_when_a_reader_looks(tmp_path: Path) -> None:
    labels = ["woman", "man"] * 30
    curated(tmp_path / "set", ["man"] * 60, labels)
    done = run("source.folder=set/train", cwd=tmp_path)
    assert done.returncode == EXIT_MISSED, done.stderr
    audit = read_json(tmp_path / "runs" / "audits" / "curated_set-presentation" / "audit.json")
    assert audit["target_origin"] == "the one in the set's own certificate.json"
    pooled = {entry["reader"]: entry["values"][0]["share"] for entry in audit["shares"] if entry["concept"] is None}
    assert pooled == {"planted": 0.0, "labels": 0.5}
    (agreement,) = audit["agreement"]
    assert (agreement["other"], agreement["share"]) == ("labels", 0.5)
    # Counted by its labels alone it keeps to its target; no reader is loaded for that.
    counted = run("source.folder=set/train", "by=labels", "run_name=labels", cwd=tmp_path)
    assert counted.returncode == 0, counted.stderr


def test_an_honest_set_passes(tmp_path: Path) -> None:
    values = ["woman", "man"] * 30
    curated(tmp_path / "set", values, values)
    done = run("source.folder=set/train", "+suite@against=tinytown_demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    audit = read_json(tmp_path / "runs" / "audits" / "curated_set-presentation" / "audit.json")
    assert audit["passed"]
    assert audit["captions"]["leaks"]["n_images"] == 0
    assert audit["captions"]["attribute_words"] == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("source.folder=nowhere",), "no such folder: nowhere"),
        (("source.folder=.", "attribute=skin"), "reader planted does not read 'skin'; it reads presentation"),
        (("source.folder=.", "margin=0"), "margin must be above 0 and below 1, got 0.0"),
        (("source.folder=.", "by=labels", "+reader@second_reader=tinytown_a"), "second_reader=tinytown_a would not"),
        (("source=generated_folder", "source.folder=.", "source.license=x", "source.depicts=people"), "no consent"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    done = run(*overrides, cwd=tmp_path)
    assert done.returncode == EXIT_USER_ERROR
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
