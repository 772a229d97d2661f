"""The report says what results.json says, needs nothing but itself, and shows markup in prompts as text."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evenhand
from evenhand.report.content import visible_text
from evenhand.report.render import (
    MAX_CONCEPT_ROWS,
    left_out,
    markdown_cell,
    page_content,
    render,
    selftest_sentence,
    write_report,
)
from tests.folders import drawn_readings, plan_row, prompt_row, write_folder
from tests.report.full_folder import full_folder
from tests.report.page import page_of

NASTY = "<script>alert('x')</script>\" onload=\"x | *mechanic* </svg> [a](http://b.c) $x$ {{ 7*7 }}"
MOST_HTML_BYTES = 5_000_000


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every part of a report has something to show, with its report."""
    folder = full_folder(tmp_path_factory.mktemp("full") / "run")
    write_report(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Another tool's folder: two suites of four prompts without images, one with markup in its text and concept."""
    return foreign_folder(tmp_path / "run", concept=NASTY)


def foreign_folder(folder: Path, *, concept: str, **changes: Any) -> Path:
    prompts = [prompt_row(suite, f"c{index}") for suite in ("heldout", "train") for index in range(4)]
    prompts[0] |= {"text": f"a portrait of {concept}", "concept": concept}
    shares = {arm: {row["id"]: share for row in prompts} for arm, share in (("base", 0.9), ("adapted", 0.5))}
    rows = drawn_readings(prompts, shares, num_seeds=12, rng=np.random.default_rng(0))
    return write_folder(folder, plan_row(prompts, **changes), rows)


def results_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def test_markup_in_prompts_is_shown_as_text(folder: Path) -> None:
    write_report(folder)
    page = page_of(folder)
    assert "script" not in page.tags
    assert page.handlers == []
    assert NASTY in "".join(page.text)
    # In SVG titles and labels as well: the dot plot speaks of every concept.
    assert any(text.startswith(NASTY) for text in page.spoken)
    markdown = (folder / "report.md").read_text()
    assert "<script" not in markdown
    assert markdown_cell(NASTY) in markdown
    assert "49" not in markdown_cell(NASTY)  # a template's braces are not evaluated


def test_markup_in_every_name_of_a_plan_is_shown_as_text(tmp_path: Path) -> None:
    """Attribute, values, arms, reader and reasons come from files too."""
    attribute, values, arms, reader = "<b>a", ["<i>one", "two|\"'"], ["<u>base", "adapted<"], "<img src=x onerror=y>"
    prompts = [prompt_row("heldout", f"c{index}") for index in range(4)]
    rows = [
        {
            "prompt_id": prompt["id"],
            "seed": seed,
            "arm": arm,
            "subject": 0,
            "reader": reader,
            "attribute": attribute,
            "value": values[(seed + place) % 2] if seed else None,
            "probs": None,
            "unread": None if seed else "<script>no</script>",
        }
        for prompt in prompts
        for place, arm in enumerate(arms)
        for seed in range(6)
    ]
    plan = plan_row(
        prompts,
        arms=arms,
        primary={"attribute": attribute, "suite": "heldout"},
        attributes=[{"name": attribute, "values": values}],
        targets=[{"attribute": attribute, "concept": "*", "shares": [0.5, 0.5], "source": "<script>"}],
    )
    folder = write_folder(tmp_path / "run", plan, rows)
    write_report(folder)
    page = page_of(folder)
    assert {"script", "img", "b", "i", "u"} & set(page.tags) == set()
    assert page.handlers == []
    text = "".join(page.text)
    assert all(name in text for name in (attribute, *values, *arms, reader))
    assert "<img" not in (folder / "report.md").read_text()


def test_text_cannot_hide_or_turn_what_follows_it(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "run", concept="abc\u202edef\x07\nghi")
    write_report(folder)
    for name in ("report.html", "report.md", "card_snippet.yaml"):
        text = (folder / name).read_text()
        assert "\u202e" not in text
        assert "\x07" not in text
    assert "abc\\u202edef\\u0007 ghi" in "".join(page_of(folder).text)


@pytest.mark.parametrize("text", ["mechanic", "kåre", "警察官", "مهندس", "👩‍🔧 fixer"])
def test_words_of_any_script_are_left_as_they_are(text: str) -> None:
    assert visible_text(text) == text


def test_a_page_needs_no_other_file_and_no_script(reported: Path) -> None:
    page = page_of(reported)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert {source[:11] for source in page.sources if not source.startswith("#")} == {"data:image/"}
    source = (reported / "report.html").read_text()
    assert "url(" not in source
    assert "http:" not in source
    assert "default-src 'none'" in source  # and a browser is told to load nothing


def test_links_within_the_page_lead_somewhere(reported: Path) -> None:
    source = (reported / "report.html").read_text()
    links = [link[1:] for link in page_of(reported).sources if link.startswith("#")]
    assert len(links) > 8
    assert [link for link in links if f'id="{link}"' not in source] == []


def test_the_first_paragraph_stands_in_every_form(reported: Path) -> None:
    answer = results_of(reported)["answer"]
    assert html.escape(answer, quote=False) in html.unescape((reported / "report.html").read_text()).replace(
        "&", "&amp;"
    )
    assert markdown_cell(answer) in (reported / "report.md").read_text()


def test_every_part_of_a_full_folder_is_shown(reported: Path) -> None:
    text = "".join(page_of(reported).text)
    for part in (
        "What was not shown",
        "Verdicts",
        "Shares by concept",
        "Dose: the adapter at other scales",
        "Same seed, before and after",
        "The worst pairs",
        "Guards: what must not change",
        "Every metric",
        "Images without a reading",
        "Readers",
        "oracle and second",
        "Several people in an image",
        "Combinations of attributes",
        "woman",
        "How it was made",
        "python evaluate/report.py",
        results_of(reported)["plan_sha256"],
        "a portrait of a painter",
        "Not for judging real people",
    ):
        assert part in text, part


def test_a_folder_of_another_tool_has_no_empty_parts(folder: Path) -> None:
    """Plan and readings alone: what cannot be shown has no heading, and what was not looked at is said."""
    write_report(folder)
    text = "".join(page_of(folder).text)
    for part in ("Dose:", "Same seed", "Several people", "Combinations of attributes"):
        assert part not in text
    assert page_of(folder).alts == []
    assert "no second reader and no person looked at the images" in text
    assert "Not asked: " in text


def test_wide_tables_stand_in_boxes_that_scroll(reported: Path) -> None:
    tables = page_of(reported).tables
    assert len(tables) > 8
    assert set(tables) == {"scroll"}


def test_failed_guards_come_first_and_are_marked(tmp_path: Path) -> None:
    prompts = [prompt_row("heldout", f"c{index}") for index in range(6)]
    prompts += [prompt_row("explicit", f"c{index}", expects={"presentation": "woman"}) for index in range(6)]
    shares = {arm: dict.fromkeys((row["id"] for row in prompts), 0.9) for arm in ("base", "adapted")}
    held = write_folder(
        tmp_path / "held",
        plan_row(prompts),
        drawn_readings(prompts, shares, num_seeds=16, rng=np.random.default_rng(0)),
    )
    shares["adapted"] = dict.fromkeys(shares["adapted"], 0.3)
    failed = write_folder(
        tmp_path / "failed",
        plan_row(prompts),
        drawn_readings(prompts, shares, num_seeds=16, rng=np.random.default_rng(0)),
    )
    for folder, marks in ((held, 0), (failed, 1)):
        write_report(folder)
        assert (folder / "report.html").read_text().count('class="answer failed"') == marks
        assert ("**FAILED**" in (folder / "report.md").read_text()) == bool(marks)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "not run here: python evaluate/selftest.py"),
        ({"version": evenhand.__version__, "passed": True, "full": False, "date": "2026-01-02"}, "fast): passed"),
        (
            {"version": "0.0.0", "passed": True, "full": True, "date": "2026-01-02"},
            "of evenhand 0.0.0, not of this version",
        ),
        ({"version": evenhand.__version__, "passed": False, "failed": ["aa"], "full": True}, "FAILED: aa"),
        ({"version": evenhand.__version__, "passed": False, "full": True}, "FAILED"),
    ],
)
def test_the_footer_says_what_the_selftest_of_this_installation_found(
    content: dict[str, Any] | None, sentence: str
) -> None:
    assert sentence in selftest_sentence(content)


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(reported: Path, tmp_path: Path) -> None:
    names = ("results.json", "report.html", "report.md", "card_snippet.yaml", "before_after.png")
    moved = Path(shutil.copytree(reported, tmp_path / "elsewhere"))
    write_report(moved)
    assert [name for name in names if (moved / name).read_bytes() != (reported / name).read_bytes()] == []


