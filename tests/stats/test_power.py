"""Expected values from statsmodels, from a published-style table of sample sizes, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from evenhand.stats.power import (
    discordance,
    images_needed,
    mde_after,
    pair_sd,
    pairs_needed,
    suite_mde,
    suite_sd,
    t_test_power,
)

# shares -> unpaired images per arm, and pairs by correlation; made by another script, rounded to whole images
TABLE = [
    (0.50, 0.60, 387, {0.0: 390, 0.2: 313, 0.4: 236, 0.6: 159}),
    (0.90, 0.80, 199, {0.0: 202, 0.2: 164, 0.4: 126, 0.6: 89}),
    (0.95, 0.85, 140, {0.0: 143, 0.2: 118, 0.4: 94}),
    (0.90, 0.50, 19, {0.0: 22, 0.2: 19}),
]


@pytest.mark.parametrize(("before", "after", "unpaired", "paired"), TABLE)
def test_sizes_equal_the_table(before: float, after: float, unpaired: int, paired: dict[float, int]) -> None:
    assert images_needed(before, after) == pytest.approx(unpaired, abs=1)
    assert {phi: pairs_needed(before, after, phi=phi) for phi in paired} == pytest.approx(paired, abs=1)


def test_a_correlation_that_cannot_be_and_no_change_need_no_number() -> None:
    assert pairs_needed(0.95, 0.85, phi=0.6) is None
    assert discordance(0.9, 0.5, phi=0.4) is None
    assert pairs_needed(0.5, 0.5) is None
    assert images_needed(0.5, 0.5) is None
    assert discordance(0.5, 0.5, phi=1) == pytest.approx(0)


def test_discordance_is_what_pairs_show() -> None:
    rng = np.random.default_rng(1)
    normal = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 200_000)
    base, adapted = normal[:, 0] < stats.norm.ppf(0.3), normal[:, 1] < stats.norm.ppf(0.5)
    phi = float(np.corrcoef(base, adapted)[0, 1])
    assert discordance(0.3, 0.5, phi=phi) == pytest.approx(np.mean(base != adapted), abs=0.005)
    assert pair_sd(0.3, 0.5, phi=phi) == pytest.approx(np.std(adapted.astype(float) - base), abs=0.005)


@pytest.mark.parametrize("count", [2, 5, 20, 40])
def test_detectable_shift_equals_statsmodels(count: int) -> None:
    expected = TTestPower().solve_power(effect_size=None, nobs=count, alpha=0.05, power=0.8, alternative="two-sided")
    assert suite_mde(count, 0.2) == pytest.approx(0.2 * expected, rel=1e-4)


def test_the_printed_shift_is_detected_in_four_of_five_suites() -> None:
    """Forty prompts of 16 seeds that differ by 0.11, shares near 0.3: the whole way from shares to a t test."""
    rng = np.random.default_rng(2)
    spread = suite_sd(np.full(40, 0.3), 16)
    assert spread is not None
    shift = suite_mde(40, spread)
    assert shift is not None
    found, printed_after = [], []
    for _ in range(500):
        shares = np.clip(0.3 + rng.normal(shift, 0.11, 40), 0, 1)
        d = rng.binomial(16, shares) / 16 - rng.binomial(16, 0.3, 40) / 16
        found.append(stats.ttest_1samp(d, 0).pvalue < 0.05)
        printed_after.append(mde_after(d, [str(row) for row in range(40)]))
    assert 0.73 <= np.mean(found) <= 0.85
    assert np.mean(printed_after) == pytest.approx(shift, rel=0.06)


def test_more_prompts_beat_more_images() -> None:
    """640 pairs: 40 x 16 against 20 x 32."""
    wide, narrow = (suite_mde(count, suite_sd(np.full(5, 0.2), n) or 0) for count, n in ((40, 16), (20, 32)))
    assert wide is not None
    assert narrow is not None
    assert wide < 0.9 * narrow


def test_power_is_the_level_without_a_shift_and_grows() -> None:
    assert t_test_power(0, 0.1, 19) == pytest.approx(0.05)
    assert t_test_power(0.1, 0.1, 19) < t_test_power(-0.2, 0.1, 19) < t_test_power(0.5, 0.1, 19)


def test_too_few_prompts_detect_nothing_and_no_spread_detects_all() -> None:
    assert suite_mde(1, 0.2) is None
    assert suite_sd(np.zeros(0), 16) is None
    assert suite_sd(np.array([0.5]), 0) is None
    assert mde_after(np.array([0.1]), ["a"]) is None
    assert mde_after(np.zeros(5), list("abcde")) == 0
    assert suite_sd(np.array([0.0, 1.0]), 16) == pytest.approx(0.11)
