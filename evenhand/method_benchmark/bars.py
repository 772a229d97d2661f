"""Bars: what a figure of a case must reach, and what a run reached of it. They stand in conf/experiment/benchmark.yaml.

Letters: J prompts, K values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from evenhand.analysis.guards import shown
from evenhand.analysis.suite_shares import SHIFT, suite_shares
from evenhand.analysis.tables import ReadingTable
from evenhand.method_benchmark.names import ADAPTER_ARM, BASE
from evenhand.stats.intervals import Interval
from evenhand.stats.over_prompts import share_interval
from evenhand.stats.trainings import over_trainings

RMS_GAP, TV_BOUND = "rms_gap", "tv_bound"
OF_THE_TABLE = (RMS_GAP, TV_BOUND)
WORST_SHARE, SHOWN, DRIFT = "worst_share", "shown", "drift"
GUARD, FEATURES = "guard:", "features"
MET, MET_UNSURE, MISSED, UNKNOWN = "met", "met, not sure", "missed", "not known"
SHARE = "share:"
TOLERANCE = 1e-9  # of rounding

Arm = Literal["adapted", "shift"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure of a case's suite that must be from ``least`` to ``most``, and its interval from ``low`` to ``high``.

    ``figure`` is an estimate of results.json by its name, for a whole suite or one concept, of the competitor
    (``arm: adapted``) or as a change (``shift``); or one that is made here:

    - ``rms_gap``, the distance of the page's table as the gap of two shares;
    - ``tv_bound``, the most that the mean total variation to the target can be at the distance d of the page's table,
      ``sqrt(K) / 2 * d`` (Cauchy and Schwarz); the plug-in ``tv`` of few images has noise in it, at 16 images and three
      values 0.14 for a generator exactly at its target;
    - ``worst_share``, the largest difference of a share, or of a joint's cell, to its target;
    - ``shown`` of one ``concept``, the share of images that show what their prompts expect;
    - ``drift`` (``shift``), how far pictures are from the base's, by their features, as a part of how far the base's
      are from each other between two seeds; the latter is taken as known;
    - ``guard:<name>`` (``shift``), the change that a guard looks at, in its own unit.

    ``low`` and
    ``high`` at the page's level are stricter than two one-sided tests at ``1 - level``. ValueError for a bar without an
    end, and for figures that need an attribute.
    """

    case: str
    says: str
    figure: str
    suite: str
    attribute: str | None = None
    concept: str | None = None
    arm: Arm = "adapted"
    least: float | None = None
    most: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if all(end is None for end in (self.least, self.most, self.low, self.high)):
            raise ValueError(f"bar {self.says!r} needs least, most, low or high")
        for name, below, above in (("least", self.least, self.most), ("low", self.low, self.high)):
            if below is not None and above is not None and below > above:
                raise ValueError(f"bar {self.says!r}: {name} is {below}, above the {above} that is the most")
        if self.figure in (*OF_THE_TABLE, WORST_SHARE) and self.attribute is None:
            raise ValueError(f"bar {self.says!r}: {self.figure} needs an attribute")
        if self.figure in (*OF_THE_TABLE, WORST_SHARE) and (self.arm != ADAPTER_ARM or self.concept is not None):
            raise ValueError(f"bar {self.says!r}: {self.figure} is of the competitor itself on a whole suite")
        if (self.figure == DRIFT or self.figure.startswith(GUARD)) and (self.arm != SHIFT or self.concept is not None):
            raise ValueError(f"bar {self.says!r}: {self.figure} is a change on a whole suite (arm: shift)")

    @property
    def needs(self) -> str:
        """``0.4 to 0.6``, ``at most 0.1``, with what the interval's ends must be."""
        parts = [_range(self.least, self.most)]
        if self.low is not None or self.high is not None:
            parts.append(f"its interval {_range(self.low, self.high)}")
        return ", ".join(part for part in parts if part)


class Part(NamedTuple):
    """A share or another number of a run with its interval; ``target`` is what a share should be, where that counts."""

    interval: Interval
    target: float | None = None


class Reached(NamedTuple):
    """What a competitor reached of a bar over its trainings, and in a word whether that is enough."""

    interval: Interval
    verdict: str
    num_trainings: int


def parts_of(bar: Bar, table: ReadingTable, results: Mapping[str, Any]) -> dict[str, tuple[Part, ...]]:  # Any: JSON
    """What a run has of a bar's figure, by ``adapted`` and, where it is no change, ``base``; in order of values.

    Nothing for ``rms_gap`` and ``tv_bound``, which the page's tables have.
    """
    if bar.figure in OF_THE_TABLE:
        return {}
    if bar.arm == SHIFT:
        return {ADAPTER_ARM: _parts(bar, table, results, SHIFT)}
    arms = dict(zip((BASE, ADAPTER_ARM), table.plan.arms, strict=True))
    return {name: _parts(bar, table, results, arm) for name, arm in arms.items()}


def reached(bar: Bar, runs: Sequence[Sequence[Part]], *, level: float) -> Reached:
    """What trainings reached together: each part over trainings first, and then the worst of the parts."""
    if not runs or not all(runs):
        return Reached(Interval(None, None, None, "not estimable: there is no such figure"), UNKNOWN, len(runs))
    if len({len(parts) for parts in runs}) > 1:
        raise ValueError(f"bar {bar.says!r}: the trainings have other values of {bar.attribute}")
    together = [
        Part(over_trainings([parts[place].interval for parts in runs], level=level), first.target)
        for place, first in enumerate(runs[0])
    ]
    interval = _worst(together)
    return Reached(interval, verdict(bar, interval), len(runs))


