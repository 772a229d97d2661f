"""Bands and figures, against numbers worked out otherwise."""

from __future__ import annotations

import math

import pytest

from evenhand.honesty import outcome
from evenhand.honesty.outcome import FAIL, PASS, SKIPPED, Figure, Outcome


def binomial_cdf(count: int, runs: int, share: float) -> float:
    """By adding up the terms."""
    return math.fsum(math.comb(runs, k) * share**k * (1 - share) ** (runs - k) for k in range(count + 1))


@pytest.mark.parametrize(
    ("share", "runs", "low", "high"),
    [(0.05, 1000, 0.033, 0.069), (0.95, 1000, 0.931, 0.967), (0.05, 200, 0.015, 0.095)],
)
def test_bands_are_those_that_a_table_gives(share: float, runs: int, low: float, high: float) -> None:
    found = outcome.band(share, runs)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_band_holds_what_chance_gives_in_99_of_100() -> None:
    found = outcome.band(0.05, 100)
    low, high = round(found.low * 100), round(found.high * 100)
    below = binomial_cdf(low - 1, 100, 0.05) if low else 0.0
    assert below <= 0.005
    assert 1 - binomial_cdf(high, 100, 0.05) <= 0.005
    assert 1 - binomial_cdf(high - 1, 100, 0.05) > 0.005


def test_several_figures_share_the_chance_of_one() -> None:
    one, ten = outcome.band(0.95, 1000), outcome.band(0.95, 1000, figures=10)
    assert ten.low < one.low
    assert ten.low > 0.92


def test_covering_too_often_passes_and_is_said_and_too_seldom_fails() -> None:
    always, seldom = outcome.coverage("x", [True] * 1000), outcome.coverage("x", [True] * 900 + [False] * 100)
    assert always.passed
    assert "conservative" in always.note
    assert not seldom.passed


def test_finding_what_is_not_there_too_often_fails() -> None:
    assert outcome.rejections("x", [True] * 50 + [False] * 950).passed
    assert not outcome.rejections("x", [True] * 80 + [False] * 920).passed


def test_a_control_that_is_not_caught_fails_the_check() -> None:
    """A naive method that does as well as the right one shows that the check could not have failed."""
    assert not outcome.naive_coverage("x", [True] * 95 + [False] * 5).passed
    assert outcome.naive_coverage("x", [True] * 70 + [False] * 30).passed
    assert not outcome.naive_rejections("x", [True] * 5 + [False] * 95).passed


def test_a_mean_is_held_to_its_own_error() -> None:
    values = [0.1, -0.1] * 50
    assert outcome.mean_of("x", values, truth=0.0).passed
    assert not outcome.mean_of("x", [value + 0.05 for value in values], truth=0.0).passed


def test_a_number_that_could_not_be_made_fails() -> None:
    assert not Figure(label="x", value=math.nan).passed


def test_status_is_of_all_figures_and_a_check_without_any_has_shown_nothing() -> None:
    good, bad = Figure(label="x", value=1.0), Figure(label="x", value=1.0, high=0.0)
    assert Outcome(figures=(good, good)).status == PASS
    assert Outcome(figures=(good, bad)).status == FAIL
    assert Outcome().status == FAIL
    assert Outcome(skipped="not installed").status == SKIPPED
