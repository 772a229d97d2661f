"""The benchmark as a page, as JSON and as pictures, one for each case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenhand.files import atomic_path, write_json_atomic, write_text_atomic
from evenhand.method_benchmark.bars import MET, MET_UNSURE, MISSED
from evenhand.method_benchmark.measured import QUALITY, Cost
from evenhand.method_benchmark.names import ADAPTER_ARM, BASE, NOT_DONE
from evenhand.method_benchmark.plan import Benchmark
from evenhand.method_benchmark.plot import draw
from evenhand.method_benchmark.standings import Entry, Standing, Table, table_json
from evenhand.method_benchmark.summaries import GuardSummary, held_all, summary_json
from evenhand.stats.intervals import Interval

MARKDOWN_FILE, JSON_FILE = "benchmark.md", "benchmark.json"
NONE = "–"
MEGABYTE = 1_000_000
TIED_MARK = " ≈"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a page tells: a standing for each case, and why each run that has none is not in it, by its label.

    ``commits`` counts the runs that were made with each commit of evenhand.
    """

    benchmark: Benchmark
    standings: tuple[Standing, ...]
    missing: Mapping[str, str]
    commits: Mapping[str | None, int]
    command: str


def write_page(content: Content, place: Path) -> None:
    """Write the page to ``place``, and beside it the JSON and the pictures, whose names begin with its own."""
    benchmark = content.benchmark
    head = {
        "version": 2,
        "command": content.command,
        "level": benchmark.level,
        "ours": benchmark.ours,
        "ours_in": dict(benchmark.ours_in or {}),
        "budget_seconds": benchmark.budget_seconds,
        "missing": content.missing,
        "commits": {str(commit): count for commit, count in content.commits.items()},
        "without": list(benchmark.without),
    }
    cases = [
        {
            "case": one.case,
            "num_trainings": one.num_trainings,
            "tables": [table_json(table) for table in one.tables],
            **summary_json(one.summary),
            "notes": one.notes,
        }
        for one in content.standings
    ]
    write_json_atomic(place.with_suffix(".json"), {**head, "cases": cases})
    for one in content.standings:
        if one.tables:
            with atomic_path(place.with_name(plot_name(place, one.case))) as temporary:
                draw(one, temporary)
    write_text_atomic(place, markdown(content, place))


def plot_name(place: Path, case: str) -> str:
    """The file of a case's picture, beside the page."""
    return f"{place.stem}_{case}.png"


def markdown(content: Content, place: Path) -> str:
    """The page. Every number in it is in the JSON beside it."""
    benchmark = content.benchmark
    parts = [
        "# Methods and baselines compared",
        f"Made by `{content.command}`, which goes on where it was stopped. Each method was trained with several seeds, "
        "each on the curated set of its seed; *n* is how many of these trainings are in a row, and baselines and the "
        "base have none. All were measured on the same prompts and the same noise.",
        "A figure is the distance to the target, the root of the unbiased mean of squares over prompts: noise that few "
        "images of a prompt make is taken out, and a generator exactly at its target scores 0. In brackets the "
        f"{benchmark.level:.0%} interval over trainings and prompts; with *n* = 1 it is over prompts alone, and what "
        "another seed would give is not in it. **Bold** is the nearest, and ≈ marks what is tied with it: the interval "
        "of their difference, prompt by prompt, holds zero. There, who was trained once is taken to vary as the other "
        "does. The nearest was chosen by these very figures, and many intervals are shown: none is corrected for that.",
    ]
    if content.missing:
        parts.append(
            f"**{len(content.missing)} of {len(benchmark.runs)} runs are missing**, and named with their case."
        )
    if any(content.commits):
        made = [f"{_short(commit)} ({count})" for commit, count in content.commits.items()]
        parts.append(f"Trained with evenhand at {', '.join(made)}; in brackets the runs.")
    if benchmark.without:
        parts.append(f"No part of it, by choice: {', '.join(benchmark.without)}.")
    if benchmark.ours is not None:
        parts += ["## Where our method stands", _overview(content)]
    for one in content.standings:
        parts += _case(content, one, place)
    return "\n\n".join(part for part in parts if part) + "\n"


