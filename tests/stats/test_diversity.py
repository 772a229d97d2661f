"""Scores by hand and by numpy's eigenvalues; changes of simulated pictures with known spread."""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.diversity import compare_diversity, mean_distance, vendi
from tests.stats.bands import band, holds

LEVEL = 0.95


def pictures(rng: np.random.Generator, n: int, spread: float, size: int = 16) -> np.ndarray:
    features = rng.normal(size=(n, size)) * spread
    features[:, 0] += 1
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_vendi_counts_different_pictures() -> None:
    assert vendi(np.eye(5)) == pytest.approx(5)
    assert vendi(np.tile(np.eye(5)[0], (5, 1))) == pytest.approx(1)
    assert vendi(np.repeat(np.eye(2), 4, axis=0)) == pytest.approx(2)
    features = pictures(np.random.default_rng(1), 12, 0.5)
    values = np.linalg.eigvals(features @ features.T / 12).real
    assert vendi(features) == pytest.approx(np.exp(-sum(x * np.log(x) for x in values if x > 1e-12)))


def test_mean_distance_is_over_pairs() -> None:
    features = pictures(np.random.default_rng(2), 6, 0.5)
    pairs = [1 - features[a] @ features[b] for a in range(6) for b in range(a)]
    assert mean_distance(features) == pytest.approx(np.mean(pairs))
    assert mean_distance(features[:1]) != mean_distance(features[:1])  # NaN
    assert np.isnan(vendi(features[:0]))
    assert vendi(features[:1]) == pytest.approx(1)


@pytest.mark.parametrize("statistic", ["vendi", "distance"])
def test_arms_with_the_same_spread_and_other_numbers_do_not_differ(statistic: str) -> None:
    """Control: compared without thinning, the arm with more pictures always looks more diverse to Vendi."""
    rng = np.random.default_rng(3)
    held, p, raw = [], [], []
    for seed in range(60):
        base, adapted = ([pictures(rng, n, 0.3) for _ in range(8)] for n in (12, 8))
        found = compare_diversity(
            base, adapted, [str(cell) for cell in range(8)], statistic=statistic, level=LEVEL, seed=seed, swaps=99
        )
        held.append(holds(found.interval, 0))
        p.append(found.p)
        raw.append(np.mean([vendi(new) / vendi(old) for old, new in zip(base, adapted, strict=True)]))
    assert np.mean(held) >= band(0.95, 60)[0]
    assert np.mean(np.array(p) <= 0.05) <= band(0.05, 60)[1]
    assert np.max(raw) < 1


def test_a_collapse_within_values_is_found() -> None:
    rng = np.random.default_rng(4)
    base, adapted = ([pictures(rng, 8, spread) for _ in range(10)] for spread in (0.3, 0.1))
    found = compare_diversity(base, adapted, [str(cell) for cell in range(10)], level=LEVEL, swaps=199)
    assert found.interval.high is not None
    assert found.interval.high < -0.1
    assert found.p == pytest.approx(1 / 200)
    assert (found.adapted or 0) < (found.base or 0)
    one_picture = [np.tile(cell[:1], (8, 1)) for cell in base]
    gone = compare_diversity(base, one_picture, ["a", "b"] * 5, statistic="distance", level=LEVEL, swaps=9)
    assert gone.interval.value == pytest.approx(-1, abs=1e-6)


def test_the_same_pictures_have_not_changed() -> None:
    rng = np.random.default_rng(5)
    base = [pictures(rng, 8, 0.3) for _ in range(4)]
    found = compare_diversity(base, base, list("abcd"), level=LEVEL, swaps=99)
    assert found.interval[:3] == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.p == 1


def test_too_few_pictures_are_not_estimable() -> None:
    one = [pictures(np.random.default_rng(6), 1, 0.3)]
    found = compare_diversity(one, one, ["a"], level=LEVEL)
    assert found.interval.value is None
    assert found.p is None
    with pytest.raises(ValueError, match="no statistic lpips"):
        compare_diversity(one, one, ["a"], statistic="lpips", level=LEVEL)
