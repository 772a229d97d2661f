"""What happened to single prompts and pairs: who changed, towards the target or away, and what crossed it.

Letters: J prompts, N images, K values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from evenhand.analysis.estimates import one_share, scope_of
from evenhand.analysis.suite_shares import BOTH, SuiteShares
from evenhand.analysis.tables import Floats
from evenhand.records import Estimate
from evenhand.stats.intervals import Interval
from evenhand.stats.multiplicity import holm
from evenhand.stats.over_prompts import share_interval
from evenhand.stats.paired import change_shares, mcnemar
from evenhand.stats.permutation import label_swap

# Random labels drawn for one permutation test; more images get fewer swaps, but never fewer than the least.
MOST_LABELS, MOST_SWAPS, LEAST_SWAPS = 4_000_000, 9_999, 999


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTest:
    """Whether one concept's shares changed; ``changed`` when Holm's adjusted p value over the suite is below alpha."""

    suite: str
    attribute: str
    concept: str
    p: float
    p_holm: float
    changed: bool
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationTest:
    """Whether the arms' distributions differ at all on these prompts."""

    suite: str
    attribute: str
    statistic: str
    value: float | None
    p: float | None
    swaps: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overshoot:
    """A concept whose share of a value went from one side of the target to beyond the margin on the other."""

    suite: str
    attribute: str
    concept: str
    value: str
    target: float
    base: float
    adapted: float
    margin: float


def pair_estimates(view: SuiteShares) -> Iterator[Estimate]:
    """``changed``, ``toward`` and ``away``: shares of same-seed pairs; ``phi``: how alike they stay."""
    if not view.paired:
        return
    rows: dict[str, list[Floats]] = {"changed": [], "toward": [], "away": []}
    concepts: dict[str, list[str]] = {name: [] for name in rows}
    for place, (base, adapted) in enumerate(
        zip(view.compared_base.prompts, view.compared_adapted.prompts, strict=True)
    ):
        target_K = view.targets_JK[place]
        if not len(base.images_NK):
            continue
        has_target = not np.isnan(target_K[0])
        found = change_shares(base.images_NK, adapted.images_NK, np.where(np.isnan(target_K), 0.0, target_K))
        for name, values_N in zip(rows, found, strict=True):
            if has_target or name == "changed":
                rows[name].append(values_N)
                concepts[name].append(view.prompts[place].concept)
    for name, entries in rows.items():
        means_J = np.array([values_N.mean() for values_N in entries])
        images = sum(len(values_N) for values_N in entries)
        if not entries and name != "changed":
            continue
        interval = share_interval(means_J, concepts[name], n_images=images, level=view.plan.level)
        yield scope_of(view).estimate(name, BOTH, interval, view.compared_adapted)
    how = "correlation of same-seed pairs within prompts"
    phi = Interval(view.phi, None, None, how if view.phi is not None else f"not estimable: an arm is constant; {how}")
    yield scope_of(view).estimate("phi", BOTH, phi, view.compared_adapted)


def prompt_tests(view: SuiteShares) -> list[PromptTest]:
    """A test of every concept in a suite that was read in both arms, with Holm's adjustment over the suite."""
    tests: list[tuple[str, float, str]] = []
    for concept in dict.fromkeys(view.concepts):
        part = view.of_concept(concept)
        if not part.compared_base.num_read or not part.compared_adapted.num_read:
            continue
        base_NK, adapted_NK = (
            np.concatenate([shares.images_NK for shares in arm.prompts])
            for arm in (part.compared_base, part.compared_adapted)
        )
        p, how = _concept_test(base_NK, adapted_NK, paired=view.paired)
        tests.append((concept, p, how))
    adjusted = holm([p for _, p, _ in tests]) if tests else np.zeros(0)
    return [
        PromptTest(
            suite=view.suite,
            attribute=view.attribute,
            concept=concept,
            p=p,
            p_holm=float(p_holm),
            changed=bool(p_holm < view.plan.alpha),
            how=how,
        )
        for (concept, p, how), p_holm in zip(tests, adjusted, strict=True)
    ]


def _concept_test(base_NK: Floats, adapted_NK: Floats, *, paired: bool) -> tuple[float, str]:
    """The smallest p value over values, times their number (two values are one question)."""
    columns = base_NK.shape[1] if base_NK.shape[1] > 2 else 1
    whole = bool(np.all((base_NK == 0) | (base_NK == 1)) and np.all((adapted_NK == 0) | (adapted_NK == 1)))
    test: Callable[[Floats, Floats], float]
    if paired:
        test, how = (_mcnemar, "mid-p McNemar") if whole else (_t_paired, "paired t over images")
    else:
        test, how = (_fisher, "unpaired: Fisher") if whole else (_t_unpaired, "unpaired: Welch over images")
    least = min(test(base_NK[:, index], adapted_NK[:, index]) for index in range(columns))
    return min(1.0, columns * least), how if columns == 1 else f"{how}, smallest of {columns} values (Bonferroni)"


