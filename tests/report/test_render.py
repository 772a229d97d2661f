"""The report says what results.json says, needs nothing but itself, and shows markup in prompts as text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evenhand.report.contact_sheet import CELL_PX, SHEET_FILE
from evenhand.report.render import markdown_cell, write_report
from tests.folders import drawn_readings, plan_row, prompt_row, write_folder

NASTY = "<script>alert('x')</script> & | *mechanic*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two suites of four prompts, one of them with markup in its text and concept."""
    prompts = [prompt_row(suite, f"c{index}") for suite in ("heldout", "train") for index in range(4)]
    prompts[0] |= {"text": f"a portrait of {NASTY}", "concept": NASTY}
    shares = {arm: {row["id"]: share for row in prompts} for arm, share in (("base", 0.9), ("adapted", 0.5))}
    rows = drawn_readings(prompts, shares, num_seeds=12, rng=np.random.default_rng(0))
    return write_folder(tmp_path / "run", plan_row(prompts), rows)


class Page(HTMLParser):
    """What a browser would see: tags, their sources and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self.alts += [given.get("alt") or ""] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(folder: Path) -> Page:
    page = Page()
    page.feed((folder / "report.html").read_text())
    return page


def test_the_report_shows_markup_as_text(folder: Path) -> None:
    write_report(folder)
    page = page_of(folder)
    assert "script" not in page.tags
    assert NASTY in "".join(page.text)
    assert "<script" not in (folder / "report.md").read_text()


def test_the_report_needs_no_other_file(folder: Path) -> None:
    write_report(folder)
    assert [source for source in page_of(folder).sources if not source.startswith("data:")] == []
    assert "url(" not in (folder / "report.html").read_text()


def test_the_first_paragraph_stands_in_every_form(folder: Path) -> None:
    answer = write_report(folder).answer
    assert json.loads((folder / "results.json").read_text())["answer"] == answer
    assert html.escape(answer) in (folder / "report.html").read_text()
    assert markdown_cell(answer) in (folder / "report.md").read_text()
    for part in ("heldout", "95 % interval", "4 prompts", "48 same-seed pairs", "reader oracle"):
        assert part in answer


def test_every_number_of_the_tables_is_in_results_json(folder: Path) -> None:
    """Numbers with two digits after the point, as the reports print them, against all numbers of the JSON."""
    write_report(folder)
    content = json.loads((folder / "results.json").read_text())
    fields = [entry[key] for entry in content["estimates"] + content["guards"] for key in entry]
    known = {f"{abs(value):.2f}" for value in fields if isinstance(value, float)}
    known |= {f"{value:.2f}" for value in content["estimates"][0].values() if isinstance(value, float)}
    text = (folder / "report.md").read_text()
    shown = set(re.findall(r"\d+\.\d\d(?!\d)", text))
    assert len(shown) > 20
    assert shown - known == set()


def test_the_report_is_made_without_images_and_says_so(folder: Path) -> None:
    write_report(folder)
    assert page_of(folder).alts == []


def add_images(folder: Path, colors: Mapping[str, tuple[int, int, int]]) -> None:
    """Images of two seeds for the first four prompts, each arm in one colour."""
    plan = json.loads((folder / "plan.json").read_text())
    seeds = {prompt["id"]: list(range(12)) for prompt in plan["prompts"]}
    fields = ["base", "base_fingerprint", "encoders_fingerprint", "adapter_sha256", "device"]
    sizes = {"batch_size": 4, "steps": 2, "guidance": 3.0, "height_px": 8, "width_px": 200}
    plan["generation"] = {
        "seeds": seeds,
        "dtype": "float32",
        "adapter_scale": 1.0,
        **dict.fromkeys(fields, "x"),
        **sizes,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    lines = []
    for arm in plan["arms"]:
        for prompt in plan["prompts"][:4]:
            for seed in range(2):
                path = f"images/{arm}/{prompt['id']}/{seed}.png"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (200, 8), colors[arm]).save(folder / path)
                row = {
                    "prompt_id": prompt["id"],
                    "seed": seed,
                    "arm": arm,
                    "path": path,
                    "sha256": "",
                    "noise_sha256": "",
                }
                lines.append(json.dumps(row) + "\n")
    (folder / "images.jsonl").write_text("".join(lines))


def test_before_and_after_pairs_are_shown_with_alt_text(folder: Path) -> None:
    add_images(folder, {"base": (1, 2, 3), "adapted": (1, 2, 3)})
    write_report(folder)
    page = page_of(folder)
    assert len(page.alts) == 4 * 2 * 2
    assert f"a portrait of {NASTY}, base, seed 0" in page.alts
    assert all(source.startswith("data:image/jpeg") for source in page.sources)


def test_the_contact_sheet_has_the_base_above_the_adapted(folder: Path) -> None:
    write_report(folder)
    assert not (folder / SHEET_FILE).exists()  # control: without images there is no sheet
    add_images(folder, {"base": (255, 0, 0), "adapted": (0, 0, 255)})
    write_report(folder)
    with Image.open(folder / SHEET_FILE) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, sheet.width, 3)
    rows_of = [np.nonzero((pixels == color).all(axis=2))[0] for color in ((255, 0, 0), (0, 0, 255))]
    assert rows_of[0].max() < rows_of[1].min()
    # Four concepts and two seeds in each arm.
    assert [len(rows) for rows in rows_of] == [4 * 2 * CELL_PX**2] * 2


def test_the_same_folder_gives_the_same_bytes(folder: Path) -> None:
    write_report(folder)
    first = [(folder / name).read_bytes() for name in ("results.json", "report.html", "report.md")]
    write_report(folder)
    assert [(folder / name).read_bytes() for name in ("results.json", "report.html", "report.md")] == first
