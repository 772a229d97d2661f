"""Expected values by hand, by simulation, or from the published table of noise floors that the comments name."""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.distances import distance_sq, entropy, gap, noise_floor, total_variation

EVEN_2, EVEN_4 = (0.5, 0.5), (0.25, 0.25, 0.25, 0.25)


def test_distances_by_hand() -> None:
    shares = np.array([[0.9, 0.1], [0.5, 0.5]])
    assert gap(shares) == pytest.approx([0.8, 0.0])
    assert total_variation(shares, np.array(EVEN_2)) == pytest.approx([0.4, 0.0])
    assert entropy(shares) == pytest.approx([0.468996, 1.0], abs=1e-6)  # -(0.9 log2 0.9 + 0.1 log2 0.1)
    assert entropy(np.array([1.0, 0.0, 0.0])) == 0.0


def images(counts: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.eye(len(counts)), counts, axis=0)


def test_squared_distance_is_the_formula_for_single_subjects() -> None:
    """sum (p - t)^2 - sum p (1 - p) / (n - 1), by hand for 12 of 16."""
    expected = 2 * 0.25**2 - 2 * 0.75 * 0.25 / 15
    assert distance_sq(images((12, 4)), np.array(EVEN_2)) == pytest.approx(expected)


@pytest.mark.parametrize("truth", [(0.5, 0.5), (0.9, 0.1), (0.1, 0.2, 0.3, 0.4)])
def test_squared_distance_has_no_noise_floor(truth: tuple[float, ...]) -> None:
    """Its mean over many small samples is the true squared distance; the plug-in square's is not."""
    rng = np.random.default_rng(0)
    target = np.full(len(truth), 1 / len(truth))
    draws = rng.multinomial(8, truth, size=20_000)
    unbiased = [distance_sq(images(tuple(counts)), target) for counts in draws[:4000]]
    plug_in = ((draws / 8 - target) ** 2).sum(axis=1)
    true = ((np.array(truth) - target) ** 2).sum()
    assert np.mean(unbiased) == pytest.approx(true, abs=4 * np.std(unbiased) / 4000**0.5)
    assert plug_in.mean() > true + 0.01


def test_one_image_has_no_unbiased_distance() -> None:
    assert np.isnan(distance_sq(images((1, 0)), np.array(EVEN_2)))


@pytest.mark.parametrize(("n", "floor"), [(4, 0.372), (16, 0.197), (32, 0.141), (64, 0.099), (100, 0.080)])
def test_floor_of_the_gap_equals_the_simulated_table(n: int, floor: float) -> None:
    """Two values, all images independent; figures of an independent simulation, to its three digits."""
    expected = floor if n != 4 else 0.375  # exact by hand: (2 * 1 + 8 * 0.5 + 6 * 0) / 16
    assert noise_floor("gap", n, EVEN_2, EVEN_2) == pytest.approx(expected, abs=0.0015)


@pytest.mark.parametrize(("n", "floor"), [(16, 0.169), (64, 0.086)])
def test_floor_of_tv_for_four_values_equals_the_simulated_table(n: int, floor: float) -> None:
    assert noise_floor("tv", n, EVEN_4, EVEN_4) == pytest.approx(floor, abs=0.002)


def test_floor_is_the_mean_of_a_perfectly_even_generator() -> None:
    """Control: an independent draw of 20,000 even prompts; and a skewed truth must not give that floor."""
    rng = np.random.default_rng(1)
    shares = rng.binomial(24, 0.5, size=20_000) / 24
    assert noise_floor("gap", 24, EVEN_2, EVEN_2) == pytest.approx(np.abs(2 * shares - 1).mean(), abs=0.003)
    assert noise_floor("gap", 24, (0.9, 0.1), EVEN_2) > 0.7
