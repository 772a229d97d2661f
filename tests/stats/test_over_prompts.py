"""Intervals over prompts where a t interval covers too seldom. Expected values by hand, SciPy or simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evenhand.stats.intervals import mean_interval
from evenhand.stats.over_prompts import (
    change_interval,
    distance_sampling_variance,
    effective_wilson,
    on_target_p,
    share_interval,
    skewed_interval,
    spread,
)


def names(count: int) -> list[str]:
    return [f"c{index}" for index in range(count)]


def ends(interval: object) -> tuple[float, float]:
    low, high = interval.low, interval.high  # type: ignore[attr-defined]  # an Interval
    assert low is not None
    assert high is not None
    return low, high


def test_the_variance_of_a_mean_by_hand_with_and_without_clusters() -> None:
    values = np.array([0.1, 0.4, 0.3, 0.8])
    alone = spread(values, names(4))
    assert alone.variance == pytest.approx(values.var(ddof=1) / 4)
    assert alone.skewness == pytest.approx(stats.skew(values) * 4**2 / (3 * 2) * (3 / 4) ** 1.5)
    # Two wordings a concept: the variance of two concept means.
    together = spread(values, ["a", "a", "b", "b"])
    assert together.variance == pytest.approx(np.array([0.25, 0.55]).var(ddof=1) / 2)
    assert together.num_clusters == 2


def test_wilson_at_the_effective_size_is_wilson_where_images_are_independent() -> None:
    """With the variance of 200 independent images and many clusters it is Wilson's interval of 60 in 200 (SciPy)."""
    low, high = effective_wilson(0.3, 0.3 * 0.7 / 200, 100_000, n=200, level=0.95)
    wilson = stats.binomtest(60, 200).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-5)


def test_prompts_that_show_nothing_still_have_an_interval() -> None:
    low, high = ends(share_interval(np.zeros(10), names(10), n_images=80, level=0.95))
    wilson = stats.binomtest(0, 80).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((0.0, wilson.high), abs=1e-12)


def test_a_share_is_covered_near_zero_where_a_t_interval_fails() -> None:
    """400 folders of 10 prompts of 16 images at beta-distributed shares with mean 0.05: band 99.9 % around 95 %."""
    rng, hits, plain = np.random.default_rng(0), 0, 0
    for _ in range(400):
        size = 0.05 * 0.95 / 0.05**2 - 1
        shares = rng.binomial(16, rng.beta(0.05 * size, 0.95 * size, size=10)) / 16
        low, high = ends(share_interval(shares, names(10), n_images=160, level=0.95))
        hits += low <= 0.05 <= high
        low, high = ends(mean_interval(shares, names(10), level=0.95))
        plain += low <= 0.05 <= high
    assert 0.91 <= hits / 400 <= 0.985
    assert plain / 400 < 0.91


def test_a_squared_distance_is_covered_where_a_t_interval_fails() -> None:
    """400 folders of 10 fair prompts of 16 images: the truth is zero, and U is skewed."""
    rng, hits, plain = np.random.default_rng(0), 0, 0
    for _ in range(400):
        shares = rng.binomial(16, 0.5, size=10) / 16
        squares = 2 * (shares - 0.5) ** 2 - 2 * shares * (1 - shares) / 15
        both = np.stack([shares, 1 - shares], axis=1)
        noise = distance_sampling_variance(both, np.full(10, 16.0), np.full((10, 2), 0.5))
        low, high = ends(skewed_interval(squares, names(10), sampling_variance=noise, level=0.95))
        hits += low <= 0 <= high
        low, high = ends(mean_interval(squares, names(10), level=0.95))
        plain += low <= 0 <= high
    assert hits / 400 >= 0.92
    assert plain / 400 < 0.915


def test_the_sampling_variance_of_the_mean_distance_is_what_simulation_gives() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([[0.7, 0.2, 0.1]] * 6)
    target = np.full((6, 3), 1 / 3)
    means, estimates = [], []
    for _ in range(2000):
        shares = np.stack([rng.multinomial(20, row) / 20 for row in truth])
        squares = ((shares - target) ** 2).sum(axis=1) - (shares * (1 - shares)).sum(axis=1) / 19
        means.append(squares.mean())
        estimates.append(distance_sampling_variance(shares, np.full(6, 20.0), target))
    assert np.mean(estimates) == pytest.approx(np.var(means), rel=0.15)


def test_a_change_is_never_narrower_than_sampling_lets_it_be() -> None:
    values = np.full(9, -0.2)
    low, high = ends(change_interval(values, names(9), sampling_variance=0.0004, level=0.95))
    half = stats.t.ppf(0.975, 8) * math.sqrt(0.5 * 0.0004)
    assert (low, high) == pytest.approx((-0.2 - half, -0.2 + half))


@pytest.mark.parametrize(("n", "k", "prompts"), [(8, 2, 10), (16, 3, 5), (12, 36, 8)])
def test_the_chance_of_a_fair_generator_is_what_simulation_gives(n: int, k: int, prompts: int) -> None:
    rng = np.random.default_rng(2)
    target = np.full((prompts, k), 1 / k)
    shares = rng.multinomial(n, target[0], size=(4000, prompts)) / n
    noise = (shares * (1 - shares)).sum(axis=2) / (n - 1)
    values = (((shares - 1 / k) ** 2).sum(axis=2) - noise).mean(axis=1)
    for part in (0.5, 0.9, 0.99):
        value = float(np.quantile(values, part))
        chance = on_target_p(value, np.full(prompts, float(n)), target)
        assert chance == pytest.approx(float(np.mean(values >= value)), abs=0.5 * (1 - part) + 0.005)


def test_one_prompt_or_none_has_no_interval_and_says_why() -> None:
    one = share_interval(np.array([0.3]), ["a"], n_images=8, level=0.95)
    assert (one.value, one.low, one.high) == (0.3, None, None)
    none = skewed_interval(np.zeros(0), [], sampling_variance=0.0, level=0.95)
    assert none.value is None
    assert "not estimable" in none.how