def test_a_report_of_thousands_of_rows_stays_small_and_counts_what_it_leaves_out(reported: Path) -> None:
    """The concepts of a real result a hundredfold, as the analysis of 1,800 prompts would give them."""
    from evenhand.evaluation.plan import load_plan

    raw = results_of(reported)
    rows = [row for row in raw["estimates"] if row["concept"] is not None]
    raw["estimates"] += [{**row, "concept": f"{row['concept']} {copy}"} for copy in range(150) for row in rows]
    page = page_content(load_plan(reported), raw, reported)
    html_text, markdown = render(page)
    assert len(html_text.encode()) < MOST_HTML_BYTES
    assert len(markdown.encode()) < MOST_HTML_BYTES / 5
    names = {
        (row["name"], row["suite"], row["attribute"], row["concept"]) for row in raw["estimates"] if row["concept"]
    }
    assert page["concepts"].num_rows == MAX_CONCEPT_ROWS
    assert page["concepts"].num_left_out == len(names) - MAX_CONCEPT_ROWS
    assert f"{page['concepts'].num_left_out} more of {len(names)} rows stand in results.json only" in html_text
    plot = page["plots"][0]
    assert f"Drawn are {len(plot.rows)} of {plot.num_concepts} concepts" in html_text


def test_no_row_is_left_out_of_a_small_report(reported: Path) -> None:
    assert set(results_of(reported)["left_out"]["rows"].values()) == {0}
    for name in ("report.html", "report.md"):
        assert "rows stand in results.json" not in (reported / name).read_text()


