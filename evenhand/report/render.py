"""Results to ``report.html`` (one file, no network) and ``report.md``. Every number in them is in ``results.json``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import evenhand
from evenhand.evaluation.plan import Plan, load_plan
from evenhand.files import atomic_path, write_text_atomic
from evenhand.records import Estimate
from evenhand.report.contact_sheet import SHEET_FILE, contact_sheet
from evenhand.report.estimates import SHIFT
from evenhand.report.pictures import grids, share_plots
from evenhand.report.results import Results, analyse_folder, number, signed, write_results

TEMPLATES_FOLDER = Path(__file__).with_name("templates")
HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"
TITLES = {
    "gap": "gap",
    "gap_reduction": "gap, part that is gone",
    "gap_pooled": "gap, pooled (secondary)",
    "tv": "distance to target (TV)",
    "distance_sq": "squared distance to target, unbiased",
    "rms": "distance to target, unbiased",
    "entropy": "entropy (1 is even)",
    "shown": "shows what the prompt asks for",
    "similarity": "same-seed similarity",
    "similarity_yardstick": "similarity of two base seeds",
}


class Row(NamedTuple):
    """One line of a table of estimates."""

    suite: str
    what: str
    cells: tuple[str, ...]
    floor: str
    counts: str
    how: str


def cell(estimate: Estimate | None) -> str:
    """A value with its interval, as text."""
    if estimate is None:
        return "–"
    if estimate.value is None:
        return "not estimable"
    show = signed if estimate.arm == SHIFT and not estimate.name.startswith("similarity") else number
    if estimate.low is None or estimate.high is None:
        return f"{show(estimate.value)} (no interval)"
    return f"{show(estimate.value)} ({show(estimate.low)} to {show(estimate.high)})"


def table_rows(plan: Plan, results: Results, *, concepts: bool) -> list[Row]:
    """Estimates of whole suites, or of single concepts: one row for each quantity, with both arms and the shift."""
    groups: dict[tuple[str, str, str, str | None], dict[str, Estimate]] = {}
    for estimate in results.estimates:
        if (estimate.concept is not None) == concepts:
            key = (estimate.suite, estimate.attribute, estimate.name, estimate.concept)
            groups.setdefault(key, {})[estimate.arm] = estimate
    rows = []
    for (suite, attribute, name, concept), by_arm in groups.items():
        if all(estimate.value is None for estimate in by_arm.values()) and suite != plan.primary.suite:
            continue
        last = list(by_arm.values())[-1]
        title = TITLES.get(name, name.replace("share:", "share of "))
        what = f"{attribute}: {title}" if concept is None else f"{concept}: {title}"
        floor = by_arm[plan.arms[1]].floor if plan.arms[1] in by_arm else None
        rows.append(
            Row(
                suite=suite,
                what=what,
                cells=tuple(cell(by_arm.get(arm)) for arm in (*plan.arms, SHIFT)),
                floor="" if floor is None else number(floor),
                counts=f"{last.n_prompts} / {last.n_images} / {last.n_unread}",
                how=last.how,
            )
        )
    return rows


def render(plan: Plan, results: Results, folder: Path) -> tuple[str, str]:
    """The report of an evaluation folder as HTML and as Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES_FOLDER)
    content = {
        "plan": plan,
        "results": results,
        "plots": share_plots(plan, results),
        "grids": grids(plan, folder),
        "suite_rows": table_rows(plan, results, concepts=False),
        "concept_rows": table_rows(plan, results, concepts=True),
        "headings": (*plan.arms, SHIFT),
        "number": number,
        "signed": signed,
        "version": evenhand.__version__,
    }
    html = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Markdown is not HTML: its cells are escaped by the filter below.
    plain = Environment(
        loader=loader, autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    plain.filters["cell"] = markdown_cell
    return html.get_template("report.html").render(content), plain.get_template("report.md").render(content)


def markdown_cell(text: str) -> str:
    """Text that can neither end a table cell nor start markup."""
    escaped = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for mark in "|*_`[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped


def write_report(folder: Path) -> Results:
    """Analyse an evaluation folder and write results.json, report.html, report.md and before_after.png into it."""
    results = analyse_folder(folder)
    plan = load_plan(folder)
    html, markdown = render(plan, results, folder)
    sheet = contact_sheet(plan, folder)
    if sheet is not None:
        with atomic_path(folder / SHEET_FILE) as temporary:
            sheet.save(temporary, format="PNG", optimize=True)
    write_results(results, folder)
    write_text_atomic(folder / HTML_FILE, html)
    write_text_atomic(folder / MARKDOWN_FILE, markdown)
    return results
