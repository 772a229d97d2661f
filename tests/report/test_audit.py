"""The blinded audit: what is on the sheet, what is in its key, and what comes back; each image has its own colour."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evenhand.evaluation.folder import load_readings
from evenhand.evaluation.plan import load_plan
from evenhand.files import read_json, sha256_file, write_jsonl_atomic
from evenhand.report.audit import Sheet, add_labels, write_sheet
from tests.folders import ARMS, plan_row, prompt_row, reading_row, write_folder

PROMPTS = [prompt_row("heldout", concept) for concept in ("nurse", "mechanic", "pilot")]
OTHER = prompt_row("offtemplate", "judge")
NUM_SEEDS = 4
PAIRS = [(prompt["id"], seed) for prompt in PROMPTS for seed in range(NUM_SEEDS)]


def color(prompt_id: str, seed: int, arm: str) -> tuple[int, int, int]:
    """A colour for each image; the arm is in the blue alone."""
    ids = [prompt["id"] for prompt in (*PROMPTS, OTHER)]
    return (60 * ids.index(prompt_id), 60 * seed, 250 * ARMS.index(arm))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as another tool may leave it: its file names and metadata say which arm an image is of."""
    places = [(prompt["id"], seed, arm) for prompt in (*PROMPTS, OTHER) for seed in range(NUM_SEEDS) for arm in ARMS]
    readings = [reading_row(*place, "woman") for place in places]
    write_folder(tmp_path, plan_row([*PROMPTS, OTHER]), readings)
    rows = []
    for prompt_id, seed, arm in places:
        path = tmp_path / f"{arm}-{prompt_id}-{seed}.png"
        said = PngInfo()
        said.add_text("arm", arm)
        Image.new("RGB", (24, 24), color(prompt_id, seed, arm)).save(path, pnginfo=said)
        rows.append(
            {
                "prompt_id": prompt_id,
                "seed": seed,
                "arm": arm,
                "path": path.name,
                "sha256": sha256_file(path),
                "noise_sha256": f"{seed:064d}",
            }
        )
    write_jsonl_atomic(tmp_path / "images.jsonl", rows)
    return tmp_path


def drawn(folder: Path, **changes: Any) -> Sheet:
    given: dict[str, Any] = {"attribute": "presentation", "suite": "heldout", "num_pairs": 5, "seed": 0}
    return write_sheet(load_plan(folder), folder, **{**given, **changes})


def shown(sheet: Sheet) -> dict[str, tuple[int, ...]]:
    """The colour of each picture on a sheet, by its number."""
    found = re.findall(r'data-picture="(\d+)".*?data:image/png;base64,([^"]+)"', sheet.path.read_text(), re.DOTALL)
    return {
        number: Image.open(io.BytesIO(base64.b64decode(content))).getpixel((5, 5))  # type: ignore[misc]
        for number, content in found
    }


