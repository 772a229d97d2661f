"""Pairs are drawn by the plan's hash, the worst ones stand beside them, and no file outside the folder is shown."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenhand.evaluation.plan import load_plan, plan_sha256
from evenhand.report import pictures
from evenhand.report.contact_sheet import CELL_PX, NUM_CONCEPTS, NUM_SEEDS, SHEET_FILE
from evenhand.report.pictures import ChosenPair, choose_pairs, gallery
from evenhand.report.render import write_report
from tests.folders import reading_row
from tests.report.full_folder import COLORS, HELDOUT, full_folder
from tests.report.full_folder import NUM_SEEDS as SEEDS_MADE
from tests.report.page import page_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return full_folder(tmp_path / "run")


def chosen(folder: Path, **changes: Any) -> list[ChosenPair]:
    digest = changes.pop("digest", plan_sha256(folder))
    return choose_pairs(load_plan(folder), folder, plan_digest=digest, reader="oracle")


def of_kind(pairs: list[ChosenPair], kind: str) -> list[ChosenPair]:
    return [pair for pair in pairs if pair.kind == kind]


def pixel(uri: str) -> tuple[int, ...]:
    """The colour in the middle of an embedded image."""
    kind, data = uri.split(";base64,")
    assert kind == "data:image/webp"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return tuple(np.asarray(image.convert("RGB"))[image.height // 2, image.width // 2].tolist())


def rewrite(path: Path, change: Any) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def test_random_pairs_follow_from_the_plans_hash_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PAIRS_PER_CONCEPT", 3)
    one, again = (of_kind(chosen(folder), "random") for _ in range(2))
    other = of_kind(chosen(folder, digest="f" * 64), "random")
    assert one == again
    assert one != other
    # The readings have no say: turned round, they leave the same pairs.
    rewrite(folder / "readings.jsonl", lambda row: {**row, "value": "man" if row["value"] == "woman" else row["value"]})
    keys = [(pair.prompt_id, pair.seed) for pair in of_kind(chosen(folder), "random")]
    assert keys == [(pair.prompt_id, pair.seed) for pair in one]


def test_every_seed_is_as_likely_to_be_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 400 hashes each of the eight seeds of a prompt is drawn 50 times, plus or minus four standard deviations."""
    monkeypatch.setattr(pictures, "PAIRS_PER_CONCEPT", 1)
    monkeypatch.setattr(pictures, "MAX_CONCEPTS", 1)
    plan = load_plan(folder)
    records = pictures.load_images(folder)
    seeds = pictures.paired_seeds(plan, records, plan.arms)
    draws = Counter(
        next(pictures._random_pairs(plan, seeds, np.random.default_rng(number))).seed for number in range(400)
    )
    assert len(draws) == SEEDS_MADE
    assert all(abs(count - 50) < 4 * np.sqrt(400 * (1 / 8) * (7 / 8)) for count in draws.values())


