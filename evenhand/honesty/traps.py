"""Ways in which the field's numbers went wrong: pooling, faces for images, segregated groups, peeking, p > 0.05."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from evenhand.analysis.results import Results
from evenhand.evaluation.plan import Plan
from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import holds, shift_of
from evenhand.honesty.folders import (
    ARMS,
    MARGINS,
    SHIFT,
    TWO,
    Floats,
    analysed,
    drawn,
    plan_of,
    prompts,
    reading,
    readings_of,
    two_shares,
)
from evenhand.honesty.outcome import (
    Figure,
    Outcome,
    at_least,
    coverage,
    naive_coverage,
    naive_rejections,
    never,
    rejections,
)
from evenhand.records import Prompt, Reading
from evenhand.stats.equivalence import tost_paired_shares
from evenhand.stats.fair_diffusion import FAIR_DIFFUSION, FAIR_DIFFUSION_GOLDEN
from evenhand.stats.groups import subject_share
from evenhand.stats.intervals import Interval, wilson
from evenhand.stats.paired import mcnemar
from evenhand.stats.sequential import Betting

ROUNDING = 5e-6  # the golden figures have five decimals


def opposite(rng: np.random.Generator) -> tuple[float, float, float]:
    """Gap, pooled gap and plug-in pooled gap of a generator at 2 % for half of the prompts and 98 % for the others."""
    asked = prompts(20)
    plan = plan_of(asked, attributes={"two": TWO})
    shares_JK = two_shares(np.where(np.arange(20) % 2 == 0, 0.02, 0.98))
    labels = {arm: drawn(rng, shares_JK, num_seeds=50) for arm in ARMS}
    results = analysed(plan, readings_of(asked, labels, attribute="two", values=TWO))
    gap, pooled = (shift_of(results, name, attribute="two", arm="base").value for name in ("gap", "gap_pooled"))
    assert gap is not None
    assert pooled is not None
    return gap, pooled, abs(2 * float((labels["base"] == 0).mean()) - 1)


def check_pooling(bench: Bench) -> Outcome:
    """Mechanics at 2 % and nurses at 98 %: the gap is 0.96, whatever all images together say."""
    gaps, pooled, naive = zip(*bench.repeat(opposite, runs=20), strict=True)
    return Outcome(
        figures=(
            Figure(label="gap, per prompt", value=float(np.mean(gaps)), low=0.955, high=0.965),
            Figure(label="gap_pooled, secondary", value=float(np.mean(pooled)), high=0.05),
            Figure(label="naive: all images together", value=float(np.mean(naive)), high=0.05, note="hides it"),
        )
    )


def fair_diffusion() -> tuple[Plan, list[Reading]]:
    """Published counts of occupations as an evaluation with unequal numbers of unpaired images."""
    asked = prompts(len(FAIR_DIFFUSION))
    plan = plan_of(asked, attributes={"two": TWO}, paired=False)
    readings = [
        reading(prompt.id, seed, arm, "two", TWO[seed >= men])
        for prompt, row in zip(asked, FAIR_DIFFUSION, strict=True)
        for arm, men, women in ((ARMS[0], row[0], row[1]), (ARMS[1], row[2], row[3]))
        for seed in range(men + women)
    ]
    return plan, readings


def check_golden(bench: Bench) -> Outcome:
    """Counts that others published give the figures that others computed from them."""
    plan, readings = fair_diffusion()
    results = analysed(plan, readings)
    figures = []
    for name, expected in FAIR_DIFFUSION_GOLDEN.items():
        for arm, number in zip(ARMS, expected, strict=True):
            value = shift_of(results, name, attribute="two", arm=arm).value
            # Of two values the squared gap is twice the squared distance to even.
            shown = math.nan if value is None else value * (math.sqrt(2) if name == "rms" else 1.0)
            label = "gap, unbiased root mean square" if name == "rms" else name
            figures.append(Figure(label=f"{label}, {arm}", value=shown, low=number - ROUNDING, high=number + ROUNDING))
    return Outcome(figures=tuple(figures))


class Crowd(NamedTuple):
    """Whether intervals of a share over group images hold it."""

    stats_held: bool
    analysis_held: bool
    naive_held: bool


CROWD_SHARE, CROWD_ICC = 0.5, 0.3


def crowds(rng: np.random.Generator) -> Crowd:
    """Sixty images of 2 to 8 people whose likeness within an image has an intraclass correlation of 0.3.

    The share of an image is beta with mean 0.5; a beta-binomial's correlation is ``1 / (a + b + 1)``.
    """
    asked = prompts(20, suite="groups")
    plan = plan_of(asked, attributes={"two": TWO})
    total = 1 / CROWD_ICC - 1
    readings, counts = [], []
    for arm in ARMS:
        for prompt in asked:
            for seed in range(3):
                share = rng.beta(CROWD_SHARE * total, (1 - CROWD_SHARE) * total)
                people = rng.random(int(rng.integers(2, 9))) < share
                readings += [
                    reading(prompt.id, seed, arm, "two", TWO[not one], subject=number)
                    for number, one in enumerate(people.tolist())
                ]
                if arm == ARMS[0]:
                    counts.append([int(people.sum()), int((~people).sum())])
    counts_NK: Floats = np.array(counts, dtype=np.float64)
    interval = subject_share(counts_NK, 0, level=plan.level)
    naive = wilson(int(counts_NK[:, 0].sum()), int(counts_NK.sum()), level=plan.level)
    analysis = shift_of(analysed(plan, readings), "subject_share:a", attribute="two", arm="base", suite="groups")
    return Crowd(
        stats_held=_within(interval.low, interval.high),
        analysis_held=holds(analysis, CROWD_SHARE),
        naive_held=_within(naive.low, naive.high),
    )


def _within(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= CROWD_SHARE <= high


def check_groups(bench: Bench) -> Outcome:
    """Several people an image: the image is what was drawn, not the face."""
    runs = bench.repeat(crowds, runs=bench.runs())
    return Outcome(
        figures=(
            coverage("60 images of 2 to 8, ratio estimator", [run.stats_held for run in runs], figures=2),
            coverage("the report's share of subjects", [run.analysis_held for run in runs], figures=2),
            naive_coverage("Wilson over faces", [run.naive_held for run in runs]),
        )
    )


def groups_results(rng: np.random.Generator, *, segregated: bool, num_seeds: int = 16) -> Results:
    """Groups of four: all alike in base, and with the adapter at 50:50, mixed or all alike in each image."""
    asked = prompts(20, suite="groups")
    plan = plan_of(asked, attributes={"two": TWO})
    readings = []
    for prompt in asked:
        for seed in range(num_seeds):
            first = rng.random(4) < 0.1
            second = np.full(4, rng.random() < 0.5) if segregated else rng.random(4) < 0.5
            for arm, people in zip(ARMS, (first, second), strict=True):
                readings += [
                    reading(prompt.id, seed, arm, "two", TWO[not one], subject=number)
                    for number, one in enumerate(people.tolist())
                ]
    return analysed(plan, readings)


def check_segregated(bench: Bench) -> Outcome:
    """All-women or all-men groups at 50:50 are on target face by face, and no verdict may take them for even."""
    figures = []
    for segregated, label in ((True, "segregated"), (False, "mixed")):
        results = groups_results(np.random.default_rng(bench.seed), segregated=segregated)
        share = shift_of(results, "subject_share:a", attribute="two", arm=ARMS[1], suite="groups").value
        mix = shift_of(results, "within_mix", attribute="two", arm=ARMS[1], suite="groups").value
        words = [verdict.verdict for verdict in results.verdicts if verdict.arm == SHIFT]
        figures.append(Figure(label=f"{label}: share of subjects", value=_number(share), low=0.42, high=0.58))
        if segregated:
            figures.append(Figure(label="  within-image mix", value=_number(mix), high=0.02))
            figures.append(never("  verdict on target", [word == "on target" for word in words]))
        else:
            figures.append(Figure(label="  within-image mix", value=_number(mix), low=0.45, high=0.55))
    return Outcome(figures=tuple(figures))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class Stopped(NamedTuple):
    """Where a run with a look after every seed ended."""

    found: bool
    held: bool
    peeked: bool


MAX_BATCHES = 25


def stopped(rng: np.random.Generator, *, effect: float) -> Stopped:
    """Look after every seed over 20 prompts, and stop as soon as a change is shown."""
    base_J = rng.uniform(0.15, 0.85 - max(0.0, effect), 20)
    betting = Betting(alpha=0.05)
    gained = lost = 0
    found = peeked = False
    interval = Interval(None, None, None, "no image yet")
    for _ in range(MAX_BATCHES):
        base = rng.random(20) < base_J
        adapted = rng.random(20) < base_J + effect
        betting.update(adapted.astype(np.float64) - base.astype(np.float64))
        gained, lost = gained + int((adapted & ~base).sum()), lost + int((base & ~adapted).sum())
        peeked = peeked or mcnemar(gained, lost) <= 0.05
        if not found:
            found = betting.stop() == "changed"
            interval = betting.confidence_sequence() if found else interval
    if not found:
        interval = betting.confidence_sequence()
    return Stopped(found=found, held=_number(interval.low) <= effect <= _number(interval.high), peeked=peeked)


def check_optional_stopping(bench: Bench) -> Outcome:
    """A look after every batch: early stopping may not find changes that are not there."""
    null = bench.repeat(stopped, runs=bench.runs(), effect=0.0)
    real = bench.repeat(stopped, runs=bench.runs(), effect=0.25)
    return Outcome(
        figures=(
            rejections("no shift, a look after every seed", [run.found for run in null]),
            coverage("confidence sequence at the stop", [run.held for run in real]),
            at_least("a shift of 0.25 found", [run.found for run in real], 0.9),
            naive_rejections("McNemar's test at every look", [run.peeked for run in null]),
        )
    )


class Harmless(NamedTuple):
    """What is said of a loss that is exactly the margin."""

    small: str
    large: str
    guard: bool
    naive: bool


OBEYED, MARGIN = 0.90, 0.05


def at_the_margin(rng: np.random.Generator) -> Harmless:
    """Obedience falls from 90 % to 85 %, and the margin is 5 points: 100 pairs, 20 pairs, and a whole guard."""
    lower = OBEYED - MARGIN
    verdicts = []
    for pairs in (20, 100):
        base, adapted = rng.random(pairs) < OBEYED, rng.random(pairs) < lower
        gained, lost = int((adapted & ~base).sum()), int((base & ~adapted).sum())
        verdicts.append(tost_paired_shares(gained, lost, pairs, low=-MARGIN, high=math.inf, alpha=0.05).verdict)
    asked = prompts(20, suite="heldout"), prompts(20, suite="explicit", expects=({"two": "a"}, {"two": "b"}))
    results = guarded(rng, *asked, lower=lower)
    (guard,) = [guard for guard in results.guards if guard.name == "explicit"]
    naive = mcnemar(gained, lost) > 0.05
    return Harmless(small=verdicts[0], large=verdicts[1], guard=guard.passed, naive=naive)


def guarded(
    rng: np.random.Generator,
    open_prompts: list[Prompt],
    explicit: list[Prompt],
    *,
    lower: float,
    rule: str = "interval",
    margin: float = MARGIN,
) -> Results:
    """An evaluation whose explicit prompts are obeyed in 90 % of the base's images, and then in ``lower``."""
    plan = plan_of(
        [*open_prompts, *explicit], attributes={"two": TWO}, margins={**MARGINS, "explicit": margin}, guard_rule=rule
    )
    labels = {arm: drawn(rng, np.full((len(open_prompts), 2), 0.5), num_seeds=4) for arm in ARMS}
    readings = readings_of(open_prompts, labels, attribute="two", values=TWO)
    for arm, share in zip(ARMS, (OBEYED, lower), strict=True):
        obeyed = rng.random((len(explicit), 8)) < share
        for prompt, row in zip(explicit, obeyed.tolist(), strict=True):
            assert prompt.expects is not None
            wanted = prompt.expects["two"]
            other = TWO[wanted == TWO[0]]
            readings += [
                reading(prompt.id, seed, arm, "two", wanted if right else other) for seed, right in enumerate(row)
            ]
    return analysed(plan, readings)


def check_tost(bench: Bench) -> Outcome:
    """A loss as large as the margin may not pass for none, and few images may not pass for proof."""
    runs = bench.repeat(at_the_margin, runs=bench.runs())
    return Outcome(
        figures=(
            rejections("100 pairs at the margin: within", [run.large == "within" for run in runs], figures=3),
            rejections("guard at the margin: held", [run.guard for run in runs], figures=3),
            rejections("20 pairs at the margin: within", [run.small == "within" for run in runs], figures=3),
            at_least("20 pairs: not settled", [run.small == "not settled" for run in runs], 0.9),
            naive_rejections("p > 0.05 as 'no harm'", [run.naive for run in runs]),
        )
    )
