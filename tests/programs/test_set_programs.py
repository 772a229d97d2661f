"""The programs that take a finished set, as a user runs them: verify, export and publish."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from evenhand.files import sha256_path
from evenhand.paths import program_path
from tests.hub import Requests, created, run_with_hub, running_hub, sent_files
from tests.recipes.noise_set import certified_set, change_row

SCRIPTS = Path(__file__).parents[2] / "scripts"
PROGRAMS = {
    "verify": program_path("data_recipes/verify"),
    "export_set": SCRIPTS / "export_set.py",
    "publish_set": SCRIPTS / "publish_set.py",
}
REPO = "somebody/even-handed-mechanics"


def run(folder: Path, name: str, *overrides: str, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """A program in a folder; with ``largest_file`` writing more bytes into one file fails, as on a full disk."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, str(PROGRAMS[name]), *overrides],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a wrong command ends in."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certified_set(tmp_path / "set")
    return tmp_path


@pytest.fixture
def hub() -> Iterator[tuple[str, Requests]]:
    with running_hub() as here:
        yield here


@pytest.mark.parametrize("form", ["imagefolder", "parquet", "webdataset"])
def test_a_set_is_exported_and_the_copy_verified_by_its_own_certificate(form: str, folder: Path) -> None:
    done = run(folder, "export_set", "set=set", "to=copies/one", f"format={form}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"exported: copies/one ({form})")
    found = run(folder, "verify", "set=copies/one")
    assert found.returncode == 0, found.stderr
    assert f"copies/one ({form})" in found.stdout
    assert "same     files: 25 of 25 files have the sha256 of the certificate" in found.stdout
    assert "DIFFERS" not in found.stdout
    assert "confirmed: the certificate is true of these files" in found.stdout
    again = run(folder, "export_set", "set=set", "to=copies/one", f"format={form}")
    assert "to=copies/one is there already" in error_of(again)


def test_a_changed_set_is_not_confirmed_and_the_exit_code_says_so(folder: Path) -> None:
    change_row(folder / "set", 0, text="a portrait of a female mechanic")
    found = run(folder, "verify", "set=set")
    assert found.returncode == 3
    assert "DIFFERS  files: 24 of 25" in found.stdout
    assert "train/metadata.jsonl has other bytes" in found.stdout
    assert "DIFFERS  leaks: 1, the certificate says 0; 'female' (presentation=woman)" in found.stdout
    assert "not confirmed" in found.stderr


@pytest.mark.parametrize(
    ("name", "overrides", "problem"),
    [
        ("verify", [], "set"),
        ("verify", ["set=nowhere"], "file not found: nowhere/certificate.json"),
        ("verify", ["set=set", "+note=3"], "nothing reads the key 'note'"),
        ("export_set", ["set=set", "to=x", "format=zip"], "format must be one of"),
        ("export_set", ["set=set", "to=x", "shard_mb=0"], "shard_mb must be > 0"),
        ("export_set", ["set=nowhere", "to=x"], "file not found: nowhere/certificate.json"),
        ("publish_set", ["set=set", "repo=nobody"], "repo must be <user or organisation>/<name>"),
        ("publish_set", ["set=nowhere", f"repo={REPO}"], "file not found: nowhere/certificate.json"),
    ],
)
def test_a_wrong_command_ends_in_one_line(name: str, overrides: list[str], problem: str, folder: Path) -> None:
    assert problem in error_of(run(folder, name, *overrides))
    assert [path.name for path in folder.iterdir()] == ["set"]


@pytest.mark.parametrize("form", ["imagefolder", "parquet", "webdataset"])
def test_a_disk_that_takes_no_more_ends_in_one_line_and_leaves_nothing(form: str, folder: Path) -> None:
    before = sha256_path(folder / "set")
    done = run(folder, "export_set", "set=set", "to=copy", f"format={form}", largest_file=1500)
    error = error_of(done)
    assert "to=copy cannot be written: " in error
    assert "File too large" in error
    assert [path.name for path in folder.iterdir()] == ["set"]
    assert sha256_path(folder / "set") == before


def test_without_being_told_nothing_is_sent_and_every_file_is_listed(folder: Path, hub) -> None:
    address, requests = hub
    code, out, err = run_with_hub(PROGRAMS["publish_set"], "set=set", f"repo={REPO}", folder=folder, address=address)
    assert code == 0, err
    assert requests == []
    assert f"would upload to {REPO} (private):" in out
    assert [line.split()[-1] for line in out.splitlines() if " bytes  " in line] == [
        "README.md",
        "certificate.json",
        "preserve/00000-of-00001.parquet",
        "train/00000-of-00001.parquet",
    ]
    assert "license: cc0-1.0" in out
    assert out.rstrip().endswith("nothing was sent (dry_run=false sends it)")


def test_what_is_sent_is_a_dataset_that_its_certificate_holds_for(folder: Path, hub) -> None:
    address, requests = hub
    code, out, err = run_with_hub(
        PROGRAMS["publish_set"], "set=set", f"repo={REPO}", "dry_run=false", folder=folder, address=address
    )
    assert code == 0, err
    assert f"published: {address}/datasets/{REPO}/commit/1" in out
    asked = created(requests)
    assert asked["type"] == "dataset"
    assert "private" in (asked.get("visibility"), "private" if asked.get("private") else "public")
    files = sent_files(requests)
    for name, content in files.items():
        path = folder / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert DatasetCard(files["README.md"].decode()).data.license == "cc0-1.0"
    assert json.loads(files["certificate.json"]) == json.loads((folder / "set" / "certificate.json").read_text())
    found = run(folder, "verify", "set=downloaded")
    assert found.returncode == 0, found.stdout


def test_a_refusal_of_the_hub_is_one_line(folder: Path, hub) -> None:
    address, _ = hub
    arguments = ("set=set", f"repo={REPO}", "dry_run=false")
    code, out, err = run_with_hub(
        PROGRAMS["publish_set"], *arguments, folder=folder, address=address, token="hf_another"
    )
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert f"{REPO} was not uploaded" in err
    assert "published" not in out
