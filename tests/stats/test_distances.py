"""Expected values by hand, by simulation, or from the published table of noise floors that the comments name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from evenhand.stats.distances import (
    DISTANCES,
    distance_sq,
    empty_cells,
    entropy,
    entropy_miller_madow,
    expected_empty,
    four_fifths,
    gap,
    hellinger,
    js,
    kl,
    noise_floor,
    shortfall,
    total_variation,
    wasserstein,
    worst_floor,
)

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


FOUR, TARGET = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.2, 0.3, 0.4])


def test_distances_to_a_target_equal_scipys() -> None:
    assert kl(FOUR, TARGET) == pytest.approx(stats.entropy(FOUR, TARGET))
    assert js(FOUR, TARGET) == pytest.approx(jensenshannon(FOUR, TARGET, base=2) ** 2)
    ages = np.arange(4)
    assert wasserstein(FOUR, TARGET) == pytest.approx(stats.wasserstein_distance(ages, ages, FOUR, TARGET))
    assert wasserstein(FOUR, TARGET, steps=[10, 20, 5]) == pytest.approx(
        stats.wasserstein_distance([0, 10, 30, 35], [0, 10, 30, 35], FOUR, TARGET)
    )
    bhattacharyya = np.sqrt(FOUR * TARGET).sum()
    assert hellinger(FOUR, TARGET) == pytest.approx((1 - bhattacharyya) ** 0.5)


def test_distances_take_many_prompts_at_once() -> None:
    both = np.stack([FOUR, TARGET])
    for name, distance in DISTANCES.items():
        if name not in ("uce_delta", "heim_imbalance"):
            assert distance(both, TARGET) == pytest.approx([float(distance(row, TARGET)) for row in both]), name


def test_a_value_without_target_is_infinitely_surprising_but_not_infinitely_far() -> None:
    nothing = np.array([0.5, 0.5, 0.0, 0.0])
    assert kl(FOUR, nothing) == np.inf
    assert kl(nothing, nothing) == 0
    assert 0 < js(FOUR, nothing) < 1
    assert js(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


def test_four_fifths_and_shortfall_by_hand() -> None:
    shares, target = np.array([0.3, 0.7]), np.array([0.5, 0.5])
    assert four_fifths(shares, target) == pytest.approx(0.3 / 0.7)
    assert four_fifths(np.array([0.2, 0.8]), np.array([0.2, 0.8])) == 1
    assert four_fifths(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 1  # the second value has no target
    assert np.isnan(four_fifths(np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    assert shortfall(FOUR, TARGET) == pytest.approx(0.4)


def test_steps_of_another_number_than_gaps_between_values_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry fewer than values \\(3\\), got 4"):
        wasserstein(FOUR, TARGET, steps=[1, 1, 1, 1])


def test_miller_and_madows_entropy_is_nearer_to_the_truth() -> None:
    """For an even generator of four values at 16 images; the plug-in is short by 3 / (2 n log 4)."""
    assert entropy_miller_madow(np.array([0.5, 0.5, 0.0, 0.0]), 16) == pytest.approx(0.5 + 1 / (32 * np.log(4)))
    plug_in, corrected = (1 - noise_floor(name, 16, EVEN_4, EVEN_4) for name in ("entropy", "entropy_miller_madow"))
    assert plug_in == pytest.approx(3 / (32 * np.log(4)), rel=0.1)
    assert abs(corrected) < 0.1 * plug_in


def test_two_of_36_cells_shown_evenly_are_far_from_the_declared_36() -> None:
    shares, target = np.zeros(36), np.full(36, 1 / 36)
    shares[:2] = 0.5
    assert total_variation(shares, target) == pytest.approx(34 / 36)
    assert entropy(shares) == pytest.approx(np.log(2) / np.log(36))
    assert len(empty_cells(shares)) == 34
    assert expected_empty(16, tuple(target)) == pytest.approx(36 * (35 / 36) ** 16)
    images_of_two = np.repeat(np.eye(36)[:2], 320, axis=0)
    assert distance_sq(images_of_two, target) == pytest.approx(2 * (0.5 - 1 / 36) ** 2 + 34 / 36**2, abs=0.001)


# name -> n -> floor, of an independent simulation of evenly drawn values, to its three digits
TABLE = {
    ("tv", 2): {4: 0.186, 16: 0.099, 32: 0.070, 64: 0.049, 100: 0.040, 400: 0.020},
    ("tv", 4): {4: 0.317, 16: 0.169, 32: 0.122, 64: 0.086, 100: 0.069, 400: 0.035},
    ("shen_bias", 4): {4: 0.273, 16: 0.140, 32: 0.100, 64: 0.071, 100: 0.056, 400: 0.028},
    ("gap", 4): {4: 0.506, 16: 0.255, 32: 0.183, 64: 0.129, 100: 0.103, 400: 0.052},
    ("tv", 7): {4: 0.539, 16: 0.247, 32: 0.174, 64: 0.122, 100: 0.098, 400: 0.049},
    ("shen_bias", 7): {4: 0.194, 16: 0.104, 32: 0.074, 64: 0.053, 100: 0.042, 400: 0.021},
    ("fairness_discrepancy", 4): {60: 0.103, 100: 0.080, 250: 0.051},
    ("deviation_ratio", 4): {60: 0.102, 100: 0.079, 250: 0.051},
    ("kl", 8): {60: 0.060, 100: 0.036, 250: 0.014},
}


@pytest.mark.parametrize(("name", "count"), TABLE)
def test_floors_equal_the_table(name: str, count: int) -> None:
    even = (1 / count,) * count
    found = {n: noise_floor(name, n, even, even) for n in TABLE[name, count]}
    assert found == pytest.approx(TABLE[name, count], abs=0.0025)


def test_every_distance_has_a_floor_for_36_cells_and_one_for_the_worst_prompt() -> None:
    even = (1 / 36,) * 36
    for name in {*DISTANCES} - {"uce_delta", "heim_imbalance"}:
        assert np.isfinite(noise_floor(name, 16, even, even)), name
    assert np.isnan(noise_floor("gap", 0, even, even))
    with pytest.raises(ValueError, match="no floor for gapp"):
        noise_floor("gapp", 16, EVEN_2, EVEN_2)


def test_floor_of_the_worst_prompt_is_the_mean_maximum() -> None:
    """Control: an independent draw of 4,000 suites of 20 even prompts with 8 to 24 images."""
    counts = [8, 16, 24, 16] * 5
    rng = np.random.default_rng(2)
    largest = np.max([np.abs(2 * rng.binomial(n, 0.5, size=4000) / n - 1) for n in counts], axis=0).mean()
    assert worst_floor("gap", counts, EVEN_2, EVEN_2) == pytest.approx(largest, abs=0.015)
    assert worst_floor("gap", [16], EVEN_2, EVEN_2) == pytest.approx(noise_floor("gap", 16, EVEN_2, EVEN_2), abs=0.015)
    assert np.isnan(worst_floor("gap", [0], EVEN_2, EVEN_2))
