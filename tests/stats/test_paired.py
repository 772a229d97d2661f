"""Expected values from statsmodels and numpy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from evenhand.stats.paired import change_shares, mcnemar, phi, pooled_phi
from tests.stats.bands import band

EVEN = np.array([0.5, 0.5])


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 0), (3, 9), (9, 3), (14, 2), (0, 12), (30, 41)])
def test_mid_p_is_the_exact_p_less_half_of_the_chance_of_the_outcome(gained: int, lost: int) -> None:
    exact = statsmodels_mcnemar([[5, gained], [lost, 5]], exact=True).pvalue
    expected = exact - stats.binom.pmf(gained, gained + lost, 0.5)
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (4, 4)])
def test_no_change_on_balance_has_p_one(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == 1.0


def test_mid_p_rejects_at_its_level_and_finds_a_change() -> None:
    rng = np.random.default_rng(1)
    changed = rng.binomial(40, 0.6, size=2000)
    gained = rng.binomial(changed, 0.5)
    rejected = np.mean([mcnemar(g, c - g) <= 0.05 for g, c in zip(gained.tolist(), changed.tolist(), strict=True)])
    assert 0.03 <= rejected <= band(0.05, 2000)[1]
    assert mcnemar(20, 4) < 0.01


def test_phi_is_the_correlation_and_none_for_a_constant_arm() -> None:
    rng = np.random.default_rng(2)
    base = rng.integers(0, 2, 30).astype(float)
    adapted = np.where(rng.random(30) < 0.6, base, 1 - base)
    assert phi(base, adapted) == pytest.approx(np.corrcoef(base, adapted)[0, 1])
    assert phi(base, np.ones(30)) is None
    assert phi(np.zeros(0), np.zeros(0)) is None


def test_pooled_phi_does_not_count_that_prompts_differ() -> None:
    """Two prompts at 0 and 1 in both arms look perfectly correlated together; within prompts seeds do nothing."""
    rng = np.random.default_rng(3)
    base = [(rng.random(4000) < share).astype(float) for share in (0.1, 0.9)]
    adapted = [(rng.random(4000) < share).astype(float) for share in (0.1, 0.9)]
    together = phi(np.concatenate(base), np.concatenate(adapted))
    assert together is not None
    assert together > 0.5
    assert pooled_phi(base, adapted) == pytest.approx(0.0, abs=0.05)


def one_hot(values: np.ndarray) -> np.ndarray:
    return np.eye(2)[values]


def test_changes_are_counted_towards_and_away_by_hand() -> None:
    """Base 3 of 4 show value 0. Pairs 1 and 2 change: 0 -> 1 is towards even, 1 -> 0 away from it."""
    changes = change_shares(one_hot(np.array([0, 0, 1, 0])), one_hot(np.array([0, 1, 0, 0])), EVEN)
    assert changes.changed_N.tolist() == [0, 1, 1, 0]
    assert changes.toward_N.tolist() == [0, 1, 0, 0]
    assert changes.away_N.tolist() == [0, 0, 1, 0]


def test_one_pair_has_no_direction() -> None:
    changes = change_shares(one_hot(np.array([0])), one_hot(np.array([1])), EVEN)
    assert changes.changed_N.tolist() == [1]
    assert changes.toward_N.tolist() == changes.away_N.tolist() == [0]


def naive_toward(base: np.ndarray, adapted: np.ndarray) -> float:
    """Direction by all base images, the pair's own included."""
    slope = ((base.mean(axis=0) - EVEN) * (adapted - base)).sum(axis=1)
    return float(np.mean(slope < 0) - np.mean(slope > 0))


def test_two_runs_of_one_generator_do_not_move_towards_the_target() -> None:
    """Control: judged by the same base images they do, and a real move is found."""
    rng = np.random.default_rng(4)
    fair, naive, moved = [], [], []
    for share in rng.uniform(0.2, 0.8, 1500):
        base, again = (one_hot((rng.random(8) < share).astype(int)) for _ in range(2))
        changes = change_shares(base, again, EVEN)
        fair.append(changes.toward_N.mean() - changes.away_N.mean())
        naive.append(naive_toward(base, again))
        even = change_shares(
            one_hot((rng.random(8) < 0.9).astype(int)), one_hot((rng.random(8) < 0.5).astype(int)), EVEN
        )
        moved.append(even.toward_N.mean() - even.away_N.mean())
    error = np.std(fair) / len(fair) ** 0.5
    assert abs(np.mean(fair)) < 3 * error
    assert np.mean(naive) > 5 * error
    assert np.mean(moved) > 0.3
