"""A case of the benchmark as a picture: a panel for each suite, a line for each competitor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.method_benchmark.names import BASE
from evenhand.method_benchmark.standings import Standing, Table
from evenhand.method_benchmark.summaries import held_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, RED = "#1b4965", "#9aa5ab", "#c1121f"
ROW_INCHES, HEAD_INCHES, PANEL_INCHES, NAME_INCHES = 0.3, 1.1, 2.5, 1.2
MOST_BESIDE = 2  # panels in a row: on a narrow page more would be too small to read
DPI = 150


def draw(one: Standing, path: Path) -> None:
    """Save the picture as PNG: distances with their intervals, red where a guard failed, filled where tied."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(one.tables), MOST_BESIDE)
    down = -(-len(one.tables) // across)
    names = _names(one)
    size = (NAME_INCHES + PANEL_INCHES * across, (HEAD_INCHES + ROW_INCHES * len(names)) * down)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    for place, axis in enumerate(grid.flat):
        if place < len(one.tables):
            _panel(axis, one, one.tables[place], names, named=place % across == 0)
        else:
            axis.set_axis_off()
    figure.suptitle(
        f"{one.case}: distance to the target; filled: the nearest, or tied with it; red: a guard failed",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=DPI)


def _names(one: Standing) -> list[str]:
    """The competitors in the headline's order."""
    first = one.main_table or one.tables[0]
    return list(dict.fromkeys(entry.competitor for table in (first, *one.tables) for entry in table.entries))


def _panel(axis: Axes, one: Standing, table: Table, names: list[str], *, named: bool) -> None:
    for entry in table.entries:
        at = names.index(entry.competitor)
        color = GREY if entry.competitor == BASE else INK if held_all(one.summary, entry.competitor) else RED
        if entry.rms.low is not None and entry.rms.high is not None:
            axis.plot(
                [entry.rms.low, entry.rms.high], [at, at], "-", color=color, linewidth=2, alpha=0.4, clip_on=False
            )
        if entry.rms.value is not None:
            face = color if entry.tied else "white"
            axis.plot(entry.rms.value, at, "o", color=color, markerfacecolor=face, markersize=5, clip_on=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_yticks(range(len(names)), names if named else [""] * len(names))
    axis.tick_params(labelsize=8, length=0)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_title(f"{table.attribute}, {table.suite}{'*' if table.primary else ''}", fontsize=8, loc="left")
