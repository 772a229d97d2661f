"""What may be published of a set, and what is said of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evenhand.files import read_json, write_json_atomic
from evenhand.publish import Upload
from evenhand.recipes.certificate import CERTIFICATE
from evenhand.recipes.publishing import prepare_set
from evenhand.recipes.report import BuildAccount
from tests.recipes.noise_set import ORIGIN, certified_set, change_row

REPO = "somebody/even-handed-mechanics"


def prepare(folder: Path, **changes: Any) -> Upload:
    arguments: dict[str, Any] = {"repo": REPO, "form": "parquet", "shard_mb": 1.0, **changes}
    return prepare_set(folder, folder.parent / "up", **arguments)


def test_only_the_sets_parts_its_certificate_and_its_card_are_published(tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    (tmp_path / "set" / "attempts-0.jsonl").write_text("{}\n")
    (tmp_path / "set" / "provenance.json").write_text(json.dumps({"user": "somebody", "host": "mine"}))
    upload = prepare(tmp_path / "set")
    assert [name for name, _, _ in upload.files] == [
        "README.md",
        "certificate.json",
        "preserve/00000-of-00001.parquet",
        "train/00000-of-00001.parquet",
    ]
    assert upload.kind == "dataset"


@pytest.mark.parametrize("repo", ["nobody", "a/b/c", "../x", "a/b c"])
def test_what_is_no_repository_is_refused(repo: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    with pytest.raises(ValueError, match="repo must be <user or organisation>/<name>"):
        prepare(tmp_path / "set", repo=repo)


def test_a_set_that_did_not_pass_is_not_published(tmp_path: Path) -> None:
    certificate = certified_set(tmp_path / "set")
    write_json_atomic(tmp_path / "set" / CERTIFICATE, {**certificate, "passed": False})
    with pytest.raises(ValueError, match="did not pass its own certificate"):
        prepare(tmp_path / "set")


def test_a_set_that_changed_since_is_not_published(tmp_path: Path) -> None:
    certified_set(tmp_path / "set")
    change_row(tmp_path / "set", 0, text="a portrait of a kind mechanic")
    with pytest.raises(ValueError, match="is not as its certificate says"):
        prepare(tmp_path / "set")
    assert not (tmp_path / "up").exists()


def test_pictures_of_people_are_published_with_their_consent_only(tmp_path: Path) -> None:
    certified_set(tmp_path / "set", account=BuildAccount(depicts="people", consent="signed forms of 2025"))
    upload = prepare(tmp_path / "set")
    assert "signed forms of 2025" in (upload.folder / "README.md").read_text()
    certificate = read_json(tmp_path / "set" / CERTIFICATE)
    certificate["people"]["consent"] = " "
    write_json_atomic(tmp_path / "set" / CERTIFICATE, certificate)
    with pytest.raises(ValueError, match="depicts people but names no consent"):
        prepare_set(tmp_path / "set", tmp_path / "again", repo=REPO, form="parquet", shard_mb=1)


@pytest.mark.parametrize(
    "source", ["self:/home/somebody/models/base", "folder:~/pictures", "C:\\pictures", "from file:///data/x"]
)
def test_a_source_that_only_this_machine_knows_is_not_published(source: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set", origin=replace(ORIGIN, source=source))
    with pytest.raises(ValueError, match="names a place on one machine"):
        prepare(tmp_path / "set")


@pytest.mark.parametrize("source", ["self:tinytown", "hub:somebody/pictures", "https://example.org/pictures", "a/b"])
def test_a_source_that_others_can_find_is(source: str, tmp_path: Path) -> None:
    certified_set(tmp_path / "set", origin=replace(ORIGIN, source=source))
    assert prepare(tmp_path / "set").files


def test_more_files_than_a_hub_takes_in_one_folder_go_into_shards(tmp_path: Path) -> None:
    certificate = certified_set(tmp_path / "set")
    files = {**certificate["files"], **{f"train/x{number}.png": "0" * 64 for number in range(10_001)}}
    write_json_atomic(tmp_path / "set" / CERTIFICATE, {**certificate, "files": files})
    with pytest.raises(ValueError, match="train holds 10012 files, .*format=parquet"):
        prepare(tmp_path / "set", form="imagefolder")
