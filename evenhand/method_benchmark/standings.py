"""Who is nearest to the target in each suite, with intervals over trainings and prompts, and who is as near.

Letters: S trainings, J prompts that every competitor of a suite has a distance of. A competitor that is not trained has
one row, and would have the same again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenhand.method_benchmark.bars import Bar
from evenhand.method_benchmark.measured import Measured
from evenhand.method_benchmark.names import BASE
from evenhand.method_benchmark.summaries import Summary, guards_held, summary_of
from evenhand.stats.intervals import Interval
from evenhand.stats.trainings import Floats, crossed_difference, crossed_interval

# One mean for every kind of question, in the order in which they are shown.
SUITE_ORDER = ("train", "heldout", "offtemplate", "groups", "scene")
NUM_FURTHEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A competitor in a suite: its mean unbiased squared distance, and the root of it.

    ``behind`` is its squared distance minus that of the nearest, prompt by prompt; ``tied`` where its interval holds
    zero. ``behind_held`` and ``tied_held`` are the same against the nearest of those that held every guard; None where
    nobody did. Who is nearest is tied with itself. ``furthest`` are the concepts furthest from the target, each
    with the root of its mean squared distance over trainings and prompts.
    """

    competitor: str
    num_trainings: int
    distance_sq: Interval
    rms: Interval
    behind: Interval
    tied: bool
    behind_held: Interval | None
    tied_held: bool | None
    furthest: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A suite of a case, the nearest to the target first.

    ``num_asked`` is how many prompts were measured: those that somebody has no distance of are left out for all.
    ``nearest_held`` is the nearest of those that held every guard, and ``absent`` who has no distance at all.
    """

    case: str
    suite: str
    attribute: str
    num_values: int
    primary: bool
    n_prompts: int
    num_asked: int
    entries: tuple[Entry, ...]
    nearest_held: str | None
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All of a case; ``num_trainings`` is by competitor, 0 for what is not trained."""

    case: str
    tables: tuple[Table, ...]
    num_trainings: Mapping[str, int]
    summary: Summary
    notes: tuple[str, ...]

    @property
    def main_table(self) -> Table | None:
        """The table of the headline's suite and attribute; None where nobody has it."""
        return next((table for table in self.tables if table.primary), None)


def comparable(runs: Sequence[Measured], *, level: float) -> tuple[list[Measured], dict[str, str]]:
    """The runs of a case that answer one question, and why each of the others does not, by its label.

    The question is that of most runs. Runs at another level than ``level``, and trained ones with another sampling than
    most, are left out as well; so is a prompt's change of text, expectations or seeds.
    """
    if not runs:
        return [], {}
    question = _most([run.question for run in runs])
    sampling = _most([run.sampling for run in runs if run.run.seed is not None] or [run.sampling for run in runs])
    asked: dict[str, str] = {}
    kept, left = [], {}
    for run in runs:
        other = [prompt for prompt, what in run.asked.items() if asked.get(prompt, what) != what]
        if run.question != question:
            reason = "measured with other targets, readers, margins or another base than most"
        elif run.level != level:
            reason = f"measured with intervals at {run.level:g}, not {level:g}"
        elif run.sampling != sampling and run.run.seed is not None:
            reason = f"images were made otherwise than those of most: {run.sampling} instead of {sampling}"
        elif other:
            reason = f"{len(other)} prompts are not those of the others, such as {other[0]}"
        else:
            asked |= run.asked
            kept.append(run)
            continue
        left[run.run.label] = f"{reason}; delete {run.run.folder / 'evaluation'} and measure it again"
    return kept, left


def _most(found: Sequence[Any]) -> Any:  # Any: whatever can be counted
    return Counter(found).most_common(1)[0][0]