def _short(commit: str | None) -> str:
    """The first twelve digits of a commit, with what is said behind them."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", commit) if commit else "an installed package"


def _overview(content: Content) -> str:
    """A line for each case: how near our method is, who is as near, its guards, and the bars that it meets."""
    heads = ["case", "method", "n", "headline", "distance", "stands", "guards", "bars met"]
    rows = []
    for one in content.standings:
        table, ours = one.main_table, content.benchmark.ours_of(one.case)
        assert ours is not None, "the page of a benchmark without a method of its own has no overview"
        entry = None if table is None else next((e for e in table.entries if e.competitor == ours), None)
        if table is None or entry is None:
            rows.append([one.case, ours, "0", NONE, NONE, "not measured", NONE, NONE])
            continue
        bars = one.summary.bars.get(ours, {}).values()
        met = sum(bar.verdict in (MET, MET_UNSURE) for bar in bars)
        rows.append(
            [
                one.case,
                ours,
                str(entry.num_trainings),
                f"{table.attribute}, {table.suite}",
                interval_text(entry.rms),
                _stands(one, table, entry),
                "all held" if held_all(one.summary, ours) else "some failed",
                f"{met} of {len(bars)}" if bars else NONE,
            ]
        )
    return _markdown_table(heads, rows)


def _stands(one: Standing, table: Table, entry: Entry) -> str:
    """Where a competitor is among all, and among those that held every guard."""
    among = []
    nearest = table.entries[0].competitor
    for name, tied, who in ((nearest, entry.tied, "all"), (table.nearest_held, entry.tied_held, "guards held")):
        if name is not None:
            rivals = [other for other in table.entries if other is not entry]
            if who == "all":
                others = [other.competitor for other in rivals if other.tied]
            else:
                others = [o.competitor for o in rivals if o.tied_held and held_all(one.summary, o.competitor)]
            lead = "ahead" if not others else f"tied with {', '.join(others)}"
            place = lead if name == entry.competitor else f"tied with {name}" if tied else f"behind {name}"
            among.append(f"{who}: {place}")
    return "; ".join(among)


def _case(content: Content, one: Standing, place: Path) -> list[str]:
    gaps = _missing(content, f"{one.case}, ")
    if not one.tables:
        return [f"## {one.case}", "Nothing was measured.", *gaps]
    return [
        f"## {one.case}",
        headline(one),
        *gaps,
        _distances(one),
        *_furthest(one),
        "\n".join(f"- {note}" for note in one.notes),
        f"![{one.case}: the distances as a picture]({plot_name(place, one.case)})",
        *_bars(content, one),
        *_quality(one),
        _guards(one),
        _costs(one, content.benchmark.budget_seconds),
    ]


def _missing(content: Content, case: str) -> list[str]:
    """The runs of a case that are not in the page: those that were not run in one line, each other with its reason."""
    missing = {label: why for label, why in content.missing.items() if label.startswith(case)}
    not_run = [label.removeprefix(case) for label, why in missing.items() if why.startswith(NOT_DONE)]
    lines = [f"- {label}: {why}" for label, why in missing.items() if not why.startswith(NOT_DONE)]
    if not_run:
        lines.append(f"- {NOT_DONE}: {'; '.join(not_run)}")
    return ["**Missing here:**", "\n".join(lines)] if lines else []


def headline(one: Standing) -> str:
    """Who is nearest on the headline's suite, among all and among those whose guards all held."""
    table = one.main_table
    if table is None:
        return "Nobody has a distance on the headline's suite."
    sentences = [
        f"Nearest to the target, {table.attribute} on {table.suite} ({_prompts(table)}): "
        f"{_leaders(table.entries[0].competitor, [entry.competitor for entry in table.entries[1:] if entry.tied])}."
    ]
    held = table.nearest_held
    if held is None:
        sentences.append("No competitor held every guard in every training.")
    elif held == table.entries[0].competitor:
        sentences.append("It held every guard in every training.")
    else:
        tied = [
            e.competitor
            for e in table.entries
            if e.tied_held and e.competitor != held and held_all(one.summary, e.competitor)
        ]
        sentences.append(f"Of those that held every guard in every training, the nearest: {_leaders(held, tied)}.")
    return " ".join(sentences)


