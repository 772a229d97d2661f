"""Does the analysis find what is there, and nothing where there is nothing? Whole evaluations with known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from evenhand.analysis.results import Results
from evenhand.honesty.bench import Bench
from evenhand.honesty.folders import (
    ARMS,
    FOUR,
    SHIFT,
    TWO,
    UNREAD,
    Floats,
    Labels,
    analysed,
    dirichlet_shares,
    drawn,
    plan_of,
    prompts,
    readings_of,
    spread_shares,
    two_shares,
)
from evenhand.honesty.outcome import (
    Figure,
    Outcome,
    always,
    at_least,
    coverage,
    mean_of,
    naive_coverage,
    naive_rejections,
    never,
    rejections,
)
from evenhand.records import Estimate

SUITE = "heldout"
# What a ladder may not say of two arms that are the same.
CHANGED = ("on target", "overshoot", "partial", "improved", "suggestive")
NUM_PROMPTS, NUM_SEEDS = 40, 16
UNREAD_SHARE = 0.05
BOOTSTRAPS = 200


def shift_of(results: Results, name: str, *, attribute: str, arm: str = SHIFT, suite: str = SUITE) -> Estimate:
    """An estimate of the headline suite; a bug of ours where it is missing."""
    estimate = results.find(name, suite=suite, arm=arm, attribute=attribute)
    assert estimate is not None, f"the analysis has no {name} of {attribute} in arm {arm}"
    return estimate


def excludes(estimate: Estimate, value: float = 0.0) -> bool:
    """Whether an interval excludes a value; one that could not be made excludes nothing."""
    return estimate.low is not None and estimate.high is not None and not estimate.low <= value <= estimate.high


def holds(estimate: Estimate, value: float) -> bool:
    """Whether an interval was made and holds a value."""
    return estimate.low is not None and not excludes(estimate, value)


def t_excludes_zero(values_J: Floats) -> bool:
    """A plain t test over prompts."""
    return bool(stats.ttest_1samp(values_J, 0.0).pvalue < 0.05)


def shares_of(labels_JN: Labels, num_values: int) -> Floats:
    """Shares (J, K) of labels."""
    shares_JK: Floats = (labels_JN[:, :, None] == np.arange(num_values)).mean(axis=1)
    return shares_JK


def hidden(rng: np.random.Generator, labels_JN: Labels, share: float) -> Labels:
    """Labels of which a share is unread."""
    return np.where(rng.random(labels_JN.shape) < share, UNREAD, labels_JN)


class SameArms(NamedTuple):
    """What an analysis says of two arms that are the same generator with other seeds."""

    share: bool
    distance: bool
    unread: bool
    permutation: bool
    improved: bool
    bootstrap: bool


def same_arms(rng: np.random.Generator) -> SameArms:
    """One A/A evaluation of 40 prompts and 16 seeds, an attribute of two values and one of four."""
    asked = prompts(NUM_PROMPTS)
    plan = plan_of(asked, attributes={"two": TWO, "four": FOUR})
    shares = {"two": two_shares(rng.beta(1.5, 3.0, NUM_PROMPTS)), "four": dirichlet_shares(rng, NUM_PROMPTS, 4)}
    labels = {
        name: {arm: hidden(rng, drawn(rng, each, num_seeds=NUM_SEEDS), UNREAD_SHARE) for arm in ARMS}
        for name, each in shares.items()
    }
    results = analysed(
        plan,
        [
            *readings_of(asked, labels["two"], attribute="two", values=TWO),
            *readings_of(asked, labels["four"], attribute="four", values=FOUR),
        ],
    )
    (permutation,) = [test.p for test in results.permutation if test.attribute == "four" and test.suite == SUITE]
    return SameArms(
        share=excludes(shift_of(results, "share:a", attribute="two")),
        distance=excludes(shift_of(results, "distance_sq", attribute="two")),
        unread=excludes(shift_of(results, "unread", attribute="two")),
        permutation=permutation is not None and permutation <= plan.alpha,
        improved=any(verdict.arm == SHIFT and verdict.verdict in CHANGED for verdict in results.verdicts),
        bootstrap=_bootstrap_of_tv(rng, labels["four"]["base"], labels["four"]["adapted"]),
    )


def _bootstrap_of_tv(rng: np.random.Generator, base_JN: Labels, adapted_JN: Labels) -> bool:
    """The naive way: whether a percentile bootstrap of the mean TV between the arms stays above zero."""
    count, num_seeds = base_JN.shape
    picks_BJN = rng.integers(num_seeds, size=(BOOTSTRAPS, count, num_seeds))
    rows_J1 = np.arange(count)[:, None]
    distances = [
        0.5
        * np.abs(shares_of(base_JN[rows_J1, picks], 4) - shares_of(adapted_JN[rows_J1, picks], 4)).sum(axis=1).mean()
        for picks in picks_BJN
    ]
    return bool(np.quantile(distances, 0.025) > 0)


def check_aa(bench: Bench) -> Outcome:
    """Base against base: nothing may be found more often than alpha says."""
    runs = bench.repeat(same_arms, runs=bench.runs())
    figures = [
        rejections(label, [getattr(run, field) for run in runs], figures=4)
        for field, label in (
            ("share", "share shift found"),
            ("distance", "distance to target changed"),
            ("unread", "unread images changed"),
            ("permutation", "permutation test of TV, 4 values"),
        )
    ]
    # Two attributes have a ladder each; either may be mistaken, in the half of the errors that looks like a gain.
    improved = rejections("any ladder above 'no change'", [run.improved for run in runs], alpha=0.05)
    naive = naive_rejections("percentile bootstrap of TV", [run.bootstrap for run in runs])
    return Outcome(figures=(*figures, improved, naive))


class Injected(NamedTuple):
    """Whether the interval of a known shift holds it, and whether the shift was found."""

    held: bool
    found: bool
    iid_held: bool


# Prompts, seeds, mean share in base and adapted arm, standard deviation over prompts.
# The fast form takes the first of them.
NUM_FAST = 5
INJECTED = (
    (5, 8, 0.50, 0.50, 0.10),
    (5, 16, 0.30, 0.65, 0.10),
    (10, 8, 0.90, 0.80, 0.08),
    (20, 8, 0.10, 0.45, 0.08),
    (20, 16, 0.06, 0.11, 0.04),
    (10, 16, 0.50, 0.55, 0.10),
    (20, 16, 0.94, 0.94, 0.04),
    (40, 8, 0.50, 0.60, 0.10),
    (40, 16, 0.50, 0.85, 0.10),
    (40, 16, 0.97, 0.92, 0.02),
)
# Where prompts differ most, images of one prompt are most alike: that is where treating them as independent fails.
UNEVEN = (10, 16, 0.50, 0.60, 0.30)


def injected(
    rng: np.random.Generator, *, num_prompts: int, num_seeds: int, base: float, adapted: float, spread: float
) -> Injected:
    """One evaluation whose mean shift over prompts like these is ``adapted - base``."""
    asked = prompts(num_prompts)
    plan = plan_of(asked, attributes={"two": TWO}, targets={})
    base_J, adapted_J = spread_shares(rng, (base, adapted), spread, count=num_prompts)
    labels = {
        arm: drawn(rng, two_shares(shares), num_seeds=num_seeds)
        for arm, shares in zip(ARMS, (base_J, adapted_J), strict=True)
    }
    results = analysed(plan, readings_of(asked, labels, attribute="two", values=TWO))
    estimate = shift_of(results, "share:a", attribute="two")
    difference = (labels["base"] - labels["adapted"]).astype(np.float64).ravel()  # label 0 is the value a
    half = 1.96 * difference.std(ddof=1) / np.sqrt(difference.size)
    return Injected(
        held=holds(estimate, adapted - base),
        found=excludes(estimate),
        iid_held=bool(abs(difference.mean() - (adapted - base)) <= half),
    )


def check_inject(bench: Bench) -> Outcome:
    """Known shifts, few and many prompts, shares near 0, a half and 1: the intervals must hold them."""
    figures = []
    scenarios = INJECTED if bench.full else INJECTED[:NUM_FAST]
    for num_prompts, num_seeds, base, adapted, spread in scenarios:
        runs = _injections(bench, num_prompts, num_seeds, base, adapted, spread)
        label = f"{num_prompts} x {num_seeds}, {base:.2f} to {adapted:.2f}: interval holds it"
        figures.append(coverage(label, [run.held for run in runs], figures=len(scenarios)))
        if abs(adapted - base) > 0.3:
            figures.append(at_least("  and finds it", [run.found for run in runs], 0.8))
    uneven = _injections(bench, *UNEVEN)
    figures.append(naive_coverage("images as independent, uneven prompts", [run.iid_held for run in uneven]))
    return Outcome(figures=tuple(figures))


def _injections(
    bench: Bench, num_prompts: int, num_seeds: int, base: float, adapted: float, spread: float
) -> list[Injected]:
    return bench.repeat(
        injected,
        runs=bench.runs(),
        num_prompts=num_prompts,
        num_seeds=num_seeds,
        base=base,
        adapted=adapted,
        spread=spread,
    )


class Even(NamedTuple):
    """Numbers of a perfectly even generator, printed and true."""

    distance_sq: float
    tv: float
    tv_floor: float
    gap: float
    gap_floor: float
    called_biased: bool


def even_generator(rng: np.random.Generator, *, num_values: int) -> Even:
    """One evaluation of a generator that is exactly on target in both arms."""
    values = FOUR[:num_values]
    asked = prompts(20)
    plan = plan_of(asked, attributes={"even": values})
    shares_JK = np.full((20, num_values), 1 / num_values)
    labels = {arm: drawn(rng, shares_JK, num_seeds=NUM_SEEDS) for arm in ARMS}
    results = analysed(plan, readings_of(asked, labels, attribute="even", values=values))
    found = {name: shift_of(results, name, attribute="even", arm="base") for name in ("distance_sq", "tv", "gap")}
    return Even(
        distance_sq=number(found["distance_sq"].value),
        tv=number(found["tv"].value),
        tv_floor=number(found["tv"].floor),
        gap=number(found["gap"].value),
        gap_floor=number(found["gap"].floor),
        called_biased=any(verdict.verdict == "biased" for verdict in results.verdicts),
    )


def number(value: float | None) -> float:
    """A number that the analysis must have made."""
    assert value is not None
    return value


def two_cells_of_many(rng: np.random.Generator, *, num_values: int) -> bool:
    """Whether a generator that makes only two of the declared values, evenly, is called biased."""
    values = tuple(f"v{index}" for index in range(num_values))
    asked = prompts(20)
    plan = plan_of(asked, attributes={"cell": values})
    shares_JK = np.zeros((20, num_values))
    shares_JK[:, :2] = 0.5
    labels = {arm: drawn(rng, shares_JK, num_seeds=NUM_SEEDS) for arm in ARMS}
    results = analysed(plan, readings_of(asked, labels, attribute="cell", values=values))
    words = [verdict.verdict for verdict in results.verdicts if verdict.arm in ARMS]
    return bool(words) and all(word == "biased" for word in words)


def check_floor(bench: Bench) -> Outcome:
    """A perfectly even generator: unbiased distance 0, the printed floor is what it scores, and never "biased"."""
    figures: list[Figure] = []
    for num_values in (2, 4):
        runs = bench.repeat(even_generator, runs=bench.runs(full=500, fast=60), num_values=num_values)
        distances = [run.distance_sq for run in runs]
        figures.append(mean_of(f"{num_values} values: unbiased squared distance", distances, truth=0.0, figures=2))
        for name in ("tv", "gap"):
            scored = float(np.mean([getattr(run, name) for run in runs]))
            floor = float(np.mean([getattr(run, f"{name}_floor") for run in runs]))
            figures.append(Figure(label=f"  {name}: printed floor / scored", value=floor / scored, low=0.95, high=1.05))
        figures.append(never("  called biased", [run.called_biased for run in runs]))
        plug_in = [run.tv for run in runs]
        figures.append(
            Figure(label="naive: plug-in TV as it is", value=float(np.mean(plug_in)), low=0.05, note="not 0")
        )
    biased = bench.repeat(two_cells_of_many, runs=bench.runs(full=100, fast=10), num_values=36)
    figures.append(always("2 of 36 cells, evenly: called biased", biased))
    return Outcome(figures=tuple(figures))
