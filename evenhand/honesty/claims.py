"""What may be claimed of progress, of single prompts, and of what could have been found at all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import (
    NUM_PROMPTS,
    NUM_SEEDS,
    excludes,
    number,
    shares_of,
    shift_of,
    t_excludes_zero,
)
from evenhand.honesty.folders import (
    ARMS,
    BOTH,
    SHIFT,
    TWO,
    analysed,
    drawn,
    plan_of,
    prompts,
    readings_of,
    spread_shares,
    two_shares,
)
from evenhand.honesty.outcome import Figure, Outcome, exactly, mean_of, naive_rejections, rejections, true


class Direction(NamedTuple):
    """What is said of progress where there is none."""

    distance: float
    distance_found: bool
    pairs: float
    naive: float
    naive_found: bool


def no_progress(rng: np.random.Generator) -> Direction:
    """One A/A evaluation, and what it says of movement towards the target."""
    asked = prompts(NUM_PROMPTS)
    plan = plan_of(asked, attributes={"two": TWO})
    shares_JK = two_shares(rng.beta(4.0, 4.0, NUM_PROMPTS))
    labels = {arm: drawn(rng, shares_JK, num_seeds=NUM_SEEDS) for arm in ARMS}
    results = analysed(plan, readings_of(asked, labels, attribute="two", values=TWO))
    distance = shift_of(results, "distance_sq", attribute="two")
    pairs = [number(shift_of(results, name, attribute="two", arm=BOTH).value) for name in ("toward", "away")]
    base_J, adapted_J = (shares_of(labels[arm], 2)[:, 0] for arm in ARMS)
    gains_J = np.sign(0.5 - base_J) * (adapted_J - base_J)
    return Direction(
        distance=number(distance.value),
        distance_found=excludes(distance),
        pairs=pairs[0] - pairs[1],
        naive=float(gains_J.mean()),
        naive_found=t_excludes_zero(gains_J),
    )


def check_direction(bench: Bench) -> Outcome:
    """Base against base: no progress may appear because the direction was read off the same images."""
    runs = bench.repeat(no_progress, runs=bench.runs())
    return Outcome(
        figures=(
            mean_of("change of squared distance to target", [run.distance for run in runs], truth=0.0),
            mean_of("pairs that moved toward it, less those away", [run.pairs for run in runs], truth=0.0),
            rejections("change of squared distance found", [run.distance_found for run in runs]),
            naive_rejections("direction from the base's images", [run.naive_found for run in runs]),
            Figure(
                label="  naive mean gain", value=float(np.mean([run.naive for run in runs])), low=0.01, note="not 0"
            ),
        )
    )


class Marks(NamedTuple):
    """Whether any prompt was marked as changed."""

    holm: bool
    uncorrected: bool
    num_tests: int


def null_prompts(rng: np.random.Generator) -> Marks:
    """One A/A evaluation of 40 prompts, each tested."""
    asked = prompts(NUM_PROMPTS)
    plan = plan_of(asked, attributes={"two": TWO})
    shares_JK = two_shares(rng.beta(3.0, 3.0, NUM_PROMPTS))
    labels = {arm: drawn(rng, shares_JK, num_seeds=NUM_SEEDS) for arm in ARMS}
    results = analysed(plan, readings_of(asked, labels, attribute="two", values=TWO))
    tests = results.prompt_tests
    return Marks(
        holm=any(test.changed for test in tests),
        uncorrected=any(test.p <= plan.alpha for test in tests),
        num_tests=len(tests),
    )


def check_multiplicity(bench: Bench) -> Outcome:
    """Forty prompts in which nothing changed: Holm's marks."""
    runs = bench.repeat(null_prompts, runs=bench.runs())
    return Outcome(
        figures=(
            rejections("any of 40 null prompts marked", [run.holm for run in runs]),
            exactly("prompts tested", float(runs[0].num_tests), NUM_PROMPTS),
            naive_rejections("without correction", [run.uncorrected for run in runs]),
        )
    )


def check_mde(bench: Bench) -> Outcome:
    """The effect that the report calls detectable is detected about as often as it says."""
    found = bench.repeat(detected, runs=bench.runs(full=500))
    share = float(np.mean(found))
    low, high = stats.binom.ppf([0.005, 0.995], len(found), 0.80) / len(found)
    return Outcome(
        figures=(
            Figure(
                label="printed MDE found",
                value=share,
                low=min(0.75, low),
                high=max(0.85, high),
                note=f"{len(found)} runs",
            ),
            true("an MDE was printed", bool(found)),
        )
    )


def detected(rng: np.random.Generator) -> bool:
    """Whether an evaluation finds the shift that another of the same kind called its minimal detectable effect."""
    asked = prompts(NUM_PROMPTS)
    plan = plan_of(asked, attributes={"two": TWO})
    effect = None
    for adds in (0.0, None):
        delta = 0.0 if adds is not None else number(effect)
        base_J, adapted_J = spread_shares(rng, (0.35, 0.35 + delta), 0.10, count=NUM_PROMPTS)
        labels = {
            arm: drawn(rng, two_shares(shares), num_seeds=NUM_SEEDS)
            for arm, shares in zip(ARMS, (base_J, adapted_J), strict=True)
        }
        results = analysed(plan, readings_of(asked, labels, attribute="two", values=TWO))
        (effect,) = [verdict.mde for verdict in results.verdicts if verdict.arm == SHIFT]
    return excludes(shift_of(results, "share:a", attribute="two"))
