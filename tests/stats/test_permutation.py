"""Expected values by counting all swaps, from scipy, and by simulation of nothing but true nulls."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from scipy import stats

from evenhand.stats.distances import total_variation
from evenhand.stats.permutation import label_swap
from tests.stats.bands import band

Arm = list[np.ndarray]


def arms(
    rng: np.random.Generator, base: tuple[float, ...], adapted: tuple[float, ...], j: int, n: int
) -> tuple[Arm, Arm]:
    k = len(base)
    return tuple([np.eye(k)[rng.choice(k, size=n, p=shares)] for _ in range(j)] for shares in (base, adapted))  # type: ignore[return-value]


FOUR = (0.25, 0.25, 0.25, 0.25)


def test_p_value_is_the_share_of_all_swaps_that_reach_the_statistic() -> None:
    """Two prompts of 5 pairs: all 1,024 swaps, counted."""
    rng = np.random.default_rng(1)
    base, adapted = arms(rng, (0.8, 0.1, 0.1), (0.2, 0.4, 0.4), 2, 5)

    def statistic(signs: tuple[int, ...]) -> float:
        swapped = np.array(signs, dtype=bool).reshape(2, 5, 1)
        old, new = np.where(swapped, adapted, base), np.where(swapped, base, adapted)
        return float(total_variation(old.mean(axis=1), new.mean(axis=1)).mean())

    every = np.array([statistic(signs) for signs in product((0, 1), repeat=10)])
    found = label_swap(base, adapted, swaps=20_000)
    assert found.value == pytest.approx(every[0])
    assert found.p == pytest.approx(np.mean(every >= every[0] - 1e-9), abs=0.01)


def test_one_unpaired_prompt_equals_scipys_permutation_test() -> None:
    rng = np.random.default_rng(2)
    base, adapted = np.eye(2)[rng.integers(0, 2, 14)], np.eye(2)[(rng.random(20) < 0.8).astype(int)]
    expected = stats.permutation_test(
        (base[:, 0], adapted[:, 0]),
        lambda x, y: abs(x.mean() - y.mean()),
        n_resamples=9_999,
        alternative="greater",
        rng=np.random.default_rng(3),
    )
    found = label_swap([base], [adapted], paired=False)
    assert found.value == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)


@pytest.mark.parametrize(("statistic", "paired"), [("tv", True), ("js", True), ("tv_to_target", True), ("gap", False)])
def test_two_runs_of_one_generator_are_told_apart_at_the_level_only(statistic: str, paired: bool) -> None:
    rng = np.random.default_rng(4)
    shares = (0.4, 0.3, 0.2, 0.1)
    p = []
    for seed in range(150):
        base, adapted = arms(rng, shares, shares, 10, 8)
        p.append(label_swap(base, adapted, statistic=statistic, target=FOUR, paired=paired, swaps=199, seed=seed).p)
    assert np.mean(np.array(p) <= 0.05) <= band(0.05, 150)[1]
    assert np.mean(np.array(p) <= 0.5) >= band(0.5, 150)[0]


def test_a_bootstrap_of_the_distance_says_changed_every_time() -> None:
    """Control, and the reason for the test: 20 prompts x 16 images of one generator."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        base, adapted = (np.stack(arm) for arm in arms(rng, FOUR, FOUR, 20, 16))
        means = []
        for _ in range(100):
            rows = rng.integers(0, 16, size=(20, 16, 1))
            old, new = (np.take_along_axis(arm, rows, axis=1).mean(axis=1) for arm in (base, adapted))
            means.append(total_variation(old, new).mean())
        assert np.quantile(means, 0.025) > 0.1


def test_a_change_is_found_also_in_36_cells() -> None:
    rng = np.random.default_rng(6)
    few = np.full(36, 0.2 / 34)
    few[:2] = 0.4
    base, adapted = arms(rng, tuple(few), tuple(np.full(36, 1 / 36)), 10, 16)
    assert label_swap(base, adapted, swaps=999).p == pytest.approx(0.001)
    again = arms(rng, FOUR, (0.4, 0.3, 0.2, 0.1), 40, 16)
    assert label_swap(*again, statistic="entropy", swaps=999).p <= 0.01  # type: ignore[misc]


def test_the_null_adapter_has_p_one() -> None:
    base, _ = arms(np.random.default_rng(7), FOUR, FOUR, 5, 8)
    found = label_swap(base, base, swaps=99)
    assert (found.value, found.p) == (0.0, 1.0)


def test_swapping_the_arms_changes_nothing() -> None:
    base, adapted = arms(np.random.default_rng(8), FOUR, (0.4, 0.3, 0.2, 0.1), 6, 8)
    assert label_swap(base, adapted, swaps=499).p == label_swap(adapted, base, swaps=499).p


def test_9999_swaps_of_40_prompts_take_less_than_a_second() -> None:
    base, adapted = arms(np.random.default_rng(9), FOUR, FOUR, 40, 16)
    start = time.process_time()
    label_swap(base, adapted, swaps=9_999)
    assert time.process_time() - start < 1


def test_no_prompt_has_no_p_value_and_wrong_questions_are_refused() -> None:
    assert label_swap([], []).p is None
    base, adapted = arms(np.random.default_rng(10), FOUR, FOUR, 1, 4)
    with pytest.raises(ValueError, match="no statistic entropi"):
        label_swap(base, adapted, statistic="entropi")
    with pytest.raises(ValueError, match="needs a target"):
        label_swap(base, adapted, statistic="tv_to_target")
    with pytest.raises(ValueError, match="paired=False"):
        label_swap(base, [adapted[0][:3]])