def _prompts(table: Table) -> str:
    return (
        f"{table.n_prompts} prompts"
        if table.n_prompts == table.num_asked
        else (f"{table.n_prompts} of {table.num_asked} prompts, the others unread by some")
    )


def _leaders(name: str, tied: Sequence[str]) -> str:
    return name + (f", tied with {', '.join(tied)}" if tied else ", ahead of all others")


def _names(one: Standing) -> list[str]:
    """The competitors in the headline's order; those without a distance there last."""
    table = one.main_table or one.tables[0]
    return list(dict.fromkeys([*(entry.competitor for entry in table.entries), *one.num_trainings]))


def _n(one: Standing, name: str) -> str:
    return str(one.num_trainings[name]) if one.num_trainings.get(name) else NONE


def _distances(one: Standing) -> str:
    heads = ["", "n", *(f"{t.suite}{'*' if t.primary else ''}: {t.attribute} ({t.n_prompts})" for t in one.tables)]
    rows = [[name, _n(one, name), *(_cell(table, name) for table in one.tables)] for name in _names(one)]
    notes = ["\\* the headline's suite; in brackets the prompts"]
    notes += [
        f"{t.suite}: {t.num_asked - t.n_prompts} prompts are unread by some and left out for all"
        for t in one.tables
        if t.n_prompts < t.num_asked
    ]
    notes += [f"no image of {', '.join(t.absent)} was read on {t.suite}: {t.attribute}" for t in one.tables if t.absent]
    return f"{_markdown_table(heads, rows)}\n\n{'; '.join(notes)}"


def _cell(table: Table, name: str) -> str:
    entry = next((entry for entry in table.entries if entry.competitor == name), None)
    if entry is None:
        return NONE
    text = interval_text(entry.rms)
    return f"**{text}**" if entry is table.entries[0] else text + (TIED_MARK if entry.tied else "")


def _furthest(one: Standing) -> list[str]:
    """Where each competitor fails most: the concepts that are furthest from the target."""
    tables = [table for table in one.tables if len({entry.furthest for entry in table.entries}) > 1]
    if not tables:
        return []
    rows = []
    for name in _names(one):
        cells = []
        for table in tables:
            entry = next((entry for entry in table.entries if entry.competitor == name), None)
            told = [] if entry is None else [f"{concept} {distance:.2f}" for concept, distance in entry.furthest]
            cells.append(", ".join(told) or NONE)
        rows.append([name, *cells])
    heads = ["furthest from the target", *(f"{table.suite}: {table.attribute}" for table in tables)]
    return [_markdown_table(heads, rows)]


def interval_text(interval: Interval, digits: int = 3) -> str:
    """``0.210 (0.150 to 0.270)``."""
    if interval.value is None:
        return NONE
    value = f"{interval.value:.{digits}f}"
    if interval.low is None or interval.high is None:
        return value
    return f"{value} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def _bars(content: Content, one: Standing) -> list[str]:
    """What was asked for, and what each competitor reached of it."""
    if not one.summary.bars:
        return []
    names = [name for name in _names(one) if name in one.summary.bars]
    rows = []
    for key, bar in content.benchmark.bars.items():
        if bar.case == one.case:
            found = [one.summary.bars[name].get(key) for name in names]
            cells = [NONE if each is None else f"{interval_text(each.interval)}, {each.verdict}" for each in found]
            rows.append([f"{bar.says} ({bar.suite})", bar.needs, *cells])
    note = (
        f"{MET}: the figure and its whole interval are inside; {MET_UNSURE}: the figure is, its interval is not. Where "
        f"the interval's ends are asked for, it is {MISSED} unless they are inside, known and all."
    )
    return ["### What was asked for", f"{_markdown_table(['', 'asked', *names], rows)}\n\n{note}"]


