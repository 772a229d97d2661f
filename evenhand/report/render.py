"""Results to ``report.html`` (one file, no network, no script), ``report.md`` and ``card_snippet.yaml``.

Everything shown is made from the content of ``results.json``, to which a report adds what it chose to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evenhand
from evenhand.analysis.results import RESULTS_FILE, Results, analyse_folder, results_json
from evenhand.analysis.suite_shares import SHIFT
from evenhand.analysis.wording import percent
from evenhand.evaluation.plan import PLAN_FILE, Plan, load_plan, parse_plan, plan_json, plan_sha256
from evenhand.files import atomic_path, read_json, write_json_atomic, write_text_atomic
from evenhand.report.card import CARD_FILE, card_snippet
from evenhand.report.charts import guard_bars, level_text, share_plots
from evenhand.report.contact_sheet import SHEET_FILE, contact_sheet
from evenhand.report.content import Content, records, visible
from evenhand.report.dose_curve import dose_panels
from evenhand.report.figures import NOTHING, cell, interval, number, p_value, quantity_text, signed, title
from evenhand.report.limits import not_shown
from evenhand.report.pictures import ChosenPair, choose_pairs, gallery
from evenhand.report.reproduction import facts, reproduction
from evenhand.report.sections import (
    concept_table,
    glossary,
    group_table,
    joint_panels,
    metric_table,
    missing_table,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES_FOLDER = Path(__file__).with_name("templates")
HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"
# Rows beyond these stand in results.json only, and the report says how many: a page must open on a phone.
MAX_METRIC_ROWS, MAX_CONCEPT_ROWS, MAX_OTHER_ROWS, MAX_MARKDOWN_CONCEPT_ROWS = 1200, 600, 300, 300
MAX_AGREEMENT_ROWS, MAX_SECOND_ROWS = 60, 120
THIRD_COLUMN = "change, or of both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How many rows of a list of ``results.json`` a report shows: the first ones."""

    key: str
    total: int
    shown: int

    @property
    def num_left_out(self) -> int:
        """The rows that stand in the file only."""
        return self.total - self.shown


def report_content(plan: Plan, results: Results, folder: Path) -> dict[str, Any]:  # Any: JSON
    """The content of ``results.json``: the analysis, what made it, what it did not show, and the pairs shown."""
    content: dict[str, Any] = {**results_json(results), "reproduction": reproduction(plan, folder)}  # Any: JSON
    pairs = choose_pairs(plan, folder, plan_digest=results.plan_sha256, reader=results.reader)
    content["pairs_shown"] = visible([asdict(pair) for pair in pairs])
    return {**content, "not_shown": not_shown(plan, Content(content))}


def page_content(
    plan: Plan, raw: Mapping[str, Any], folder: Path
) -> dict[str, Any]:  # Any: JSON, and what is made of it
    """What the templates are filled with: the parts of a report by name, made of what ``results.json`` holds."""
    pairs = gallery(plan, folder, records(ChosenPair, raw["pairs_shown"]))
    shown = visible({**raw, "plan": plan_json(plan)})
    plan, content = parse_plan(shown["plan"], "plan"), Content(shown)
    return {
        "plan": plan,
        "content": content,
        "raw": shown,
        "gallery": pairs,
        "plots": share_plots(plan, content),
        "bars": guard_bars(content),
        "panels": dose_panels(plan, content),
        "metrics": metric_table(content, plan, most=MAX_METRIC_ROWS),
        "concepts": concept_table(content, plan, most=MAX_CONCEPT_ROWS),
        "concepts_markdown": concept_table(content, plan, most=MAX_MARKDOWN_CONCEPT_ROWS),
        "missing": missing_table(content, plan, most=MAX_OTHER_ROWS),
        "groups": group_table(content, plan, most=MAX_OTHER_ROWS),
        "joints": list(joint_panels(content, plan)),
        "glossary": glossary(content),
        "headings": (*content.arms, THIRD_COLUMN),
        "shift": SHIFT,
        "level": level_text(plan.level),
        "version": evenhand.__version__,
        "selftest": selftest_sentence(shown.get("selftest")),
        "cuts": {
            key: Cut(key=key, total=len(rows), shown=min(len(rows), most))
            for key, rows, most in (
                ("agreement", content.agreement, MAX_AGREEMENT_ROWS),
                ("second_readings", content.second_readings, MAX_SECOND_ROWS),
                ("permutation", content.permutation, MAX_SECOND_ROWS),
            )
        },
    }


