"""A run's result as a file of its own: fifty kilobytes that stay when its folder, with images and weights, is gone.

Several machines that each run a part of a benchmark can share a folder of them, and a page can be checked by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evenhand.files import read_json, write_json_atomic
from evenhand.method_benchmark.bars import OF_THE_TABLE, Bar, Part
from evenhand.method_benchmark.measured import Cost, Measured, Sampling, Scores
from evenhand.method_benchmark.plan import PLACES, Benchmark, Run
from evenhand.records import Guard
from evenhand.stats.intervals import Interval

VERSION = 1


def kept_file(folder: Path, run: Run) -> Path:
    """Where a run's result is kept: ``market/distill-s0.json``."""
    return folder / run.case / f"{run.folder.name}.json"


def keep(benchmark: Benchmark, found: Measured) -> None:
    """Write a result to the benchmark's ``results_folder``; nothing where it is None, or where this very one is."""
    if benchmark.results_folder is None:
        return
    place = kept_file(benchmark.results_folder, found.run)
    content = {"version": VERSION, "made_with": _made_with(benchmark, found.run), **_json(found, benchmark.bars)}
    if not place.is_file() or read_json(place) != content:
        write_json_atomic(place, content)


def why_not_kept(benchmark: Benchmark, run: Run) -> str | None:
    """Why there is no kept result of a run with these overrides and bars; None where there is one."""
    if benchmark.results_folder is None:
        return "no results_folder"
    place = kept_file(benchmark.results_folder, run)
    if not place.is_file():
        return f"no {place}"
    content = read_json(place)
    if content.get("version") != VERSION:
        return f"{place} is of version {content.get('version')}, not {VERSION}; delete it and run it again"
    if content["made_with"] != _made_with(benchmark, run):
        return f"{place} was made with other overrides; delete it and run it again"
    lacking = [name for name, bar in _own_bars(benchmark.bars, run).items() if _parts_row(content, bar) is None]
    return f"{place} has nothing of {', '.join(lacking)}; delete it and run it again" if lacking else None


def kept(benchmark: Benchmark, run: Run) -> Measured:
    """The kept result of a run, which ``why_not_kept`` has nothing against."""
    assert benchmark.results_folder is not None
    content = read_json(kept_file(benchmark.results_folder, run))
    rows = {name: _parts_row(content, bar) for name, bar in _own_bars(benchmark.bars, run).items()}
    return Measured(
        run=run,
        primary=(content["primary"][0], content["primary"][1]),
        scores={(row["suite"], row["attribute"]): _scores(row["prompts"]) for row in content["scores"]},
        guards=tuple(Guard(**row) for row in content["guards"]),
        quality={(row["says"], row["arm"]): Interval(**row["interval"]) for row in content["quality"]},
        bars={
            name: {arm: tuple(_part(part) for part in parts) for arm, parts in row.items()}
            for name, row in rows.items()
            if row is not None
        }
        | {name: {} for name, bar in benchmark.bars.items() if bar.case == run.case and bar.figure in OF_THE_TABLE},
        cost=None if content["cost"] is None else Cost(**content["cost"]),
        question=content["question"],
        asked=content["asked"],
        num_values=content["num_values"],
        sampling=None if content["sampling"] is None else Sampling(**content["sampling"]),
        level=content["level"],
        commit=content["commit"],
    )


def _made_with(benchmark: Benchmark, run: Run) -> list[Any]:  # Any: JSON
    """The programs and overrides of a run, without its places on the disk."""
    return [
        [step.program, [text for text in step.overrides if not text.startswith(PLACES)]]
        for step in benchmark.steps(run)
    ]


def _own_bars(bars: Mapping[str, Bar], run: Run) -> dict[str, Bar]:
    """The bars of a run's case that need more than the distances."""
    return {name: bar for name, bar in bars.items() if bar.case == run.case and bar.figure not in OF_THE_TABLE}


def _measures(bar: Bar) -> dict[str, str | None]:
    """What a bar looks at, whatever it asks for."""
    return {
        "figure": bar.figure,
        "suite": bar.suite,
        "attribute": bar.attribute,
        "concept": bar.concept,
        "arm": bar.arm,
    }


def _parts_row(content: Mapping[str, Any], bar: Bar) -> dict[str, Any] | None:  # Any: JSON
    wanted = _measures(bar)
    return next((row["parts"] for row in content["bars"] if row["measures"] == wanted), None)


def _json(found: Measured, bars: Mapping[str, Bar]) -> dict[str, Any]:  # Any: JSON
    return {
        "commit": found.commit,
        "primary": list(found.primary),
        "level": found.level,
        "question": found.question,
        "sampling": None if found.sampling is None else asdict(found.sampling),
        "num_values": dict(found.num_values),
        "cost": None if found.cost is None else asdict(found.cost),
        "guards": [asdict(guard) for guard in found.guards],
        "quality": [
            {"says": says, "arm": arm, "interval": interval._asdict()}
            for (says, arm), interval in found.quality.items()
        ],
        "bars": [
            {
                "measures": _measures(bar),
                "parts": {
                    arm: [{"interval": part.interval._asdict(), "target": part.target} for part in parts]
                    for arm, parts in found.bars[name].items()
                },
            }
            for name, bar in _own_bars(bars, found.run).items()
        ],
        "scores": [
            {"suite": suite, "attribute": attribute, "prompts": _prompts(scores)}
            for (suite, attribute), scores in found.scores.items()
        ],
        "asked": dict(found.asked),
    }


def _prompts(scores: Scores) -> dict[str, dict[str, Any]]:  # Any: a text or a number
    names = ("base", "adapted", "base_noise", "adapted_noise", "concepts")
    return {prompt: {name: getattr(scores, name)[prompt] for name in names} for prompt in scores.adapted}


def _scores(prompts: Mapping[str, Mapping[str, Any]]) -> Scores:  # Any: JSON
    names = ("base", "adapted", "base_noise", "adapted_noise", "concepts")
    return Scores(**{name: {prompt: row[name] for prompt, row in prompts.items()} for name in names})


def _part(row: Mapping[str, Any]) -> Part:  # Any: JSON
    return Part(Interval(**row["interval"]), row["target"])