def test_lists_of_readers_that_are_cut_say_so_and_where_the_rest_is(reported: Path) -> None:
    """Counted in the table itself: rows of the page and rows named as left out are all rows of the file."""
    from evenhand.evaluation.plan import load_plan

    raw = results_of(reported)
    for key in ("agreement", "second_readings", "permutation"):
        raw[key] = [*raw[key]] * 200
    totals = {key: len(raw[key]) for key in ("agreement", "second_readings", "permutation")}
    page = page_content(load_plan(reported), raw, reported)
    html_text, markdown = render(page)
    for key, total in totals.items():
        gone = page["cuts"][key].num_left_out
        assert 0 < gone < total
        assert left_out(page)["rows"][key] == gone
        for text in (html_text, markdown):
            assert f"{gone} more of {total} rows stand in results.json only, under {key}." in text
    readers = html_text[html_text.index("<th>readers</th>") :]
    shown = readers[: readers.index("</table>")].count('<td data-l="readers">')
    assert shown + page["cuts"]["agreement"].num_left_out == totals["agreement"]


def test_results_are_not_made_again_under_another_plan(folder: Path) -> None:
    write_report(folder)
    write_report(folder)  # control: the same plan
    plan = json.loads((folder / "plan.json").read_text())
    plan["margins"]["target"] = 0.5
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="a plan is not changed after its results were seen"):
        write_report(folder)


def test_every_estimate_of_the_results_stands_in_the_page(reported: Path) -> None:
    """Whatever its arm: of an arm, of the shift, of both arms together, of another scale of the adapter."""
    from evenhand.evaluation.plan import load_plan

    plan, raw = load_plan(reported), results_of(reported)
    page = page_content(plan, raw, reported)
    tables = [page[name] for name in ("metrics", "concepts", "missing", "groups")]
    cells = [text for table in tables for block in table.blocks for row in block.rows for text in row.cells]
    joints = [text for panel in page["joints"] for _, row in panel.rows for each in row for text in each.cells]
    dose = [point.cell for panel in page["panels"] for point in panel.points if "@" in point.arm]
    found = len([text for text in (*cells, *joints, *dose) if text not in ("–", "not estimable")])
    # Of a combination's share the grid has both arms; its change is a difference of the two and stays in the JSON.
    grids = {"suite": {panel.suite for panel in page["joints"]}, "attribute": set(plan.joint_attributes)}
    # Of an attribute with two values the dose curve draws the first, and the root in the place of its square.
    not_drawn = ("share:man", "distance_sq")

    def has_a_place(row: dict[str, Any]) -> bool:
        if row["concept"] is None and row["name"].startswith("share:") and row["attribute"] in grids["attribute"]:
            return row["suite"] in grids["suite"] and row["arm"] != "shift"
        return "@" not in row["arm"] or row["name"] not in not_drawn

    wanted = [row for row in raw["estimates"] if has_a_place(row) and (row["value"], row["low"]) != (None, None)]
    assert found == len(wanted)