def test_pairs_show_both_arms_with_alt_text_and_what_was_read(folder: Path) -> None:
    write_report(folder)
    page = page_of(folder)
    assert all(page.alts)
    assert [", base, seed " in alt for alt in page.alts] == [True, False] * (len(page.alts) // 2)
    assert [", adapted, seed " in alt for alt in page.alts] == [False, True] * (len(page.alts) // 2)
    shown = [source for source in page.sources if source.startswith("data:")]
    assert np.abs(np.subtract(pixel(shown[0]), COLORS["base"])).max() < 6  # lossy
    assert np.abs(np.subtract(pixel(shown[1]), COLORS["adapted"])).max() < 6
    first = chosen(folder)[0]
    assert f"{first.prompt}, base, seed {first.seed}, read as {first.readings[0]}" == page.alts[0]


def test_the_pairs_shown_are_named_in_results_json(folder: Path) -> None:
    write_report(folder)
    named = json.loads((folder / "results.json").read_text())["pairs_shown"]
    assert len(named) * 2 == len(page_of(folder).alts)
    assert {row["kind"] for row in named} >= {"random", "drift"}


def test_disobedience_is_found_and_what_the_adapter_broke_comes_first(folder: Path) -> None:
    """Two planted failures: one that the base has too, and one that is new."""
    explicit = [prompt.id for prompt in load_plan(folder).prompts if prompt.suite == "explicit"]
    expects = {
        prompt.id: dict(prompt.expects or {})["presentation"]
        for prompt in load_plan(folder).prompts[-13:]
        if prompt.suite == "explicit"
    }
    wrong = {("base", explicit[0], 1000), ("adapted", explicit[0], 1000), ("adapted", explicit[3], 1002)}

    def plant(row: dict[str, Any]) -> dict[str, Any]:
        if row["prompt_id"] not in explicit or row["attribute"] != "presentation":
            return row
        right = expects[row["prompt_id"]]
        turned = (row["arm"], row["prompt_id"], row["seed"]) in wrong
        return {**row, "value": ("man" if right == "woman" else "woman") if turned else right, "unread": None}

    rewrite(folder / "readings.jsonl", plant)
    found = [pair for pair in of_kind(chosen(folder), "disobedience") if pair.suite == "explicit"]
    assert [(pair.prompt_id, pair.seed) for pair in found] == [(explicit[3], 1002), (explicit[0], 1000)]
    assert found[0].note == f"expected {expects[explicit[3]]}"
    assert found[0].readings[0] == expects[explicit[3]] != found[0].readings[1]


def test_no_disobedience_is_shown_where_every_prompt_was_obeyed(folder: Path) -> None:
    expects = {prompt.id: dict(prompt.expects) for prompt in load_plan(folder).prompts if prompt.expects}

    def obey(row: dict[str, Any]) -> dict[str, Any]:
        value = expects.get(row["prompt_id"], {}).get(row["attribute"])
        return row if value is None else {**row, "value": value, "unread": None}

    rewrite(folder / "readings.jsonl", obey)
    assert of_kind(chosen(folder), "disobedience") == []


def test_an_image_that_was_not_read_does_not_show_what_its_prompt_names(folder: Path) -> None:
    rows = (folder / "readings.jsonl").read_text()
    extra = reading_row("fixed-pyladies-00", 1007, "adapted", None, subject=5)
    (folder / "readings.jsonl").write_text(rows + json.dumps(extra) + "\n")
    assert ("fixed-pyladies-00", 1007) in [(p.prompt_id, p.seed) for p in of_kind(chosen(folder), "disobedience")]


def test_the_least_similar_unrelated_pairs_come_first(folder: Path) -> None:
    pairs = of_kind(chosen(folder), "drift")
    assert {pair.suite for pair in pairs} == {"unrelated"}
    assert [pair.note for pair in pairs[:2]] == ["similarity 0.90; two base seeds 0.70"] * 2
    assert [pair.seed for pair in pairs] == sorted(pair.seed for pair in pairs)  # as full_folder made them


def test_nearest_neighbours_stand_beside_their_training_image(folder: Path, tmp_path: Path) -> None:
    training = tmp_path / "set"
    (training / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(training / "train" / "000007.png")
    provenance = {"config": {"training_set": str(training)}, "inputs": {}, "command": ["x/evaluate/shift.py", "a=1"]}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    key = {"prompt_id": "heldout-mechanic-00", "scorer": "s", "relative_distance": None, "nearest": "000007.png"}
    rows = [{**key, "seed": 1000 + number, "arm": "adapted", "similarity": 0.5 + number / 20} for number in range(4)]
    rows += [{**key, "seed": 1000, "arm": "base", "similarity": 0.99}]
    (folder / "copies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = of_kind(chosen(folder), "neighbour")
    assert [(pair.seed, pair.note) for pair in found][:2] == [(1003, "similarity 0.650"), (1002, "similarity 0.600")]
    (strip,) = gallery(load_plan(folder), folder, found).of_kind("neighbour")
    assert np.abs(np.subtract(pixel(strip.pairs[0].shots[2].uri), (200, 0, 0))).max() < 6
    assert strip.pairs[0].shots[2].alt == "training image 000007.png"


@pytest.mark.parametrize("path", ["/etc/hostname.png", "../secret.png", "images/../../secret.png", "missing.png"])
def test_an_image_outside_the_folder_is_never_shown(folder: Path, path: str) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(folder.parent / "secret.png")
    everything = chosen(folder)
    rewrite(folder / "images.jsonl", lambda row: {**row, "path": path if row["arm"] == "base" else row["path"]})
    shown = gallery(load_plan(folder), folder, everything)
    assert shown.strips == []
    assert shown.num_unreadable == len(everything)
    write_report(folder)
    assert "a file is missing or is not an image" in (folder / "report.html").read_text()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_broken_image_is_counted_and_the_rest_is_shown(folder: Path, content: bytes) -> None:
    first = chosen(folder)[0]
    broken = folder / "images" / "adapted" / first.prompt_id / f"{first.seed}.png"
    assert broken.is_file()
    broken.write_bytes(content)
    shown = gallery(load_plan(folder), folder, chosen(folder))
    assert shown.num_unreadable >= 1
    assert shown.num_shown > 50
    write_report(folder)


def test_images_stay_within_their_room_and_what_has_none_is_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = gallery(load_plan(folder), folder, chosen(folder))
    assert everything.num_left_out == 0
    monkeypatch.setattr(pictures, "MAX_URI_CHARACTERS", 10_000)
    fewer = gallery(load_plan(folder), folder, chosen(folder))
    uris = [shot.uri for strip in fewer.strips for pair in strip.pairs for shot in pair.shots]
    assert sum(map(len, uris)) <= 10_000
    assert fewer.num_left_out + fewer.num_shown == everything.num_shown
    write_report(folder)
    assert "to keep this page small; results.json names them" in (folder / "report.html").read_text()


def test_a_folder_whose_plan_names_no_seeds_shows_its_images_too(folder: Path) -> None:
    """Another tool's plan has no block ``generation``."""
    plan = json.loads((folder / "plan.json").read_text())
    del plan["generation"], plan["dose"]
    (folder / "plan.json").write_text(json.dumps(plan))
    rows = [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]
    kept = [row for row in rows if "@" not in row["arm"]]
    (folder / "readings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    write_report(folder)
    assert len(page_of(folder).alts) > 100
    assert (folder / SHEET_FILE).is_file()


def test_the_contact_sheet_has_the_base_above_the_adapted(folder: Path) -> None:
    write_report(folder)
    with Image.open(folder / SHEET_FILE) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, sheet.width, 3)
    rows_of = [np.nonzero((pixels == COLORS[arm]).all(axis=2))[0] for arm in ("base", "adapted")]
    assert rows_of[0].max() < rows_of[1].min()
    cells = min(len(HELDOUT), NUM_CONCEPTS) * min(SEEDS_MADE, NUM_SEEDS)
    assert [len(rows) for rows in rows_of] == [cells * CELL_PX**2] * 2


def test_there_is_no_contact_sheet_without_images(folder: Path) -> None:
    (folder / "images.jsonl").unlink()
    write_report(folder)
    assert not (folder / SHEET_FILE).exists()
