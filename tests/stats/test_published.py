"""Expected values by the papers' formulas written out with loops, and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from evenhand.stats import published
from evenhand.stats.distances import gap, total_variation

TWO = np.array([0.8, 0.2])
FOUR = np.array([0.6, 0.25, 0.15, 0.0])


def test_shen_bias_is_the_mean_over_pairs_of_values() -> None:
    pairs = [abs(a - b) for a, b in combinations(FOUR, 2)]
    assert published.shen_bias(FOUR) == pytest.approx(2 / (4 * 3) * sum(pairs))
    assert published.shen_bias(np.stack([FOUR, FOUR[::-1]])) == pytest.approx([np.mean(pairs)] * 2)


def test_the_other_figures_by_hand() -> None:
    even = np.full(4, 0.25)
    assert published.deviation_ratio(FOUR) == pytest.approx(0.35 / 0.75)
    assert published.fairness_discrepancy(FOUR, even) == pytest.approx((0.35**2 + 0.1**2 + 0.25**2) ** 0.5)
    assert published.uce_delta(TWO) == pytest.approx(0.6)
    assert published.heim_imbalance(TWO) == pytest.approx(0.3)
    assert published.parity_gap(FOUR) == pytest.approx((0.35 + 0 + 0.1 + 0.25) / 4)
    nats = -(0.6 * np.log(0.6) + 0.25 * np.log(0.25) + 0.15 * np.log(0.15))
    assert published.openbias(FOUR) == pytest.approx(1 - nats / np.log(4))
    assert published.fairimagen(FOUR) == pytest.approx(1 - 0.5 * 0.7 / 0.75)


def test_for_two_values_all_are_one_number_in_other_units() -> None:
    even = np.full(2, 0.5)
    expected = published.conversions(float(gap(TWO)))
    found = {
        "gap": gap(TWO),
        "shen_bias": published.shen_bias(TWO),
        "deviation_ratio": published.deviation_ratio(TWO),
        "uce_delta": published.uce_delta(TWO),
        "heim_imbalance": published.heim_imbalance(TWO),
        "parity_gap": published.parity_gap(TWO),
        "fairness_discrepancy": published.fairness_discrepancy(TWO, even),
        "fairimagen": published.fairimagen(TWO),
        "tv": total_variation(TWO, even),
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_two_of_36_declared_cells_are_far_from_even_by_every_figure() -> None:
    """With the two that were seen as the only cells, all of them say that it is even."""
    declared, seen = np.zeros(36), np.full(2, 0.5)
    declared[:2] = 0.5
    assert published.fairimagen(seen) == 1.0
    assert published.fairimagen(declared) < 0.06
    assert published.deviation_ratio(declared) == pytest.approx((0.5 - 1 / 36) / (1 - 1 / 36))
    assert published.openbias(declared) > 0.8
    assert published.shen_bias(seen) == 0.0
    assert published.shen_bias(declared) > published.shen_bias(np.full(36, 1 / 36)) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["uce_delta", "heim_imbalance"])
def test_a_figure_for_two_values_refuses_four(name: str) -> None:
    with pytest.raises(ValueError, match="two values, got 4"):
        getattr(published, name)(FOUR)


def test_one_value_is_even_by_itself() -> None:
    one = np.array([1.0])
    assert published.shen_bias(one) == published.deviation_ratio(one) == published.openbias(one) == 0
    assert published.fairimagen(one) == 1