def verdict(bar: Bar, interval: Interval) -> str:
    """Whether a bar is met: by the value and the ends it names; sure where the interval is inside as well."""
    if interval.value is None:
        return UNKNOWN
    if not _within(interval.value, bar.least, bar.most):
        return MISSED
    known = interval.low is not None and interval.high is not None
    if bar.low is not None or bar.high is not None:
        inside = known and _within(interval.low, bar.low, bar.high) and _within(interval.high, bar.low, bar.high)
        return MET if inside else MISSED
    inside = known and _within(interval.low, bar.least, bar.most) and _within(interval.high, bar.least, bar.most)
    return MET if inside else MET_UNSURE


def _parts(bar: Bar, table: ReadingTable, results: Mapping[str, Any], arm: str) -> tuple[Part, ...]:  # Any: JSON
    if bar.figure == WORST_SHARE:
        return _shares(bar, table, results, arm)
    if bar.figure == SHOWN and bar.concept is not None:
        return _shown(bar, table, arm)
    if bar.figure == DRIFT:
        return _drift(bar, table, results)
    if bar.figure.startswith(GUARD):
        wanted = bar.figure.removeprefix(GUARD), bar.suite
        guards = [row for row in results["guards"] if (row["name"], row["suite"]) == wanted]
        return tuple(Part(Interval(row["value"], row["low"], row["high"], "as in the report")) for row in guards)
    return _estimates(bar, results, arm, bar.figure)


def _drift(bar: Bar, table: ReadingTable, results: Mapping[str, Any]) -> tuple[Part, ...]:  # Any: JSON
    """1 minus the similarity to the base's pictures, over 1 minus that of the base's pictures of two seeds."""
    base_arm = table.plan.arms[0]
    found: list[Part] = []
    for name, arm in (("similarity", SHIFT), ("similarity_yardstick", base_arm)):
        found += _estimates(replace(bar, attribute=FEATURES), results, arm, name)
    if len(found) < 2 or any(part.interval.value is None for part in found):
        return ()
    similarity, yardstick = (part.interval for part in found)
    apart = 1 - (yardstick.value or 0.0)
    if apart <= 0:
        return ()
    ends = [None if end is None else (1 - end) / apart for end in (similarity.value, similarity.high, similarity.low)]
    return (Part(Interval(ends[0], ends[1], ends[2], f"over {apart:.3g} between seeds; {similarity.how}")),)


def _estimates(bar: Bar, results: Mapping[str, Any], arm: str, name: str) -> tuple[Part, ...]:  # Any: JSON
    wanted = {"name": name, "suite": bar.suite, "concept": bar.concept, "arm": arm}
    if bar.attribute is not None:
        wanted["attribute"] = bar.attribute
    rows = [row for row in results["estimates"] if all(row[key] == value for key, value in wanted.items())]
    if len(rows) > 1:
        found = ", ".join(row["attribute"] for row in rows)
        raise ValueError(f"bar {bar.says!r}: {name} is there for {found}; name the attribute")
    return tuple(Part(Interval(row["value"], row["low"], row["high"], row["how"])) for row in rows)


def _shares(bar: Bar, table: ReadingTable, results: Mapping[str, Any], arm: str) -> tuple[Part, ...]:  # Any: JSON
    """The share of each value beside its mean target over the suite's prompts; nothing without a target."""
    assert bar.attribute is not None
    if bar.attribute not in table.values:
        raise ValueError(f"bar {bar.says!r}: no attribute {bar.attribute!r}; choose from {', '.join(table.values)}")
    view = suite_shares(table, bar.suite, bar.attribute)
    if not len(view.prompts) or np.isnan(view.targets_JK).any():
        return ()
    targets_K = view.targets_JK.mean(axis=0)
    found = [_estimates(bar, results, arm, SHARE + value) for value in view.values]
    if not all(found):
        return ()
    return tuple(Part(one.interval, float(target)) for (one,), target in zip(found, targets_K, strict=True))


def _shown(bar: Bar, table: ReadingTable, arm: str) -> tuple[Part, ...]:
    prompts = [entry for entry in table.plan.in_suite(bar.suite) if entry.concept == bar.concept and entry.expects]
    found = []
    for prompt in prompts:
        seeds = sorted({seed for name in prompt.expects or {} for seed in table.seeds_of(name, arm, prompt.id)})
        found.append(shown(table, prompt, arm, seeds).shown_N)
    images = [shown_N for shown_N in found if len(shown_N)]
    if not images:
        return ()
    means_J = np.array([shown_N.mean() for shown_N in images])
    names = [str(place) for place in range(len(images))]  # wordings of one concept: each is a prompt by itself
    return (Part(share_interval(means_J, names, n_images=sum(map(len, images)), level=table.plan.level)),)


def _worst(parts: Sequence[Part]) -> Interval:
    """The part that is furthest from its target, as a distance; one without a target is itself.

    Its ends are the largest over the parts: not corrected for there being several.
    """
    if parts[0].target is None:
        return parts[0].interval
    values, lows, highs = [], [], []
    for interval, target in parts:
        if interval.value is None or interval.low is None or interval.high is None or target is None:
            return Interval(None, None, None, interval.how)
        values.append(abs(interval.value - target))
        ends = (abs(interval.low - target), abs(interval.high - target))
        lows.append(0.0 if interval.low <= target <= interval.high else min(ends))
        highs.append(max(ends))
    return Interval(max(values), max(lows), max(highs), f"the worst of {len(parts)} shares; {parts[0].interval.how}")


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    assert value is not None
    return (least is None or value >= least - TOLERANCE) and (most is None or value <= most + TOLERANCE)


def _range(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    return f"at least {least:g}" if least is not None else "" if most is None else f"at most {most:g}"