def saved(sheet: Sheet, answers: dict[str, str], path: Path) -> Path:
    """The file that the page's button saves: its own quoting, written here with Python's csv."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(["sheet", "picture", "attribute", "value"])
        name = read_json(sheet.key_path)["sheet"]
        table.writerows([name, number, "presentation", value] for number, value in answers.items())
    return path


def test_a_sheet_has_both_images_of_each_drawn_pair_and_no_other(folder: Path) -> None:
    sheet = drawn(folder)
    key = read_json(sheet.key_path)["pictures"]
    assert sheet.num_pictures == len(key) == 10
    assert {number: color(*place) for number, place in key.items()} == shown(sheet)
    pairs = Counter((prompt_id, seed) for prompt_id, seed, _ in key.values())
    assert set(pairs.values()) == {2}
    assert set(pairs) <= set(PAIRS)


def test_a_sheet_tells_neither_arm_nor_prompt(folder: Path) -> None:
    html = drawn(folder).path.read_text()
    for secret in ("base", "adapted", "nurse", "mechanic", "pilot", "heldout", "portrait"):
        assert secret not in html.replace("base64", ""), secret
    content = base64.b64decode(re.findall(r"base64,([^\"]+)", html)[0])
    assert b"arm" not in content
    # Control: the file that was generated does say it.
    assert b"arm" in next(folder.glob("base-*.png")).read_bytes()


def test_the_order_of_arms_is_random_and_the_draw_is_the_seeds(folder: Path) -> None:
    """Of ten pictures in random order, the arms alternate or stand in two blocks with a chance below 1 in 60."""
    sheet = drawn(folder)
    arms = [arm for _, _, arm in read_json(sheet.key_path)["pictures"].values()]
    assert arms not in (list(ARMS) * 5, list(ARMS[::-1]) * 5, sorted(arms), sorted(arms, reverse=True))
    before = sheet.path.read_bytes(), sheet.key_path.read_bytes()
    again = drawn(folder)
    assert (again.path.read_bytes(), again.key_path.read_bytes()) == before
    with pytest.raises(ValueError, match="is the key of another sheet"):
        drawn(folder, seed=1)


def test_every_pair_is_drawn_equally_often(folder: Path) -> None:
    """5 of 12 pairs in each of 240 draws: each pair 100 times on average, with a standard deviation of 7.6."""
    counts: Counter[tuple[str, int]] = Counter()
    for seed in range(240):
        for path in (folder / "audit").glob("*"):
            path.unlink()
        places = read_json(drawn(folder, seed=seed).key_path)["pictures"].values()
        counts.update({(prompt_id, number) for prompt_id, number, _ in places})
    assert len(counts) == len(PAIRS)
    assert np.abs(np.array(list(counts.values())) - 100).max() < 4 * 7.6


def test_labels_of_a_sheet_come_back_as_readings_of_their_rater(folder: Path, tmp_path: Path) -> None:
    sheet = drawn(folder)
    truth = {number: "woman" if rgb[2] else "man" for number, rgb in shown(sheet).items()}
    numbers = list(truth)
    answers = {**truth, numbers[0]: "cannot tell", numbers[1]: "nobody"}
    before = load_readings(folder)
    path = saved(sheet, answers, tmp_path / "labels.csv")
    assert add_labels(load_plan(folder), folder, path, rater="ada") == 10
    readings = load_readings(folder)
    assert [reading for reading in readings if reading.reader != "ada"] == before
    key = read_json(sheet.key_path)["pictures"]
    place_of = {tuple(place): number for number, place in key.items()}
    for reading in (reading for reading in readings if reading.reader == "ada"):
        number = place_of[reading.prompt_id, reading.seed, reading.arm]
        expected = answers[number] if answers[number] in ("woman", "man") else None
        assert reading.value == expected
        assert (reading.unread is None) == (expected is not None)
        if expected is not None:
            assert expected == ("woman" if reading.arm == "adapted" else "man")


def test_a_rater_who_hands_in_more_labels_replaces_their_own(folder: Path, tmp_path: Path) -> None:
    sheet, plan = drawn(folder), load_plan(folder)
    add_labels(plan, folder, saved(sheet, {"01": "man"}, tmp_path / "one.csv"), rater="ada")
    add_labels(plan, folder, saved(sheet, {"01": "man"}, tmp_path / "one.csv"), rater="bob")
    add_labels(plan, folder, saved(sheet, {"01": "woman", "02": "man"}, tmp_path / "two.csv"), rater="ada")
    labels = [(reading.reader, reading.value) for reading in load_readings(folder) if reading.reader in ("ada", "bob")]
    assert sorted(labels) == [("ada", "man"), ("ada", "woman"), ("bob", "man")]


def test_a_table_of_another_tool_needs_no_sheet(folder: Path, tmp_path: Path) -> None:
    rows = f"prompt_id,seed,arm,attribute,value\n{PROMPTS[0]['id']},2,base,presentation,man\n"
    (tmp_path / "t.csv").write_text(rows)
    assert add_labels(load_plan(folder), folder, tmp_path / "t.csv", rater="tool") == 1
    (tmp_path / "t.csv").write_text(rows.replace(",base,", ",baseline,"))
    with pytest.raises(ValueError, match="the plan has no picture of prompt .* arm 'baseline'"):
        add_labels(load_plan(folder), folder, tmp_path / "t.csv", rater="tool")


def test_values_with_markup_are_shown_as_text(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["attributes"][0]["values"] = ["<b>woman</b>", 'man"']
    (folder / "plan.json").write_text(json.dumps(plan))
    html = drawn(folder).path.read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;woman&lt;/b&gt;" in html


def test_large_images_are_shrunk_and_small_ones_kept(folder: Path) -> None:
    """A photograph of 1024 px would make a sheet of 200 too large to open."""
    rows = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    for row in rows:
        path = folder / row["path"]
        Image.new("RGB", (1024, 512), "navy").save(path)
        row["sha256"] = sha256_file(path)
    write_jsonl_atomic(folder / "images.jsonl", rows)
    html = drawn(folder).path.read_text()
    (first, *_) = re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (512, 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pairs": 13}, "suite heldout has 12 pairs of images, fewer than pairs=13"),
        ({"num_pairs": 0}, "pairs must be >= 1"),
        ({"attribute": "age"}, "unknown attribute 'age'; the plan has presentation"),
        ({"suite": "scene"}, "suite scene has 0 pairs"),
    ],
)
def test_a_draw_that_cannot_be_made_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(folder, **changes)
    assert not (folder / "audit").exists()


def test_an_image_that_was_changed_is_refused(folder: Path) -> None:
    for path in folder.glob("*.png"):
        Image.new("RGB", (24, 24), "white").save(path)
    with pytest.raises(ValueError, match="is not the image that was generated"):
        drawn(folder)


def test_an_unpaired_plan_has_no_pairs_to_draw(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "paired": False}))
    with pytest.raises(ValueError, match="not paired"):
        drawn(folder)


@pytest.mark.parametrize("rater", ["", "oracle"])
def test_a_rater_needs_a_name_of_their_own(folder: Path, tmp_path: Path, rater: str) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "reader": "oracle"}))
    with pytest.raises(ValueError, match="must be a name, and not that of a reader"):
        add_labels(load_plan(folder), folder, tmp_path / "labels.csv", rater=rater)
