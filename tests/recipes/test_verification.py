"""A set that anyone has is counted again: what is true is confirmed, and every kind of change is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenhand.evaluation.targets import Table
from evenhand.files import read_json, read_jsonl, write_json_atomic
from evenhand.recipes.certificate import CERTIFICATE, certify
from evenhand.recipes.verification import Verification, verify
from tests.recipes.noise_set import ORIGIN, certified_set, change_row, make_set, noise, plan


def differing(found: Verification) -> dict[str, str]:
    return {finding.name: finding.text for finding in found.findings if not finding.same}


def test_a_set_as_it_was_built_is_confirmed(tmp_path: Path) -> None:
    certified_set(tmp_path)
    found = verify(tmp_path)
    assert (found.form, found.confirmed, found.passed) == ("imagefolder", True, True)
    assert {finding.name: finding.text for finding in found.findings}["files"].startswith("25 of 25 files")


def relabel(folder: Path) -> None:
    change_row(folder, 0, labels={"presentation": "man"})


def leak(folder: Path) -> None:
    change_row(folder, 0, text="a portrait of a female mechanic")


def misspell(folder: Path) -> None:
    change_row(folder, 0, text="a portrait of an mechanic")


def relicense(folder: Path) -> None:
    change_row(folder, 0, license="all rights reserved")


def copy(folder: Path) -> None:
    (folder / "train" / "000001.png").write_bytes((folder / "train" / "000000.png").read_bytes())


def remove(folder: Path) -> None:
    (folder / "preserve" / "000003.png").unlink()


def add(folder: Path) -> None:
    noise(folder / "train" / "more.png", 1000)


def add_row(folder: Path) -> None:
    path = folder / "train" / "metadata.jsonl"
    row = {**read_jsonl(path)[0], "file_name": "000010.png"}
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    noise(folder / "train" / "000010.png", 1000)


def repaint(folder: Path) -> None:
    noise(folder / "train" / "000004.png", 1000)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (relabel, {"cells", "overall", "passed"}),
        (leak, {"leaks", "passed"}),
        (misspell, {"grammar", "passed"}),
        (relicense, {"licenses"}),
        (copy, {"duplicates", "passed"}),
        (remove, {"unreadable", "passed"}),
        (add, {"unreadable", "passed"}),
        (add_row, {"num images", "cells", "overall", "licenses", "passed"}),
        (repaint, set()),
    ],
)
def test_every_kind_of_change_is_named(change: Callable[[Path], None], names: set[str], tmp_path: Path) -> None:
    certified_set(tmp_path)
    change(tmp_path)
    found = verify(tmp_path)
    assert not found.confirmed
    assert differing(found).keys() - {"passed"} == {"files", *names} - {"passed"}
    assert ("passed" in differing(found)) == ("passed" in names)


def test_what_changed_is_told_by_its_name(tmp_path: Path) -> None:
    certified_set(tmp_path)
    leak(tmp_path)
    remove(tmp_path)
    add(tmp_path)
    told = differing(verify(tmp_path))
    assert told["files"].startswith("23 of 25 files have the sha256 of the certificate")
    for change in ("preserve/000003.png is gone", "train/metadata.jsonl has other bytes", "train/more.png is new"):
        assert change in told["files"]
    assert told["leaks"].startswith("1, the certificate says 0; 'female' (presentation=woman)")


def test_a_certificate_that_was_made_to_look_better_is_found_out(tmp_path: Path) -> None:
    """The set is uneven; its certificate is edited to say that it is not, and that it passed."""
    certificate = certified_set(tmp_path)
    relabel(tmp_path)
    write_json_atomic(tmp_path / CERTIFICATE, {**certificate, "passed": True})
    found = verify(tmp_path)
    assert not found.confirmed
    assert not found.passed
    assert "mechanic" in differing(found)["cells"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("wanted", 4.5), ("quota", 5), ("targets", [{"attribute": "presentation", "shares": [0.8, 0.2]}])],
)
def test_quotas_that_do_not_follow_from_the_targets_are_found_out(key: str, value: Any, tmp_path: Path) -> None:
    """Files and counts are right; only what was asked for was changed to fit, or the other way round."""
    certificate = certified_set(tmp_path)
    if key == "targets":
        certificate[key] = value
    else:
        certificate["cells"][0][key] = value
    write_json_atomic(tmp_path / CERTIFICATE, certificate)
    found = verify(tmp_path)
    assert not found.confirmed
    assert "the targets give" in differing(found)["targets"]


@pytest.mark.parametrize("rows", [{"*": [0.37, 0.63]}, {"*": [1 / 3, 2 / 3], "nurse": "base"}])
def test_quotas_of_any_target_follow_from_it(rows: Any, tmp_path: Path) -> None:
    certified_set(tmp_path, wanted=plan(Table(rows=rows, source="a survey"), images_per_concept=7))
    assert differing(verify(tmp_path)) == {}


def test_a_true_certificate_of_a_bad_set_is_confirmed_and_does_not_pass(tmp_path: Path) -> None:
    wanted = make_set(tmp_path)
    leak(tmp_path)
    write_json_atomic(tmp_path / CERTIFICATE, certify(tmp_path, wanted, ORIGIN))
    found = verify(tmp_path)
    assert found.confirmed
    assert not found.passed


@pytest.mark.parametrize("key", ["cells", "leaks", "files", "targets", "vocabulary", "holds"])
def test_a_certificate_that_lacks_something_is_refused_in_one_line(key: str, tmp_path: Path) -> None:
    certificate: dict[str, Any] = certified_set(tmp_path)
    del certificate[key]
    write_json_atomic(tmp_path / CERTIFICATE, certificate)
    with pytest.raises(ValueError, match=f"lacks .*{key}|{key}"):
        verify(tmp_path)


def test_a_folder_without_a_set_or_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file not found: .*certificate.json"):
        verify(tmp_path)
    certificate = certified_set(tmp_path / "set")
    write_json_atomic(tmp_path / CERTIFICATE, certificate)
    with pytest.raises(ValueError, match="holds no curated set"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": "woman"}, "row 1 needs names and values as its labels, got 'woman'"),
        ({"text": None}, "row 1 needs text as its text, got None"),
        ({"file_name": 7}, "row 1 needs text as its file_name, got 7"),
    ],
)
def test_rows_of_another_shape_are_refused(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    certified_set(tmp_path)
    change_row(tmp_path, 0, **changes)
    with pytest.raises(ValueError, match=problem):
        verify(tmp_path)


def test_verifying_writes_nothing(tmp_path: Path) -> None:
    certified_set(tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    verify(tmp_path)
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()
    } == before
    assert read_json(tmp_path / CERTIFICATE)["passed"]
