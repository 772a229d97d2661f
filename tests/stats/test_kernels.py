"""Expected values by loops over pairs, and by simulation of sets without a difference."""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.kernels import cmmd, kernel_test, kid
from tests.stats.bands import band


def features(rng: np.random.Generator, n: int, shift: float = 0.0, size: int = 12) -> np.ndarray:
    values = rng.normal(size=(n, size))
    values[:, 0] += 1 + shift
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def gaussian(x: np.ndarray, y: np.ndarray) -> float:
    return float(1000 * np.exp(-((x - y) ** 2).sum() / 200))


def cubic(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


@pytest.mark.parametrize(("distance", "kernel"), [(cmmd, gaussian), (kid, cubic)])
def test_u_statistics_equal_loops_over_pairs(distance: object, kernel: object) -> None:
    rng = np.random.default_rng(1)
    base, adapted = features(rng, 7), features(rng, 9, 0.5)
    within = [
        np.mean([kernel(arm[i], arm[j]) for i in range(len(arm)) for j in range(len(arm)) if i != j])  # type: ignore[operator]
        for arm in (base, adapted)
    ]
    cross = np.mean([kernel(x, y) for x in base for y in adapted])  # type: ignore[operator]
    assert distance(base, adapted) == pytest.approx(sum(within) - 2 * cross)  # type: ignore[operator]
    pairs = [
        kernel(base[i], base[j])  # type: ignore[operator]
        + kernel(adapted[i], adapted[j])  # type: ignore[operator]
        - kernel(base[i], adapted[j])  # type: ignore[operator]
        - kernel(adapted[i], base[j])  # type: ignore[operator]
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert distance(base, adapted[:7], paired=True) == pytest.approx(np.mean(pairs))  # type: ignore[operator]


def test_the_mean_is_zero_without_a_difference_and_the_biased_form_is_not() -> None:
    rng = np.random.default_rng(2)
    unbiased, biased = [], []
    for _ in range(400):
        base, adapted = features(rng, 12), features(rng, 12)
        unbiased.append(cmmd(base, adapted))
        inside = sum(np.mean([[gaussian(x, y) for x in arm[:4]] for y in arm[:4]]) for arm in (base, adapted))
        biased.append(inside - 2 * np.mean([[gaussian(x, y) for x in base[:4]] for y in adapted[:4]]))
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / 20
    assert np.min(biased) > 0


@pytest.mark.parametrize(("kernel", "paired"), [("cmmd", True), ("kid", False)])
def test_a_test_without_a_difference_rejects_at_the_level_only(kernel: str, paired: bool) -> None:
    """In the paired case half of the pairs are the same picture, as same-seed pairs of a weak adapter are."""
    rng = np.random.default_rng(3)
    p = []
    for seed in range(200):
        base, adapted = features(rng, 30), features(rng, 30)
        if paired:
            adapted[:15] = base[:15]
        p.append(kernel_test(base, adapted, kernel=kernel, paired=paired, seed=seed, swaps=99).p)
    assert np.mean(np.array(p) <= 0.05) <= band(0.05, 200)[1]
    assert np.mean(np.array(p) <= 0.5) >= band(0.4, 200)[0]


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_is_found(paired: bool) -> None:
    rng = np.random.default_rng(4)
    found = kernel_test(features(rng, 60), features(rng, 60, 3.0), kernel="cmmd", paired=paired)
    assert found.p == pytest.approx(0.001)
    assert found.value is not None
    assert found.null_high is not None
    assert found.value > 2 * found.null_high


def test_the_null_adapter_has_no_distance() -> None:
    base = features(np.random.default_rng(5), 20)
    found = kernel_test(base, base, kernel="cmmd", paired=True, swaps=99)
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.p == 1


def test_too_few_pictures_are_not_estimable_and_wrong_questions_are_refused() -> None:
    rng = np.random.default_rng(6)
    one, many = features(rng, 1), features(rng, 5)
    assert kernel_test(one, one, kernel="cmmd", paired=True).value is None
    assert np.isnan(kid(one, many))
    with pytest.raises(ValueError, match="no kernel fid"):
        kernel_test(many, many, kernel="fid", paired=False)
    with pytest.raises(ValueError, match="paired=False"):
        kernel_test(many, features(rng, 6), kernel="kid", paired=True)
