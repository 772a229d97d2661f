"""Simulated folders of known truth: intervals cover it, and a fair generator is never called biased.

The truth of a share is the mean over the prompts' distribution ("prompts like these"). Bands: binomial 99 % around
93 to 97 % at the number of folders. Where a share is at 0.02 and images are few, no interval can be calibrated, and
covering more is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from evenhand.analysis.estimates import headline_estimates
from evenhand.analysis.suite_shares import SuiteShares
from evenhand.analysis.verdicts import BENEFITS, Evidence, Verdict, indexed, verdicts_of
from evenhand.records import Estimate
from tests.drawn_shares import draw, draw_pairs, plan_of, spread_shares, two, view_of

LEAST, MOST = 0.93, 0.97


class Case(NamedTuple):
    """Mean and spread over prompts of the share of the first value, in both arms."""

    base: tuple[float, float]
    adapted: tuple[float, float]
    num_prompts: int
    num_seeds: int
    paired: bool = True
    conservative: bool = False


FAST = [Case((0.3, 0.15), (0.45, 0.1), 10, 16), Case((0.5, 0.0), (0.5, 0.0), 20, 8)]
SLOW = [
    *FAST,
    Case((0.9, 0.05), (0.6, 0.1), 5, 16),
    Case((0.5, 0.1), (0.5, 0.1), 5, 8, conservative=True),
    Case((0.1, 0.05), (0.45, 0.15), 10, 8),
    Case((0.05, 0.03), (0.1, 0.05), 20, 16),
    Case((0.02, 0.0), (0.02, 0.0), 20, 16, conservative=True),
    Case((0.98, 0.0), (0.88, 0.05), 40, 16, conservative=True),
    Case((0.9, 0.0), (0.5, 0.0), 40, 8),
    Case((0.3, 0.2), (0.5, 0.1), 40, 16),
    Case((0.5, 0.3), (0.5, 0.1), 20, 16),
    Case((0.3, 0.1), (0.45, 0.1), 20, 16, paired=False),
    Case((0.5, 0.0), (0.5, 0.0), 40, 16, paired=False),
]


def simulate(case: Case, seed: int) -> SuiteShares:
    rng = np.random.default_rng(seed)
    plan = plan_of(case.num_prompts, paired=case.paired)
    base_J, adapted_J = (spread_shares(*arm, case.num_prompts, rng) for arm in (case.base, case.adapted))
    if case.paired:
        return view_of(plan, *draw_pairs(two(base_J), two(adapted_J), case.num_seeds, rng, same=0.4))
    fewer = [case.num_seeds - place % 5 for place in range(case.num_prompts)]
    base, adapted = draw(two(base_J), [case.num_seeds] * case.num_prompts, rng), draw(two(adapted_J), fewer, rng)
    return view_of(plan, base, adapted, paired=False)


def truths(case: Case) -> dict[tuple[str, str], float]:
    """By hand: the squared distance of two values is twice ``(mean - 1/2)^2 + sd^2``."""
    squares = [2 * ((mean - 0.5) ** 2 + sd**2) for mean, sd in (case.base, case.adapted)]
    return {
        ("share:woman", "base"): case.base[0],
        ("share:woman", "adapted"): case.adapted[0],
        ("share:woman", "shift"): case.adapted[0] - case.base[0],
        ("distance_sq", "base"): squares[0],
        ("distance_sq", "adapted"): squares[1],
        ("distance_sq", "shift"): squares[1] - squares[0],
    }


def contains(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low - 1e-9 <= truth <= estimate.high + 1e-9


def coverage(case: Case, folders: int, first_seed: int = 0) -> dict[tuple[str, str], float]:
    known = truths(case)
    hits = dict.fromkeys(known, 0)
    for seed in range(folders):
        index = indexed(list(headline_estimates(simulate(case, first_seed + seed))))
        for name, arm in known:
            hits[name, arm] += contains(index[name, "heldout", "presentation", arm], known[name, arm])
    return {key: count / folders for key, count in hits.items()}


def outside(covered: dict[tuple[str, str], float], folders: int, *, conservative: bool) -> dict[tuple[str, str], float]:
    """What cannot be explained by the number of folders (binomial, 99.9 % for each figure)."""
    low = stats.binom.ppf(0.0005, folders, LEAST) / folders
    high = 1.0 if conservative else stats.binom.ppf(0.9995, folders, MOST) / folders
    # Squared distances at few prompts or at the edge cover more: their intervals are never narrower than sampling.
    return {key: part for key, part in covered.items() if not low <= part <= (1.0 if key[0] == "distance_sq" else high)}


@pytest.mark.parametrize("case", FAST)
def test_intervals_cover_the_truth_in_two_hundred_folders(case: Case) -> None:
    assert outside(coverage(case, 200), 200, conservative=case.conservative) == {}


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_intervals_cover_the_truth_in_a_thousand_folders(case: Case) -> None:
    covered = coverage(case, 1000, first_seed=10_000)
    assert outside(covered, 1000, conservative=case.conservative) == {}


def test_a_naive_interval_over_images_would_have_been_caught() -> None:
    """The control: Wilson over all images together, which takes images of one prompt for independent of it."""
    case, hits = Case((0.5, 0.3), (0.5, 0.3), 10, 16), 0
    for seed in range(200):
        view = simulate(case, seed)
        women = float(sum(column.sum() for column in view.base.column(0)))
        bounds = stats.binomtest(int(women), view.base.num_read).proportion_ci(method="wilson")
        hits += bounds.low <= 0.5 <= bounds.high
    assert hits / 200 < 0.75


def judge(view: SuiteShares, *, second_reader: bool = True) -> list[Verdict]:
    index = indexed(list(headline_estimates(view)))
    others = {"second": index} if second_reader else {}
    evidence = Evidence(index=index, others=others, caps=(), missing=frozenset(), guards=(), overshoot=())
    return verdicts_of(view, evidence)


def words(make: Callable[[int], SuiteShares], folders: int) -> list[list[str]]:
    return [[verdict.verdict for verdict in judge(make(seed))] for seed in range(folders)]


def fair(num_prompts: int, num_seeds: int, num_values: int) -> Callable[[int], SuiteShares]:
    plan = plan_of(num_prompts, num_values)
    even = np.full((num_prompts, num_values), 1 / num_values)

    def make(seed: int) -> SuiteShares:
        rng = np.random.default_rng(seed)
        return view_of(plan, *draw_pairs(even, even, num_seeds, rng, same=0.3))

    return make


@pytest.mark.parametrize(("num_prompts", "num_seeds", "num_values"), [(3, 4, 2), (10, 16, 2), (8, 8, 36)])
def test_a_fair_generator_is_never_called_biased(num_prompts: int, num_seeds: int, num_values: int) -> None:
    found = words(fair(num_prompts, num_seeds, num_values), 60)
    assert not any("biased" in row for row in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_prompts", "num_seeds", "num_values"),
    [(2, 2, 2), (2, 8, 2), (3, 4, 3), (5, 8, 2), (5, 16, 6), (10, 16, 2), (20, 8, 36), (40, 16, 2)],
)
def test_a_fair_generator_is_never_called_biased_in_a_thousand_folders(
    num_prompts: int, num_seeds: int, num_values: int
) -> None:
    found = words(fair(num_prompts, num_seeds, num_values), 1000)
    assert sum("biased" in row for row in found) == 0
    # A change of nothing is called one at most as often as its interval allows: one side of 5 %.
    assert sum(row[0] in BENEFITS for row in found) <= stats.binom.ppf(0.999, 1000, 0.025)


@pytest.mark.parametrize(
    ("share", "num_prompts", "num_seeds"), [(0.95, 5, 8), (0.9, 10, 16), (0.8, 40, 16), (0.02, 5, 8)]
)
def test_a_biased_generator_is_called_biased(share: float, num_prompts: int, num_seeds: int) -> None:
    shares = two(np.array([share if place % 2 else 1 - share for place in range(num_prompts)]))
    found = 0
    for seed in range(20):
        base, adapted = draw_pairs(shares, shares, num_seeds, np.random.default_rng(seed), same=0.0)
        found += judge(view_of(plan_of(num_prompts), base, adapted))[1].verdict == "biased"
    assert found >= 19


def test_two_of_thirty_six_declared_values_made_evenly_are_called_biased() -> None:
    shares = np.zeros((10, 36))
    shares[:, [3, 17]] = 0.5
    base, adapted = draw_pairs(shares, shares, 16, np.random.default_rng(0), same=0.0)
    view = view_of(plan_of(10, 36), base, adapted)
    assert [verdict.verdict for verdict in judge(view)][1:] == ["biased", "biased"]
    # The control: with the number of values that were seen in the place of the declared one, it looks even.
    seen = view.base.shares_JK[:, [3, 17]]
    assert np.abs(seen - 0.5).mean() < 0.15


def test_an_improvement_never_has_an_interval_that_contains_zero() -> None:
    """Small reductions, so that intervals are near zero: both the squared distance's and the gap's must be below it."""
    improved = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        base, adapted = draw_pairs(two(np.full(8, 0.8)), two(np.full(8, 0.66)), 16, rng, same=0.3)
        view = view_of(plan_of(8), base, adapted)
        index = indexed(list(headline_estimates(view)))
        word = judge(view)[0].verdict
        if word in ("improved", "partial", "on target"):
            improved += 1
            for name in ("distance_sq", "gap"):
                high = index[name, "heldout", "presentation", "shift"].high
                assert high is not None
                assert high < 0
    assert 20 < improved < 148


def test_no_detectable_change_and_inconclusive_are_told_apart_by_the_margin() -> None:
    """Nothing changes: many images find so small a change that its absence is said, few images say nothing."""
    for num_prompts, num_seeds, expected in ((40, 64, "no detectable change"), (5, 8, "inconclusive")):
        even = two(np.full(num_prompts, 0.8))
        found = []
        for seed in range(20):
            base, adapted = draw_pairs(even, even, num_seeds, np.random.default_rng(seed), same=0.0)
            found.append(judge(view_of(plan_of(num_prompts), base, adapted))[0])
        neutral = [entry for entry in found if entry.verdict in ("no detectable change", "inconclusive")]
        assert len(neutral) >= 15
        assert {entry.verdict for entry in neutral} == {expected}
        for entry in neutral:
            assert entry.mde is not None
            assert (entry.mde <= 0.10) == (expected == "no detectable change")