def _quality(one: Standing) -> list[str]:
    heads = [figure for figure in QUALITY if any(figure.says in found for found in one.summary.quality.values())]
    if not heads:
        return []
    rows = []
    for name in _names(one):
        found = one.summary.quality.get(name, {})
        rows.append([name, *(interval_text(found[h.says]) if h.says in found else NONE for h in heads)])
    note = "On the headline's suite unless said otherwise; a change is the competitor's minus the base's, pair by pair."
    assert all(figure.arm == ADAPTER_ARM or figure.says not in one.summary.quality.get(BASE, {}) for figure in heads)
    return ["### Quality", f"{_markdown_table(['', *(figure.says for figure in heads)], rows)}\n\n{note}"]


def _guards(one: Standing) -> str:
    keys = sorted({(guard.name, guard.suite) for guards in one.summary.guards.values() for guard in guards})
    names = [name for name in _names(one) if name in one.summary.guards]
    rows = [["all held", *("yes" if held_all(one.summary, name) else "no" for name in names)]]
    found = {name: {(guard.name, guard.suite): guard for guard in one.summary.guards[name]} for name in names}
    for key in keys:
        label = key[0] if key[0] == key[1] else f"{key[0]} ({key[1]})"
        rows.append([label, *(_guard_cell(found[name][key]) if key in found[name] else NONE for name in names)])
    note = (
        "The mean change over trainings and its interval, the margin after the stroke, in how many trainings the guard "
        "failed, and † where harm beyond the margin is excluded by two one-sided tests in all of them."
    )
    return f"### Guards\n\n{_markdown_table(['', *names], rows)}\n\n{note}"


def _guard_cell(guard: GuardSummary) -> str:
    failed = guard.num_runs - guard.num_passed
    told = f" (failed {failed} of {guard.num_runs})" if failed else ""
    sure = " †" if guard.num_harmless == guard.num_runs else ""
    return f"{interval_text(guard.change)} / {guard.margin:.3g}{told}{sure}"


def _costs(one: Standing, budget_seconds: float) -> str:
    heads = ["", "seconds of a training", "its curated set", "processes", "peak memory", "adapter"]
    rows = [[name, *_cost_cells(costs, budget_seconds)] for name, costs in one.summary.costs.items() if costs]
    note = (
        "Wall clock, loading included; ≥ where a session was killed. Images are encoded once for all methods of a "
        "set. Memory is the main process's."
    )
    table = f"{_markdown_table(heads, rows)}\n\n{note}" if rows else "Nothing was trained."
    return f"### Cost\n\n{table}"


def _cost_cells(costs: Sequence[Cost], budget_seconds: float) -> list[str]:
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    over = sum(second > budget_seconds for second in seconds)
    sign = "≥ " if any(cost.at_least for cost in costs) else ""
    took = f"{sign}{sum(seconds) / len(seconds):,.0f}" if seconds else NONE
    note = f" ({over} of {len(seconds)} over the budget of {budget_seconds:,.0f})" if over else ""
    built = [cost.set_seconds for cost in costs if cost.set_seconds is not None]
    memory = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    return [
        took + note,
        f"{sum(built) / len(built):,.0f}" if built else NONE,
        " ".join(sorted({str(cost.num_processes) for cost in costs})),
        f"{max(memory) / MEGABYTE:,.0f} MB" if memory else NONE,
        f"{max(cost.adapter_bytes for cost in costs) / MEGABYTE:.2f} MB",
    ]


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
