"""What a check of this installation's honesty found: figures, the bands that they must lie in, and what follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.99
PASS, FAIL, SKIPPED = "PASS", "FAIL", "SKIPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number with the band that it must lie in; an open end has no bound. ``note`` says what else to know."""

    label: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the number lies in its band; one that could not be made does not."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A check's figures, or the reason why it was skipped; a check without figures has shown nothing."""

    figures: tuple[Figure, ...] = ()
    skipped: str | None = None

    @property
    def status(self) -> str:
        """PASS, FAIL or SKIPPED."""
        if self.skipped is not None:
            return SKIPPED
        return PASS if self.figures and all(figure.passed for figure in self.figures) else FAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Shares of runs that chance allows."""

    low: float
    high: float


def band(share: float, runs: int, *, figures: int = 1) -> Band:
    """Where a share of ``runs`` lies with 99 % chance when it is truly ``share``; for ``figures`` bands all at once.

    Exact binomial quantiles; several figures of one check share the 1 % (Bonferroni), so that one check has one chance.
    """
    tail = (1 - CONFIDENCE) / (2 * figures)
    return Band(
        low=float(stats.binom.ppf(tail, runs, share)) / runs, high=float(stats.binom.ppf(1 - tail, runs, share)) / runs
    )


def coverage(label: str, hits: Sequence[bool], *, level: float = 0.95, figures: int = 1) -> Figure:
    """How often intervals held the truth. Too often is no error, but it is said."""
    allowed = band(level, len(hits), figures=figures)
    value = sum(hits) / len(hits)
    note = f"{len(hits)} runs" + ("; conservative" if value > allowed.high else "")
    return Figure(label=label, value=value, low=allowed.low, note=note)


def rejections(label: str, found: Sequence[bool], *, alpha: float = 0.05, figures: int = 1) -> Figure:
    """How often a change was found where there is none. Too seldom is no error, but it is said."""
    allowed = band(alpha, len(found), figures=figures)
    value = sum(found) / len(found)
    note = f"{len(found)} runs" + ("; conservative" if value < allowed.low else "")
    return Figure(label=label, value=value, high=allowed.high, note=note)


def naive_coverage(label: str, hits: Sequence[bool], *, level: float = 0.95) -> Figure:
    """The control: a method that is known to be wrong must cover too seldom here, or this check could not fail."""
    value = sum(hits) / len(hits)
    return Figure(label=f"naive: {label}", value=value, high=band(level, len(hits)).low, note="must fail")


def naive_rejections(label: str, found: Sequence[bool], *, alpha: float = 0.05) -> Figure:
    """The control: a method that is known to be wrong must find too many changes here."""
    value = sum(found) / len(found)
    return Figure(label=f"naive: {label}", value=value, low=band(alpha, len(found)).high, note="must fail")


def at_least(label: str, found: Sequence[bool], share: float) -> Figure:
    """How often something that is there was found, against the share of runs in which it must be."""
    value = sum(found) / len(found)
    return Figure(
        label=label, value=value, low=band(share, len(found)).low, note=f"{len(found)} runs; {share:g} wanted"
    )


def mean_of(label: str, values: Sequence[float], *, truth: float, figures: int = 1) -> Figure:
    """A mean over runs and the band around the truth that chance allows (99 %, normal)."""
    n = len(values)
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stats.norm.ppf(1 - (1 - CONFIDENCE) / (2 * figures))) * error
    return Figure(label=label, value=mean, low=truth - half, high=truth + half, note=f"{n} runs")


def exactly(label: str, value: float, expected: float, *, note: str = "") -> Figure:
    """A number that must be equal to the expected one."""
    return Figure(label=label, value=value, low=expected, high=expected, note=note)


def always(label: str, found: Sequence[bool]) -> Figure:
    """Something that must hold in every run."""
    return exactly(label, sum(found) / len(found), 1.0, note=f"{len(found)} runs")


def never(label: str, found: Sequence[bool]) -> Figure:
    """Something that must hold in no run."""
    return exactly(label, sum(found) / len(found), 0.0, note=f"{len(found)} runs")


def true(label: str, held: bool, *, note: str = "") -> Figure:
    """Something that must hold: 1 for yes."""
    return exactly(label, float(held), 1.0, note=note)
