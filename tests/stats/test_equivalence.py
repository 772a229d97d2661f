"""Expected values from statsmodels; error rates by simulation with a true effect exactly at the margin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_paired

from evenhand.stats.equivalence import (
    BEYOND,
    NOT_SETTLED,
    WITHIN,
    tost_of_interval,
    tost_paired,
    tost_paired_shares,
    tost_unpaired,
)
from evenhand.stats.intervals import Interval, paired_difference
from tests.stats.bands import band

ALPHA = 0.05


def test_paired_p_value_and_interval_equal_statsmodels() -> None:
    rng = np.random.default_rng(1)
    one, zero = rng.normal(0.02, 0.1, 30), rng.normal(0, 0.1, 30)
    found = tost_paired(one - zero, low=-0.05, high=0.08, alpha=ALPHA)
    assert found.p == pytest.approx(ttost_paired(one, zero, -0.05, 0.08)[0])
    low, high = DescrStatsW(one - zero).tconfint_mean(alpha=2 * ALPHA)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_unpaired_p_value_and_interval_equal_statsmodels() -> None:
    rng = np.random.default_rng(2)
    one, zero = rng.normal(0.02, 0.1, 30), rng.normal(0, 0.3, 45)
    means = CompareMeans(DescrStatsW(one), DescrStatsW(zero))
    found = tost_unpaired(one, zero, low=-0.1, high=0.1, alpha=ALPHA)
    assert found.p == pytest.approx(means.ttost_ind(-0.1, 0.1, usevar="unequal")[0])
    assert (found.low, found.high) == pytest.approx(means.tconfint_diff(alpha=2 * ALPHA, usevar="unequal"))


def test_shares_are_judged_by_the_bonett_price_interval() -> None:
    found = tost_paired_shares(9, 2, 100, low=-0.05, high=0.2, alpha=ALPHA)
    interval = paired_difference(9, 2, 100, level=1 - 2 * ALPHA)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    at_edge = tost_paired_shares(9, 2, 100, low=-1, high=float(interval.high or 0), alpha=ALPHA)
    assert at_edge.p == pytest.approx(ALPHA)


@pytest.mark.parametrize("n", [50, 200])
def test_harm_exactly_at_the_margin_is_called_none_at_the_level_only(n: int) -> None:
    rng = np.random.default_rng(3)
    changes = rng.multinomial(n, [0.05, 0.10, 0.85], size=2000)
    shares = [
        tost_paired_shares(int(up), int(down), n, low=-0.05, high=math.inf, alpha=ALPHA).verdict
        for up, down, _ in changes.tolist()
    ]
    means = [tost_paired(rng.normal(-0.05, 0.2, n), low=-0.05, high=math.inf, alpha=ALPHA).verdict for _ in range(1000)]
    assert np.mean(np.array(shares) == WITHIN) <= band(0.06, 2000)[1]
    assert band(0.05, 1000)[0] <= np.mean(np.array(means) == WITHIN) <= band(0.05, 1000)[1]


def test_twenty_images_without_a_change_do_not_show_that_there_is_none() -> None:
    assert tost_paired_shares(0, 0, 20, low=-0.05, high=math.inf, alpha=ALPHA).verdict == NOT_SETTLED
    assert tost_paired_shares(0, 0, 640, low=-0.05, high=math.inf, alpha=ALPHA).verdict == WITHIN
    assert tost_paired_shares(0, 300, 640, low=-0.05, high=math.inf, alpha=ALPHA).verdict == BEYOND


def test_concepts_are_the_unit_when_given() -> None:
    rng = np.random.default_rng(4)
    values = np.repeat(rng.normal(0, 0.1, 8), 5)
    names = [f"c{row // 5}" for row in range(40)]
    alone = tost_paired(values, low=-0.05, high=0.05, alpha=ALPHA)
    together = tost_paired(values, low=-0.05, high=0.05, alpha=ALPHA, clusters=names)
    assert together.high - together.low > 2 * (alone.high - alone.low)  # type: ignore[operator]
    assert "concept" in together.how


def test_the_interval_form_gives_the_three_verdicts() -> None:
    def verdict(low: float | None, high: float | None) -> str:
        return tost_of_interval(Interval(None, low, high, ""), low=-0.1, high=0.1)

    assert verdict(-0.05, 0.09) == WITHIN
    assert verdict(-0.05, 0.11) == NOT_SETTLED
    assert verdict(-0.3, -0.11) == BEYOND
    assert verdict(None, None) == NOT_SETTLED


def test_too_few_are_not_settled_and_wrong_margins_are_refused() -> None:
    for found in (
        tost_paired(np.zeros(0), low=-1, high=1, alpha=ALPHA),
        tost_paired(np.zeros(1), low=-1, high=1, alpha=ALPHA),
        tost_unpaired(np.zeros(1), np.zeros(5), low=-1, high=1, alpha=ALPHA),
        tost_paired_shares(0, 0, 0, low=-1, high=1, alpha=ALPHA),
    ):
        assert found.verdict == NOT_SETTLED
        assert found.p is None
    assert tost_paired(np.zeros(9), low=-0.1, high=0.1, alpha=ALPHA).verdict == WITHIN
    with pytest.raises(ValueError, match="below the upper one, got 0.1 and -0.1"):
        tost_paired(np.zeros(9), low=0.1, high=-0.1, alpha=ALPHA)
