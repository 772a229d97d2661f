"""The table that a sweep ends in: table.md to read, table.json to compute with, table.png to look at."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

from evenhand.compose import SWEEP_FILE
from evenhand.files import atomic_path, write_json_atomic, write_text_atomic
from evenhand.sweeps.plot import draw
from evenhand.sweeps.rows import Row, headings_of, read_rows, unfinished, value_text

log = logging.getLogger(__name__)

MARKDOWN_FILE, JSON_FILE, PLOT_FILE = "table.md", "table.json", "table.png"
MEGABYTE = 1_000_000
NONE = "–"
MOST_CHARACTERS = 160  # of an error, in a cell


def write_tables(folder: Path) -> str | None:
    """Write the three files of a sweep's folder; gives a line that names the jobs of this sweep that did not finish."""
    if not read_rows(folder):
        log.warning("no table: the jobs' folders are not in %s; set sweep_folder in place of run_folder", folder)
        return None
    rows = write_table(folder)
    log.info("the table of %d runs: %s", len(rows), folder / MARKDOWN_FILE)
    bad = unfinished(folder, rows) if (folder / SWEEP_FILE).is_file() else []
    if not bad:
        return None
    named = "; ".join(f"{row.name} {row.status} ({_reason(row.error)})" for row in bad)
    return f"{len(bad)} of {len(rows)} runs in {folder} did not finish: {named}. The same command runs these alone"


def write_table(folder: Path) -> list[Row]:
    """Write the three files from the run folders in ``folder``; ValueError where there are none."""
    rows = read_rows(folder)
    if not rows:
        raise ValueError(f"{folder} holds no training runs (runs=<the folder with the run folders in it>)")
    write_json_atomic(folder / JSON_FILE, {"version": 1, "runs": rows})
    write_text_atomic(folder / MARKDOWN_FILE, markdown(folder.name, rows))
    with atomic_path(folder / PLOT_FILE) as temporary:
        draw(folder.name, rows, temporary)
    return rows


def markdown(title: str, rows: Sequence[Row]) -> str:
    """The table as a page."""
    headings = headings_of(rows)
    shown = [*headings.values(), "loss"]
    cells = [[value_text(row.settings.get(key, "")) for key in headings] + [_number(row.loss)] for row in rows]
    optional = {
        "validation": ([_number(row.validation) for row in rows], any(row.validation is not None for row in rows)),
        "distance² to target": ([_shift(row) for row in rows], any(row.shift is not None for row in rows)),
        "verdict": ([_verdict(row) for row in rows], any(row.shift is not None for row in rows)),
        "guards": ([_guards(row) for row in rows], any(row.shift is not None for row in rows)),
    }
    for heading, (values, there) in optional.items():
        if there:
            shown.append(heading)
            cells = [[*line, value] for line, value in zip(cells, values, strict=True)]
    shown += ["cost", "status", "run"]
    cells = [[*line, _cost(row), _status(row), f"`{row.name}`"] for line, row in zip(cells, rows, strict=True)]
    lines = [shown, ["---"] * len(shown), *cells]
    table = "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
    return f"# {title}\n\n{_summary(rows)}\n\n{table}\n\n![the same as a picture]({PLOT_FILE})\n\n{_notes(rows)}\n"


def _summary(rows: Sequence[Row]) -> str:
    counts = {status: sum(row.status == status for row in rows) for status in dict.fromkeys(row.status for row in rows)}
    return f"{len(rows)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."


def _notes(rows: Sequence[Row]) -> str:
    notes = [
        "Columns before the loss are what differs between the runs. The loss is the mean over the last logged steps of "
        "training, on noise that no other run with another seed has seen: small differences mean nothing.",
    ]
    if any(row.shift is not None for row in rows):
        shift = next(row.shift for row in rows if row.shift is not None)
        notes.append(
            f"Distance² is the squared distance of {shift.attribute} to its target on the {shift.suite} prompts, from "
            f"the base to the adapted model, and its change with a {shift.level:.0%} interval. The best of many runs "
            "looks better than it is: measure it again with another seed before it is believed."
        )
    return "\n\n".join(notes)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _shift(row: Row) -> str:
    shift = row.shift
    if shift is None or shift.base is None or shift.adapted is None:
        return NONE
    arrow = f"{shift.base:.3f} → {shift.adapted:.3f}"
    if shift.shift is None or shift.low is None or shift.high is None:
        return arrow
    return f"{arrow} ({shift.shift:+.3f}, {shift.low:+.3f} to {shift.high:+.3f}, {shift.n_prompts} prompts)"


def _verdict(row: Row) -> str:
    return NONE if row.shift is None or row.shift.verdict is None else row.shift.verdict


def _guards(row: Row) -> str:
    if row.shift is None:
        return NONE
    if not row.shift.failed_guards:
        return f"all {row.shift.num_guards} held"
    return f"{len(row.shift.failed_guards)} of {row.shift.num_guards} failed: {', '.join(row.shift.failed_guards)}"


def _cost(row: Row) -> str:
    if row.wall_seconds is None or row.num_processes is None:
        return NONE
    memory = "" if row.peak_bytes is None else f", {row.peak_bytes / MEGABYTE:,.0f} MB"
    return f"{row.wall_seconds:,.0f} s × {row.num_processes}{memory}"


def _status(row: Row) -> str:
    return row.status if row.error is None else f"{row.status}: {_reason(row.error)}"


def _reason(error: str | None) -> str:
    """An error's first words: a loss that is no number names every picture of its batch. table.json has them all."""
    return textwrap.shorten(str(error), MOST_CHARACTERS, placeholder=" ...")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
