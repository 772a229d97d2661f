"""The runs of a sweep as a picture: a line for each run, a panel for each thing that was found out about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.sweeps.rows import Row, headings_of, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, RED = "#1b4965", "#9aa5ab", "#c1121f"
ROW_INCHES, HEAD_INCHES, PANEL_INCHES, NAME_INCHES = 0.28, 1.1, 2.6, 3.4
LONG_SECONDS = 300.0
MOST_ROWS = 200  # beyond, a picture is not what one looks at
MOST_LETTERS = 44


def draw(title: str, rows: Sequence[Row], path: Path) -> None:
    """Save the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = list(rows)[:MOST_ROWS]
    panels = _panels(shown)
    size = (NAME_INCHES + PANEL_INCHES * len(panels), HEAD_INCHES + ROW_INCHES * max(len(shown), 2))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, draw_one) in zip(axes, panels, strict=True):
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8, length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.margins(x=0.12)
        for place, row in enumerate(shown):
            draw_one(axis, place, row)
    axes[0].set_yticks(range(len(shown)), _labels(shown))
    for label, row in zip(axes[0].get_yticklabels(), shown, strict=True):
        label.set_color(INK if row.status == "finished" else RED)
    figure.suptitle(f"{title}: {len(rows)} runs, the best first", fontsize=10, x=0.01, ha="left")
    figure.savefig(path, dpi=150)


Panel = tuple[str, Callable[["Axes", int, Row], object]]


def _panels(rows: Sequence[Row]) -> list[Panel]:
    panels: list[Panel] = []
    if any(row.shift is not None for row in rows):
        panels.append(("distance² to target: base ○ → adapted ●\n(× a guard failed)", _distance))
    if any(row.validation is not None for row in rows):
        panels.append(("validation score (higher is better)", lambda axis, at, row: _dot(axis, at, row.validation)))
    panels.append(("loss at the end", lambda axis, at, row: _dot(axis, at, row.loss)))
    unit, seconds = ("minutes", 60.0) if any(_seconds(row) > LONG_SECONDS for row in rows) else ("seconds", 1.0)
    cost = f"{unit} × processes"
    panels.append((cost, lambda axis, at, row: axis.barh(at, _seconds(row) / seconds, height=0.5, color=GREY)))
    return panels


def _labels(rows: Sequence[Row]) -> list[str]:
    """What tells a run from the others, or its name where nothing does."""
    headings = headings_of(rows)
    labels = []
    for row in rows:
        told = ", ".join(f"{name} {value_text(row.settings.get(key, ''))}" for key, name in headings.items())
        label = told or row.name
        label = label if len(label) <= MOST_LETTERS else label[: MOST_LETTERS - 1] + "…"
        labels.append(label if row.status == "finished" else f"{label} ({row.status})")
    return labels


def _dot(axis: Axes, at: int, value: float | None) -> None:
    if value is not None:
        axis.plot(value, at, "o", color=INK, markersize=5)


def _seconds(row: Row) -> float:
    return (row.wall_seconds or 0.0) * (row.num_processes or 1)


def _distance(axis: Axes, at: int, row: Row) -> None:
    shift = row.shift
    if shift is None or shift.base is None or shift.adapted is None:
        return
    axis.plot([shift.base, shift.adapted], [at, at], "-", color=GREY, linewidth=1)
    axis.plot(shift.base, at, "o", color="white", markeredgecolor=INK, markersize=5)
    if shift.low is not None and shift.high is not None:  # the interval of the change, drawn from the base's place
        axis.plot([shift.base + shift.low, shift.base + shift.high], [at, at], "-", color=INK, linewidth=3, alpha=0.35)
    failed = bool(shift.failed_guards)
    axis.plot(shift.adapted, at, "x" if failed else "o", color=RED if failed else INK, markersize=6)
