"""Coverage by simulation with known truth; single prompts against the interval that they must equal."""

from __future__ import annotations

import numpy as np
import pytest

from evenhand.stats.intervals import Interval, paired_difference, unpaired_difference, wilson
from evenhand.stats.stratified import stratified_mean, stratified_shift
from tests.stats.bands import assert_covers

LEVEL = 0.95
PROMPTS = {
    "even": lambda rng, count: np.full(count, 0.5),
    "two ends": lambda rng, count: rng.choice([0.02, 0.98], count),
    "rare": lambda rng, count: np.full(count, 0.03),
    "of all kinds": lambda rng, count: rng.beta(0.4, 0.4, count),
}


def draws(rng: np.random.Generator, shares: np.ndarray, n: int) -> list[np.ndarray]:
    return [(rng.random(n) < share).astype(float) for share in shares]


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize(("count", "n"), [(5, 8), (40, 16)])
def test_mean_over_these_prompts_is_covered(kind: str, count: int, n: int) -> None:
    rng = np.random.default_rng(1)
    shares = PROMPTS[kind](rng, count)
    assert_covers(
        lambda: (stratified_mean(draws(rng, shares, n), level=LEVEL), float(shares.mean())),
        300,
        conservative=kind != "even",
    )


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (0.06, 0.41), (0.03, 0.03)])
def test_shift_of_these_prompts_is_covered(paired: bool, before: float, after: float) -> None:
    rng = np.random.default_rng(2)

    def run() -> tuple[Interval, float]:
        base, adapted = draws(rng, np.full(20, before), 16), draws(rng, np.full(20, after), 16)
        return stratified_shift(base, adapted, paired=paired, level=LEVEL), after - before

    assert_covers(run, 400, conservative=before < 0.05)


def test_prompts_that_differ_do_not_widen_it() -> None:
    """The point of stratifying; and same-seed pairs that mostly agree make it narrower still."""
    rng = np.random.default_rng(3)
    base = draws(rng, np.array([0.05] * 10 + [0.95] * 10), 16)
    pooled = wilson(sum(entry.sum() for entry in base), 320, level=LEVEL)
    stratified = stratified_mean(base, level=LEVEL)
    assert width(stratified) < 0.6 * width(pooled)
    noise = [rng.random(16) for _ in range(20)]
    arms = [[(entry < share).astype(float) for entry in noise] for share in (0.4, 0.5)]
    assert width(stratified_shift(*arms, paired=True, level=LEVEL)) < 0.6 * width(
        stratified_shift(*arms, paired=False, level=LEVEL)
    )


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_one_prompt_gets_the_interval_of_its_images() -> None:
    base, adapted = np.repeat([0.0, 1.0], [12, 4]), np.repeat([0.0, 1.0], [7, 9])
    assert stratified_mean([base], level=LEVEL) == wilson(4, 16, level=LEVEL)
    assert stratified_shift([base], [adapted], paired=True, level=LEVEL) == paired_difference(5, 0, 16, level=LEVEL)
    assert stratified_shift([base], [adapted], paired=False, level=LEVEL) == unpaired_difference(
        9, 16, 4, 16, level=LEVEL
    )


def test_images_that_all_agree_are_not_certain() -> None:
    same = [np.ones(16)] * 10
    assert stratified_mean(same, level=LEVEL).low == pytest.approx(wilson(160, 160, level=LEVEL).low, abs=2e-3)
    still = stratified_shift(same, same, paired=True, level=LEVEL)
    assert still.value == 0
    assert still.low == pytest.approx(paired_difference(0, 0, 160, level=LEVEL).low, abs=2e-3)


@pytest.mark.parametrize("values", [[], [np.zeros(0)]])
def test_nothing_read_is_not_estimable(values: list[np.ndarray]) -> None:
    assert stratified_mean(values, level=LEVEL).value is None
    assert stratified_shift(values, values, paired=True, level=LEVEL).value is None


@pytest.mark.parametrize("count", [1, 2, 20])
def test_one_image_a_prompt_still_has_an_interval(count: int) -> None:
    rng = np.random.default_rng(4)
    values = [rng.random(1) for _ in range(count)]
    interval = stratified_mean(values, level=LEVEL)
    assert interval.low is not None
    assert 0 <= interval.low < np.mean(values) < interval.high <= 1  # type: ignore[operator]
    shift = stratified_shift(values, values[::-1], paired=False, level=LEVEL)
    assert shift.low is not None
    assert shift.low < 0 < shift.high  # type: ignore[operator]


def test_swapping_the_arms_negates_the_shift() -> None:
    rng = np.random.default_rng(5)
    base, adapted = draws(rng, np.full(8, 0.2), 8), draws(rng, np.full(8, 0.5), 8)
    one = stratified_shift(base, adapted, paired=True, level=LEVEL)
    other = stratified_shift(adapted, base, paired=True, level=LEVEL)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))  # type: ignore[operator]
