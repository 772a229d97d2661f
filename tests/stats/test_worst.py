"""The largest of many gaps: coverage by simulation, and the naive interval that fails."""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.distances import gap, worst_floor
from evenhand.stats.intervals import Interval, wilson
from evenhand.stats.worst import worst_gap
from tests.stats.bands import assert_covers, coverage

LEVEL = 0.95


def suite(rng: np.random.Generator, shares: np.ndarray, n: int) -> list[np.ndarray]:
    return [np.eye(shares.shape[1])[rng.choice(shares.shape[1], size=n, p=row)] for row in shares]


@pytest.mark.parametrize("count", [2, 4])
def test_the_largest_true_gap_is_covered(count: int) -> None:
    rng = np.random.default_rng(1)

    def run() -> tuple[Interval, float]:
        shares = rng.dirichlet(np.full(count, 3.0), 15)
        return worst_gap(suite(rng, shares, 16), level=LEVEL).interval, float(gap(shares).max())

    assert_covers(run, 100, conservative=True)


def test_the_interval_of_the_prompt_that_looks_worst_does_not_cover() -> None:
    """Control: forty fair prompts; that prompt's own interval leaves out the truth most of the time."""
    rng = np.random.default_rng(2)
    fair = np.full((40, 2), 0.5)

    def naive() -> tuple[Interval, float]:
        images = suite(rng, fair, 16)
        found = worst_gap(images, level=LEVEL)
        assert found.prompt is not None
        return wilson(int(images[found.prompt][:, 0].sum()), 16, level=LEVEL), 0.5

    assert coverage(naive, 100) < 0.5
    found = worst_gap(suite(rng, fair, 16), level=LEVEL)
    assert found.interval.low == 0
    assert found.interval.value == pytest.approx(worst_floor("gap", [16] * 40, (0.5, 0.5), (0.5, 0.5)), abs=0.3)


def test_the_most_biased_prompt_is_named() -> None:
    rng = np.random.default_rng(3)
    shares = np.full((10, 2), 0.5)
    shares[7] = (0.98, 0.02)
    found = worst_gap([np.zeros((0, 2)), *suite(rng, shares, 64)], level=LEVEL)
    assert found.prompt == 8
    assert found.interval.low is not None
    assert found.interval.low > 0.6


def test_nothing_read_is_not_estimable() -> None:
    found = worst_gap([np.zeros((0, 2))], level=LEVEL)
    assert found.prompt is None
    assert found.interval.value is None
