"""What competitors are beside their distances, over their trainings: guards, quality, bars and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.method_benchmark.bars import OF_THE_TABLE, RMS_GAP, Bar, Reached, reached, verdict
from evenhand.method_benchmark.measured import QUALITY, Cost, Measured
from evenhand.method_benchmark.names import ADAPTER_ARM, BASE
from evenhand.records import Guard
from evenhand.stats.intervals import Interval
from evenhand.stats.trainings import over_trainings

HARMLESS = "no harm shown"

Distances = Mapping[tuple[str, str, str], tuple[Interval, int]]  # by suite, attribute, competitor; the number of values


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSummary:
    """A guard of a competitor over its trainings: the mean change, in how many it held, in how many harm is out."""

    name: str
    suite: str
    margin: float
    change: Interval
    num_passed: int
    num_harmless: int
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """By competitor, the base among them where it has a figure: quality by what it says, bars by their names."""

    guards: Mapping[str, tuple[GuardSummary, ...]]
    quality: Mapping[str, Mapping[str, Interval]]
    bars: Mapping[str, Mapping[str, Reached]]
    costs: Mapping[str, tuple[Cost, ...]]


def guards_held(guards: Sequence[Guard]) -> bool:
    """Whether every guard of every training held, of which there must be one."""
    return bool(guards) and all(guard.passed for guard in guards)


def held_all(summary: Summary, competitor: str) -> bool:
    """The same of a competitor; the base is what guards compare with."""
    guards = summary.guards.get(competitor, ())
    return competitor == BASE or (bool(guards) and all(guard.num_passed == guard.num_runs for guard in guards))


def summary_of(
    by_name: Mapping[str, Sequence[Measured]], bars: Mapping[str, Bar], distances: Distances, *, level: float
) -> Summary:
    """The summary of a case's runs by competitor, with what ``distances`` of its tables a bar may ask for."""
    quality = {name: _quality(runs, level=level) for name, runs in by_name.items()}
    reached_by = {
        name: {key: _reached(key, bar, name, runs, distances, level=level) for key, bar in bars.items()}
        for name, runs in by_name.items()
    }
    first = next(iter(by_name.values()), None)
    if first is not None:
        arms = [(figure.says, (figure.says, BASE)) for figure in QUALITY]
        quality[BASE] = {says: first[0].quality[key] for says, key in arms if key in first[0].quality}
        reached_by[BASE] = {
            key: _reached(key, bar, BASE, first[:1], distances, level=level)
            for key, bar in bars.items()
            if bar.figure in OF_THE_TABLE or BASE in first[0].bars.get(key, {})
        }
    return Summary(
        guards={name: _guards(runs, level=level) for name, runs in by_name.items()},
        quality=quality,
        bars=reached_by if bars else {},
        costs={name: tuple(run.cost for run in runs if run.cost is not None) for name, runs in by_name.items()},
    )


def _quality(runs: Sequence[Measured], *, level: float) -> dict[str, Interval]:
    found = {}
    for figure in QUALITY:
        each = [run.quality[figure.says, figure.arm] for run in runs if (figure.says, figure.arm) in run.quality]
        if len(each) == len(runs):
            found[figure.says] = over_trainings(each, level=level)
    return found


def _reached(key: str, bar: Bar, name: str, runs: Sequence[Measured], distances: Distances, *, level: float) -> Reached:
    """What a competitor, or the base of its runs, reached of a bar."""
    if bar.figure not in OF_THE_TABLE:
        arm = BASE if name == BASE else ADAPTER_ARM
        return reached(bar, [run.bars[key][arm] for run in runs], level=level)
    assert bar.attribute is not None
    distance = distances.get((bar.suite, bar.attribute, name))
    if distance is None:
        return reached(bar, [], level=level)
    rms, num_values = distance
    if bar.figure == RMS_GAP and num_values != 2:
        raise ValueError(f"bar {bar.says!r}: rms_gap is of two values, and {bar.attribute} has {num_values}")
    factor = 2**0.5 if bar.figure == RMS_GAP else num_values**0.5 / 2
    ends = [None if end is None else factor * end for end in (rms.value, rms.low, rms.high)]
    found = Interval(ends[0], ends[1], ends[2], f"the distance times {factor:.3f}; {rms.how}")
    return Reached(found, verdict(bar, found), len(runs))


def _guards(runs: Sequence[Measured], *, level: float) -> tuple[GuardSummary, ...]:
    keys = sorted({(guard.name, guard.suite) for run in runs for guard in run.guards})
    found = []
    for name, suite in keys:
        same = [guard for run in runs for guard in run.guards if (guard.name, guard.suite) == (name, suite)]
        changes = [Interval(guard.value, guard.low, guard.high, "as in the reports") for guard in same]
        found.append(
            GuardSummary(
                name=name,
                suite=suite,
                margin=same[0].margin,
                change=over_trainings(changes, level=level),
                num_passed=sum(guard.passed for guard in same),
                num_harmless=sum(guard.evidence == HARMLESS for guard in same),
                num_runs=len(same),
            )
        )
    return tuple(found)


def summary_json(summary: Summary) -> dict[str, Any]:  # Any: JSON
    """A summary as it stands in benchmark.json."""
    return {
        "guards": {
            name: [
                {
                    "name": guard.name,
                    "suite": guard.suite,
                    "margin": guard.margin,
                    "change": guard.change._asdict(),
                    "num_passed": guard.num_passed,
                    "num_harmless": guard.num_harmless,
                    "num_runs": guard.num_runs,
                }
                for guard in guards
            ]
            for name, guards in summary.guards.items()
        },
        "quality": {
            name: {says: interval._asdict() for says, interval in found.items()}
            for name, found in summary.quality.items()
        },
        "bars": {
            name: {key: {**one._asdict(), "interval": one.interval._asdict()} for key, one in found.items()}
            for name, found in summary.bars.items()
        },
        "costs": summary.costs,
    }