def standing(case: str, runs: Sequence[Measured], *, bars: Mapping[str, Bar], level: float) -> Standing:
    """The standing of a case's runs, which are comparable."""
    names = list(dict.fromkeys(run.run.competitor.name for run in runs))
    by_name = {name: [run for run in runs if run.run.competitor.name == name] for name in names}
    held = [name for name in names if guards_held([guard for run in by_name[name] for guard in run.guards])]
    keys = list(dict.fromkeys(key for run in runs for key in run.scores))
    keys.sort(key=lambda key: SUITE_ORDER.index(key[0]) if key[0] in SUITE_ORDER else len(SUITE_ORDER))
    found = [_table(case, key, by_name, held=held, level=level) for key in keys]
    tables = tuple(table for table in found if table is not None)
    distances = {
        (table.suite, table.attribute, entry.competitor): (entry.rms, table.num_values)
        for table in tables
        for entry in table.entries
    }
    own_bars = {name: bar for name, bar in bars.items() if bar.case == case}
    return Standing(
        case=case,
        tables=tables,
        num_trainings={name: sum(run.run.seed is not None for run in by_name[name]) for name in names},
        summary=summary_of(by_name, own_bars, distances, level=level),
        notes=tuple(_notes(by_name)),
    )


def _notes(by_name: Mapping[str, Sequence[Measured]]) -> list[str]:
    """What sets a competitor's images apart from the others': its own sampling, with what its own base has there."""
    usual = _usual_sampling(by_name)
    notes = []
    for name, runs in by_name.items():
        made = runs[0].sampling
        if made is None or usual is None or made == usual:
            continue
        scores = runs[0].scores.get(runs[0].primary)
        own = "" if scores is None else f", where the base's own distance is {_rms(scores.base):.3f}"
        notes.append(
            f"{name} was measured with {made.steps} steps and guidance {made.guidance:g} instead of {usual.steps} and "
            f"{usual.guidance:g}{own}; the row of the base is not its base."
        )
    return notes


def _usual_sampling(by_name: Mapping[str, Sequence[Measured]]) -> Any:  # Any: Sampling or None
    every = [run for runs in by_name.values() for run in runs]
    trained = [run.sampling for run in every if run.run.seed is not None]
    return _most(trained or [run.sampling for run in every]) if every else None


def _rms(scores: Mapping[str, float]) -> float:
    root = _root(float(np.mean(list(scores.values()))))
    assert root is not None
    return root


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suite:
    """A suite's squared distances by competitor, the base among them, on the prompts that all have.

    ``noise`` is the sampling variance of each one's mean, ``trained`` says who would differ if it were trained again.
    """

    concepts: tuple[str, ...]
    values_SJ: Mapping[str, Floats]
    noise: Mapping[str, float]
    trained: Mapping[str, bool]
    level: float

    @property
    def order(self) -> list[str]:
        """The competitors, the nearest to the target first."""
        return sorted(self.values_SJ, key=lambda name: float(self.values_SJ[name].mean()))

    def behind(self, name: str, other: str) -> Interval:
        """A competitor's squared distance minus another's."""
        if name == other:
            return Interval(0.0, None, None, "itself")
        return crossed_difference(
            self.values_SJ[name],
            self.values_SJ[other],
            self.concepts,
            trained=(self.trained[name], self.trained[other]),
            sampling_variance=self.noise[name] + self.noise[other],
            level=self.level,
        )

    def entry(self, name: str, nearest_held: str | None) -> Entry:
        """A competitor's row."""
        num_prompts, nearest = len(self.concepts), self.order[0]
        of_best = self.behind(name, nearest)
        of_held = None if nearest_held is None else self.behind(name, nearest_held)
        distance = crossed_interval(
            self.values_SJ[name], self.concepts, sampling_variance=self.noise[name], level=self.level
        )
        roots = (_root(distance.value), _root(distance.low), _root(distance.high))
        return Entry(
            competitor=name,
            num_trainings=len(self.values_SJ[name]) if self.trained[name] else 0,
            distance_sq=distance,
            rms=Interval(*roots, f"root of the squared one; {distance.how}"),
            behind=of_best,
            tied=name == nearest or _is_tied(of_best, num_prompts),
            behind_held=of_held,
            tied_held=None if of_held is None else name == nearest_held or _is_tied(of_held, num_prompts),
            furthest=self.furthest(name),
        )

    def furthest(self, name: str) -> tuple[tuple[str, float], ...]:
        """The concepts that are furthest from the target, the furthest first; those exactly at it are left out."""
        means_J = self.values_SJ[name].mean(axis=0)
        by_concept = {
            concept: float(np.mean([mean for mean, own in zip(means_J, self.concepts, strict=True) if own == concept]))
            for concept in dict.fromkeys(self.concepts)
        }
        order = sorted(by_concept, key=lambda concept: -by_concept[concept])[:NUM_FURTHEST]
        return tuple((concept, by_concept[concept] ** 0.5) for concept in order if by_concept[concept] > 0)