def left_out(page: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """How much of ``results.json`` the reports do not show, by part; the counts that they print."""
    names = ("metrics", "concepts", "concepts_markdown", "missing", "groups")
    plots = [
        {"suite": plot.suite, "attribute": plot.attribute, "drawn": len(plot.rows), "of": plot.num_concepts}
        for plot in page["plots"]
        if plot.num_left_out
    ]
    rows = {name: page[name].num_left_out for name in names} | {
        name: cut.num_left_out for name, cut in page["cuts"].items()
    }
    pairs = {"unreadable": page["gallery"].num_unreadable, "no_room": page["gallery"].num_left_out}
    return {"rows": rows, "pairs": pairs, "plots": plots}


def render(page: Mapping[str, Any]) -> tuple[str, str]:  # Any: what page_content gives
    """A report as HTML and as Markdown."""
    html = _environment(autoescape=True).get_template("report.html").render(page)
    shorter = {**page, "concepts": page["concepts_markdown"]}
    return html, _environment(autoescape=False).get_template("report.md").render(shorter)


def _environment(*, autoescape: bool) -> Environment:
    """Templates with the report's figures; Markdown is not HTML, so there every text goes through ``cell``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES_FOLDER),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["cell"] = markdown_cell
    made.globals.update(
        number=number,
        signed=signed,
        percent=percent,
        interval=interval,
        p_value=p_value,
        title=title,
        quantity=quantity_text,
        estimate=cell,
        facts=facts,
        nothing=NOTHING,
    )
    return made


def selftest_sentence(selftest: Mapping[str, Any] | None) -> str:  # Any: JSON
    """What this installation's self-test said; that it was not run, where it was not."""
    if not selftest:
        return "Self-test of this installation: not run here: python evaluate/selftest.py"
    form = "full" if selftest.get("full") else "fast"
    stale = selftest.get("version") != evenhand.__version__
    of = f" of evenhand {selftest.get('version')}, not of this version" if stale else " of this installation"
    failed = [str(name) for name in selftest.get("failed") or ()]
    outcome = f"FAILED: {', '.join(failed)}" if failed or not selftest.get("passed") else "passed"
    count = f", {selftest['num_checks']} checks" if selftest.get("num_checks") else ""
    skipped = [str(entry.get("name")) for entry in selftest.get("skipped") or () if isinstance(entry, Mapping)]
    left = f", skipped: {', '.join(skipped)}" if skipped else ""
    return f"Self-test{of} ({selftest.get('date', 'no date')}, {form}{count}{left}): {outcome}"


def markdown_cell(text: object) -> str:
    """Text that can neither end a table cell nor start markup, a link or a formula."""
    escaped = str(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = " ".join(escaped.splitlines())
    for mark in "|*_`[]~$#":
        escaped = escaped.replace(mark, f"\\{mark}")
    # GitHub links whatever looks like an address, unless its dots and colons are not what they seem.
    return escaped.replace("://", "\\://").replace("www.", "www\\.").replace("@", "&#64;")


def refuse_another_plan(folder: Path) -> None:
    """ValueError when the folder's results were made under another plan: one that follows the data proves nothing."""
    path = folder / RESULTS_FILE
    if not path.is_file():
        return
    before, now = read_json(path).get("plan_sha256"), plan_sha256(folder)
    if before != now:
        raise ValueError(
            f"{path} was made under plan {str(before)[:12]}, but {PLAN_FILE} is now {now[:12]}: a plan is not changed "
            "after its results were seen; copy the plan and the readings into a new folder, so that both reports stay"
        )


def write_report(folder: Path) -> Results:
    """Analyse an evaluation folder; write results.json, report.html, report.md, card_snippet.yaml, before_after.png."""
    plan = load_plan(folder)
    refuse_another_plan(folder)
    results = analyse_folder(folder)
    content = report_content(plan, results, folder)
    page = page_content(plan, content, folder)
    content["left_out"] = left_out(page)
    html, markdown = render(page)
    sheet = contact_sheet(plan, folder)
    if sheet is not None:
        with atomic_path(folder / SHEET_FILE) as temporary:
            sheet.save(temporary, format="PNG", optimize=True)
    write_json_atomic(folder / RESULTS_FILE, content)
    write_text_atomic(folder / HTML_FILE, html)
    write_text_atomic(folder / MARKDOWN_FILE, markdown)
    write_text_atomic(folder / CARD_FILE, card_snippet(page["plan"], page["content"]))
    return results
