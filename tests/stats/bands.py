"""How often intervals hold the truth in seeded simulations, and the band that chance allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scipy import stats

from evenhand.stats.intervals import Interval

BAND_LEVEL = 0.99


def band(nominal: float, runs: int) -> tuple[float, float]:
    """Between which shares a count of ``runs`` with chance ``nominal`` falls in 99 of 100 simulations."""
    low, high = stats.binom.interval(BAND_LEVEL, runs, nominal)
    return low / runs, high / runs


def holds(interval: Interval, truth: float) -> bool:
    assert interval.low is not None, interval.how
    assert interval.high is not None, interval.how
    return bool(interval.low - 1e-12 <= truth <= interval.high + 1e-12)


def coverage(run: Callable[[], tuple[Interval, float]], runs: int) -> float:
    """Share of runs whose interval holds the truth; ``run`` gives both."""
    return sum(holds(*run()) for _ in range(runs)) / runs


def assert_covers(run: Callable[[], tuple[Interval, float]], runs: int, *, conservative: bool = False) -> None:
    """95 % intervals hold the truth in 93 to 97 % of runs, as far as chance lets that be seen.

    ``conservative`` ones may hold it more often.
    """
    assert_held([holds(*run()) for _ in range(runs)], conservative=conservative)


def assert_held(held: Sequence[bool], *, conservative: bool = False) -> None:
    """What :func:`assert_covers` asserts, of the runs that are given."""
    found = sum(held) / len(held)
    low, high = band(0.93, len(held))[0], band(0.97, len(held))[1]
    assert found >= low, f"covers {found}, below {low}"
    assert conservative or found <= high, f"covers {found}, above {high}"