def _table(
    case: str,
    key: tuple[str, str],
    by_name: Mapping[str, Sequence[Measured]],
    *,
    held: Sequence[str],
    level: float,
) -> Table | None:
    present = {name: runs for name, runs in by_name.items() if all(key in run.scores for run in runs)}
    everyone = [run for runs in present.values() for run in runs]
    if not everyone:
        return None
    usual = _usual_sampling(by_name)
    first = next((run for run in everyone if run.sampling == usual), everyone[0])
    own = first.scores[key]
    prompts = [prompt for prompt in own.adapted if all(prompt in run.scores[key].adapted for run in everyone)]
    if not prompts:
        return None
    scores = {name: [run.scores[key] for run in runs] for name, runs in present.items()}
    suite = _Suite(
        concepts=tuple(own.concepts[prompt] for prompt in prompts),
        values_SJ={name: _matrix([one.adapted for one in several], prompts) for name, several in scores.items()}
        | {BASE: _matrix([own.base], prompts)},
        noise={name: _sampling([one.adapted_noise for one in several], prompts) for name, several in scores.items()}
        | {BASE: _sampling([own.base_noise], prompts)},
        trained={name: runs[0].run.seed is not None for name, runs in present.items()} | {BASE: False},
        level=level,
    )
    nearest_held = next((name for name in suite.order if name in held), None)
    return Table(
        case=case,
        suite=key[0],
        attribute=key[1],
        num_values=first.num_values[key[1]],
        primary=key == first.primary,
        n_prompts=len(prompts),
        num_asked=max(len(run.scores[key].adapted) for run in everyone),
        entries=tuple(suite.entry(name, nearest_held) for name in suite.order),
        nearest_held=nearest_held,
        absent=tuple(name for name in by_name if name not in present),
    )


def _matrix(distances: Sequence[Mapping[str, float]], prompts: Sequence[str]) -> Floats:
    return np.array([[one[prompt] for prompt in prompts] for one in distances], dtype=np.float64)


def _sampling(noises: Sequence[Mapping[str, float]], prompts: Sequence[str]) -> float:
    """The variance that sampling images alone gives to the mean over trainings and prompts.

    All trainings are measured from the same noise, so it does not get less with their number.
    """
    return sum(noise[prompt] for noise in noises for prompt in prompts) / (len(noises) * len(prompts) ** 2)


def _is_tied(behind: Interval, num_prompts: int) -> bool:
    """Whether a difference may be none: its interval holds zero. Of one prompt nobody can tell."""
    if behind.low is not None and behind.high is not None:
        return behind.low <= 0 <= behind.high
    return num_prompts == 1 or behind.value == 0


def _root(value: float | None) -> float | None:
    """What is below zero counts as zero: an unbiased square can be."""
    return None if value is None else max(0.0, value) ** 0.5


def table_json(table: Table) -> dict[str, Any]:  # Any: JSON
    """A table as it stands in benchmark.json."""
    return {
        "suite": table.suite,
        "attribute": table.attribute,
        "primary": table.primary,
        "n_prompts": table.n_prompts,
        "num_asked": table.num_asked,
        "nearest_held": table.nearest_held,
        "absent": list(table.absent),
        "entries": [
            {
                "competitor": entry.competitor,
                "num_trainings": entry.num_trainings,
                "distance_sq": entry.distance_sq._asdict(),
                "rms": entry.rms._asdict(),
                "behind": entry.behind._asdict(),
                "tied": entry.tied,
                "behind_held": None if entry.behind_held is None else entry.behind_held._asdict(),
                "tied_held": entry.tied_held,
                "furthest": [list(pair) for pair in entry.furthest],
            }
            for entry in table.entries
        ],
    }