def _mcnemar(base_N: Floats, adapted_N: Floats) -> float:
    return mcnemar(int(np.sum(adapted_N > base_N)), int(np.sum(adapted_N < base_N)))


def _fisher(base_N: Floats, adapted_N: Floats) -> float:
    table = [[int(arm.sum()), len(arm) - int(arm.sum())] for arm in (base_N, adapted_N)]
    return float(stats.fisher_exact(table).pvalue)


def _t_paired(base_N: Floats, adapted_N: Floats) -> float:
    change_N = adapted_N - base_N
    if len(change_N) < 2 or change_N.std() == 0:
        return 1.0
    t = float(change_N.mean()) / (float(change_N.std(ddof=1)) / len(change_N) ** 0.5)
    return float(2 * special.stdtr(len(change_N) - 1, -abs(t)))


def _t_unpaired(base_N: Floats, adapted_N: Floats) -> float:
    if min(len(base_N), len(adapted_N)) < 2 or (base_N.std() == 0 and adapted_N.std() == 0):
        return 1.0
    return float(stats.ttest_ind(adapted_N, base_N, equal_var=False).pvalue)


def permutation_test(view: SuiteShares) -> PermutationTest:
    """Labels of the arms swapped within pairs (or dealt anew, unpaired); the statistic is the mean TV of the arms.

    The arms go in in an order that depends on the images only, so that the p value does not depend on their names.
    """
    arms = [[shares.images_NK for shares in arm.prompts] for arm in (view.compared_base, view.compared_adapted)]
    both = [place for place in range(len(arms[0])) if len(arms[0][place]) and len(arms[1][place])]
    arms = sorted(([arm[place] for place in both] for arm in arms), key=lambda arm: [part.tobytes() for part in arm])
    if view.paired:
        k = len(view.values)
        labels = sum(min(len(one), k * (k - 1) // 2) for one in arms[0])
    else:
        labels = 8 * sum(len(one) + len(other) for one, other in zip(*arms, strict=True))
    swaps = int(np.clip(MOST_LABELS // max(1, labels), LEAST_SWAPS, MOST_SWAPS))
    found = label_swap(arms[0], arms[1], statistic="tv", paired=view.paired, swaps=swaps)
    return PermutationTest(
        suite=view.suite,
        attribute=view.attribute,
        statistic=found.statistic,
        value=found.value,
        p=found.p,
        swaps=found.swaps,
        how=found.how,
    )


def overshoots(view: SuiteShares, margin: float) -> list[Overshoot]:
    """Concepts that crossed their target by more than the margin, with both arms' intervals clear of it.

    The intervals hold at once over the concepts (Bonferroni): a list of forty has no false entry by chance.
    """
    concepts = list(dict.fromkeys(view.concepts))
    level = 1 - view.plan.alpha / max(1, len(concepts))
    found = []
    for concept in concepts:
        part = view.of_concept(concept)
        target_K = part.targets_JK[0]
        if np.isnan(target_K[0]) or not part.compared_base.num_read or not part.compared_adapted.num_read:
            continue
        arms = (part.compared_base, part.compared_adapted)
        means = [arm.shares_JK[arm.read_J > 0].mean(axis=0) - target_K for arm in arms]
        columns = np.flatnonzero(means[0] * means[1] < 0)
        for index in columns[:1] if len(view.values) == 2 else columns:
            base, adapted = (
                one_share(np.concatenate(arm.column(index)), level)
                for arm in (part.compared_base, part.compared_adapted)
            )
            if crossed(base, adapted, float(target_K[index]), margin):
                assert base.value is not None
                assert adapted.value is not None
                found.append(
                    Overshoot(
                        suite=view.suite,
                        attribute=view.attribute,
                        concept=concept,
                        value=view.values[index],
                        target=float(target_K[index]),
                        base=base.value,
                        adapted=adapted.value,
                        margin=margin,
                    )
                )
    return found


def crossed(base: Interval | Estimate, adapted: Interval | Estimate, target: float, margin: float) -> bool:
    """Whether a share's interval lies on one side of the target in the base, and beyond the margin on the other."""
    if base.low is None or base.high is None or adapted.low is None or adapted.high is None:
        return False
    up = base.high < target and adapted.low > target + margin
    down = base.low > target and adapted.high < target - margin
    return up or down


def clear_concepts(view: SuiteShares, names: Sequence[str]) -> bool:
    """Whether more than half of the concepts that have a target are among ``names``."""
    known = [
        prompt.concept
        for prompt, target_K in zip(view.prompts, view.targets_JK, strict=True)
        if not np.isnan(target_K[0])
    ]
    return bool(known) and 2 * len(set(names) & set(known)) > len(set(known))
