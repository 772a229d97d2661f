"""A bench in this process with few repetitions, and analyses that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evenhand.analysis.results import Results, analyse
from evenhand.evaluation.plan import Plan
from evenhand.honesty.bench import FAST_RUNS, Bench
from evenhand.records import Estimate, Reading

RUNS = 12
# Where the naive method that a check must catch is less plainly wrong.
MORE_RUNS = {"groups": 60, "differential": 60}


@dataclass(frozen=True, slots=True, kw_only=True)
class FewRuns(Bench):
    num_runs: int = RUNS

    def runs(self, *, full: int = RUNS, fast: int = FAST_RUNS) -> int:
        return min(self.num_runs, fast)


def few(name: str, folder: Path) -> FewRuns:
    """What is enough for a check of that name."""
    return FewRuns(full=False, seed=0, work_folder=folder, num_runs=MORE_RUNS.get(name, RUNS))


Change = Callable[[Results], Results]


def broken(change: Change) -> Callable[..., Results]:
    """The real analysis with its results changed."""

    def analysis(plan: Plan, readings: Sequence[Reading], *rest: Any, **more: Any) -> Results:
        return change(analyse(plan, readings, *rest, **more))

    return analysis


def estimates(names: Sequence[str], change: Callable[[Estimate], Estimate], *, arms: Sequence[str] = ()) -> Change:
    """Change the estimates whose name begins so, in all arms or in some."""

    def changed(estimate: Estimate) -> Estimate:
        chosen = estimate.name.startswith(tuple(names)) and (not arms or estimate.arm in arms)
        return change(estimate) if chosen and estimate.value is not None else estimate

    return lambda results: replace(results, estimates=tuple(changed(estimate) for estimate in results.estimates))


def narrow(estimate: Estimate) -> Estimate:
    """An interval of a quarter of its width: as if four times the spread had been overlooked."""
    if estimate.low is None or estimate.high is None or estimate.value is None:
        return estimate
    return replace(
        estimate,
        low=estimate.value - (estimate.value - estimate.low) / 4,
        high=estimate.value + (estimate.high - estimate.value) / 4,
    )


def moved(by: float) -> Callable[[Estimate], Estimate]:
    def move(estimate: Estimate) -> Estimate:
        assert estimate.value is not None
        ends = (None if end is None else end + by for end in (estimate.low, estimate.high))
        low, high = ends
        return replace(estimate, value=estimate.value + by, low=low, high=high)

    return move


def verdict(word: str, *, arms: Sequence[str] = ("shift",)) -> Change:
    """Every verdict of these arms is that word."""
    return lambda results: replace(
        results,
        verdicts=tuple(replace(each, verdict=word, caps=()) if each.arm in arms else each for each in results.verdicts),
    )


def guards_hold(results: Results) -> Results:
    return replace(results, guards=tuple(replace(guard, passed=True) for guard in results.guards))
