"""Expected values from statsmodels, and by simulation of nothing but true nulls."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from evenhand.stats.multiplicity import benjamini_hochberg, holm
from tests.stats.bands import band


@pytest.mark.parametrize(("name", "adjust"), [("holm", holm), ("fdr_bh", benjamini_hochberg)])
def test_adjusted_p_values_equal_statsmodels(name: str, adjust: object) -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, 7, 40):
        p = np.round(rng.random(count) ** 3, 2)  # rounded, so that there are ties and zeros
        expected = multipletests(p, method=name)[1]
        assert adjust(p) == pytest.approx(expected, abs=1e-14)  # type: ignore[operator]


def test_no_p_value_gives_no_p_value() -> None:
    assert len(holm([])) == 0
    assert len(benjamini_hochberg([])) == 0


def test_forty_prompts_without_a_change_are_rarely_marked() -> None:
    """Control: unadjusted, most runs mark one prompt or more."""
    rng = np.random.default_rng(2)
    p = rng.random((1000, 40))
    marked = np.mean([holm(row).min() <= 0.05 for row in p])
    assert marked <= band(0.05, 1000)[1]
    assert np.mean(p.min(axis=1) <= 0.05) > 0.8


def test_a_true_change_is_marked() -> None:
    assert holm([1e-4, *np.linspace(0.1, 1, 39)])[0] == pytest.approx(0.004)
