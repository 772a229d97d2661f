"""The audit as a person runs it: draw a sheet, label it, add the labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from evenhand.files import read_json, read_jsonl, sha256_file, write_jsonl_atomic
from tests.folders import ARMS, plan_row, prompt_row, reading_row, write_folder

ROOT = Path(__file__).resolve().parents[2]
EXIT_USER_ERROR = 2


def run(program: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "evaluate" / program), *overrides],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_sheet_is_drawn_labelled_and_added(tmp_path: Path) -> None:
    prompt = prompt_row("heldout", "nurse")
    folder = tmp_path / "run"
    places = [(prompt["id"], seed, arm) for seed in range(3) for arm in ARMS]
    write_folder(folder, plan_row([prompt]), [reading_row(*place, "woman") for place in places])
    rows = []
    for prompt_id, seed, arm in places:
        path = folder / f"{seed}-{arm}.png"
        Image.new("RGB", (8, 8), (80 * seed, 0, 200 * ARMS.index(arm))).save(path)
        row = {"prompt_id": prompt_id, "seed": seed, "arm": arm, "path": path.name, "noise_sha256": "0"}
        rows.append({**row, "sha256": sha256_file(path)})
    write_jsonl_atomic(folder / "images.jsonl", rows)

    many = run("audit.py", "run=run", cwd=tmp_path)
    assert many.returncode == EXIT_USER_ERROR
    assert "has 3 pairs of images, fewer than pairs=100" in many.stderr

    done = run("audit.py", "run=run", "pairs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run/audit/presentation.html: 4 pictures" in done.stdout
    key = read_json(folder / "audit" / "presentation.key.json")
    lines = [f"{key['sheet']},{number},presentation,man" for number in key["pictures"]]
    (tmp_path / "labels.csv").write_text("\n".join(["sheet,picture,attribute,value", *lines]) + "\n")

    added = run("labels.py", "run=run", "labels=labels.csv", "rater=ada", cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    assert "4 labels of ada" in added.stdout
    assert [row["value"] for row in read_jsonl(folder / "readings.jsonl") if row["reader"] == "ada"] == ["man"] * 4
    assert (folder / "provenance.labels.ada.json").is_file()
    # The same again replaces them, and the sheet stays what it was.
    assert run("labels.py", "run=run", "labels=labels.csv", "rater=ada", cwd=tmp_path).returncode == 0
    assert len(read_jsonl(folder / "readings.jsonl")) == len(places) + 4
