"""Readers err, stay silent and differ: what the analysis then says, against what is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import CHANGED, excludes, holds, shift_of
from evenhand.honesty.folders import (
    ARMS,
    SHIFT,
    TWO,
    UNREAD,
    Floats,
    Labels,
    analysed,
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
    naive_coverage,
    never,
    rejections,
    true,
)
from evenhand.stats.audits import SUSPICIOUS, differential_error, prediction_powered
from evenhand.stats.measurement import corrected_shift, too_weak

LEVEL = 0.95
SENSITIVITY, SPECIFICITY, NUM_VALIDATED = 0.85, 0.95, 50


def misread(rng: np.random.Generator, labels: Labels, *, sensitivity: float, specificity: float) -> Labels:
    """What a reader says of labels of two values, of which 0 is the positive."""
    right = rng.random(labels.shape) < np.where(labels == 0, sensitivity, specificity)
    return np.where(right, labels, 1 - labels)


def one_hot(labels_JN: Labels, num_values: int) -> list[Floats]:
    """For each prompt, one row an image."""
    return [(labels_N[:, None] == np.arange(num_values)).astype(np.float64) for labels_N in labels_JN]


class Noisy(NamedTuple):
    """Whether intervals of a true shift hold it when the reader errs."""

    corrected: bool
    uncorrected: bool


def noisy_reader(rng: np.random.Generator) -> Noisy:
    """A shift from 5 % to 40 %, seen by a reader whose errors are known from 50 labelled images a value."""
    asked = prompts(40)
    plan = plan_of(asked, attributes={"two": TWO}, targets={})
    shares = spread_shares(rng, (0.05, 0.40), 0.04, count=40)
    read = [
        misread(rng, drawn(rng, two_shares(shares_J), num_seeds=16), sensitivity=SENSITIVITY, specificity=SPECIFICITY)
        for shares_J in shares
    ]
    found, kept = rng.binomial(NUM_VALIDATED, SENSITIVITY), rng.binomial(NUM_VALIDATED, SPECIFICITY)
    confusion_22 = np.array([[found, NUM_VALIDATED - found], [NUM_VALIDATED - kept, kept]], dtype=np.float64)
    corrected = corrected_shift(
        one_hot(read[0], 2), one_hot(read[1], 2), confusion_22, paired=True, level=LEVEL, seed=int(rng.integers(2**31))
    )[0]
    labels = dict(zip(ARMS, read, strict=True))
    uncorrected = shift_of(
        analysed(plan, readings_of(asked, labels, attribute="two", values=TWO)), "share:a", attribute="two"
    )
    held = corrected.low is not None and corrected.high is not None and corrected.low <= 0.35 <= corrected.high
    return Noisy(corrected=held, uncorrected=holds(uncorrected, 0.35))


def check_label_noise(bench: Bench) -> Outcome:
    """A reader that errs in both arms alike: corrected intervals hold the true shift, uncorrected ones don't."""
    runs = bench.repeat(noisy_reader, runs=bench.runs())
    return Outcome(
        figures=(
            coverage("corrected by 50 labelled images a value", [run.corrected for run in runs]),
            naive_coverage("uncorrected", [run.uncorrected for run in runs]),
        )
    )


class Differing(NamedTuple):
    """Whether intervals hold the true shift of 0."""

    audited: bool
    uncorrected: bool
    pooled: bool


class Noticing(NamedTuple):
    """Whether a difference in error was noticed, if there is one: with 100 and 200 labelled pairs, and by others."""

    noticed: bool
    noticed_by_many: bool
    noticed_by_who_knows: bool
    false_alarm: bool


NUM_PAIRS, NUM_AUDITED, MANY_AUDITED = 640, 100, 200
# Few of one value is where a prompt is most biased, and where nearly all labels tell of the specificity.
FEW_OF_FIRST, MORE_OF_FIRST = 0.05, 0.25
SPECIFICITIES = (0.97, 0.88)
# With 100 pairs not even the test that knows where to look finds it in four of five audits: ours is held to that one.
NOTICED_BY_100, NOTICED_BY_200, LEAST_OF_WHO_KNOWS = 0.75, 0.8, 0.8


def _audited(rng: np.random.Generator, share: float) -> tuple[list[Labels], list[Labels]]:
    """What pairs show in both arms, with equal shares, and what a reader says that errs more in the second."""
    truth = [(rng.random(NUM_PAIRS) >= share).astype(np.int64) for _ in ARMS]
    read = [
        misread(rng, labels, sensitivity=0.95, specificity=specificity)
        for labels, specificity in zip(truth, SPECIFICITIES, strict=True)
    ]
    return truth, read


def differing_errors(rng: np.random.Generator) -> Differing:
    """A reader with specificity 0.97 in base and 0.88 with the adapter, and no true shift; 100 pairs are labelled."""
    truth, read = _audited(rng, FEW_OF_FIRST)
    first_true, first_read = ([(labels == 0).astype(np.float64) for labels in arms] for arms in (truth, read))
    human, reader = first_true[1] - first_true[0], first_read[1] - first_read[0]
    audited = prediction_powered(human[:NUM_AUDITED], reader[:NUM_AUDITED], reader[NUM_AUDITED:], level=LEVEL)
    uncorrected = reader.mean(), 1.96 * reader.std(ddof=1) / np.sqrt(NUM_PAIRS)
    confusion_22 = np.array([[950.0, 50.0], [75.0, 925.0]])  # both arms together: specificity 0.925
    as_images = [one_hot(labels.reshape(40, 16), 2) for labels in read]
    pooled = corrected_shift(
        as_images[0], as_images[1], confusion_22, paired=True, level=LEVEL, seed=int(rng.integers(2**31))
    )[0]
    return Differing(
        audited=audited.low is not None and audited.high is not None and audited.low <= 0 <= audited.high,
        uncorrected=bool(abs(uncorrected[0]) <= uncorrected[1]),
        pooled=pooled.low is not None and pooled.high is not None and pooled.low <= 0 <= pooled.high,
    )


def noticing(rng: np.random.Generator, *, share: float) -> Noticing:
    """The same reader, and one that errs alike in both arms, where ``share`` of the images show the first value."""
    truth, read = _audited(rng, share)
    alike = [misread(rng, labels, sensitivity=0.95, specificity=float(np.mean(SPECIFICITIES))) for labels in truth]
    return Noticing(
        noticed=suspicious(truth, read, NUM_AUDITED),
        noticed_by_many=suspicious(truth, read, MANY_AUDITED),
        noticed_by_who_knows=_specificities_differ(truth, read, NUM_AUDITED),
        false_alarm=suspicious(truth, alike, NUM_AUDITED),
    )


def suspicious(truth: Sequence[Labels], read: Sequence[Labels], count: int) -> bool:
    """Whether labels of that many pairs show that the reader errs more in one arm."""
    names = [name for name in ARMS for _ in range(count)]
    texts = [[TWO[label] for labels in arms for label in labels[:count].tolist()] for arms in (truth, read)]
    return differential_error(texts[0], texts[1], names).suspicious


def _specificities_differ(truth: Sequence[Labels], read: Sequence[Labels], count: int) -> bool:
    """What could be noticed at best: the z test of two shares, by one who knows which errors may differ."""
    wrong = [labels_read[:count][labels[:count] == 1] == 0 for labels, labels_read in zip(truth, read, strict=True)]
    together = np.concatenate(wrong)
    variance = float(together.var()) * sum(1 / len(errors) for errors in wrong)
    difference = float(wrong[1].mean() - wrong[0].mean())
    return variance > 0 and bool(2 * stats.norm.sf(abs(difference) / variance**0.5) < SUSPICIOUS)


def _of_best(label: str, runs: Sequence[Noticing]) -> Figure:
    """How often 100 labelled pairs told of a difference, over how often they could at best."""
    known = sum(run.noticed_by_who_knows for run in runs)
    value = sum(run.noticed for run in runs) / known if known else 0.0
    return Figure(label=label, value=value, low=LEAST_OF_WHO_KNOWS, note=f"at best in {known} of {len(runs)} runs")


def check_differential(bench: Bench) -> Outcome:
    """A reader that errs more in one arm: only a blinded audit of both arms tells that nothing changed."""
    runs = bench.repeat(differing_errors, runs=bench.runs())
    few, more = (bench.repeat(noticing, runs=bench.runs(), share=share) for share in (FEW_OF_FIRST, MORE_OF_FIRST))
    one_reader = _ladder(np.random.default_rng(bench.seed))
    return Outcome(
        figures=(
            coverage("prediction-powered, 100 pairs labelled", [run.audited for run in runs]),
            at_least("difference noticed, 100 pairs labelled", [run.noticed for run in few], NOTICED_BY_100),
            _of_best("  of what can be noticed at best", few),
            at_least("more of the value: 200 pairs labelled", [run.noticed_by_many for run in more], NOTICED_BY_200),
            _of_best("  100, of what can be noticed at best", more),
            rejections("noticed where there is none", [run.false_alarm for run in few], alpha=SUSPICIOUS),
            rejections("  and with more of the value", [run.false_alarm for run in more], alpha=SUSPICIOUS),
            never("without a second reader: above suggestive", [one_reader not in ("suggestive",)]),
            naive_coverage("uncorrected", [run.uncorrected for run in runs]),
            naive_coverage("corrected by a pooled confusion", [run.pooled for run in runs]),
        )
    )


def _ladder(rng: np.random.Generator, *, second: str | None = None) -> str:
    """The verdict on a large true improvement; ``second``: another reader that agrees, or errs the other way."""
    asked = prompts(20)
    shares = two_shares(np.full(20, 0.95)), two_shares(np.full(20, 0.55))
    labels = {arm: drawn(rng, each, num_seeds=16) for arm, each in zip(ARMS, shares, strict=True)}
    readings = readings_of(asked, labels, attribute="two", values=TWO)
    seconds: tuple[str, ...] = ()
    if second is not None:
        seconds = ("other",)
        others = labels if second == "agrees" else {"base": labels["adapted"], "adapted": labels["base"]}
        readings += readings_of(asked, others, attribute="two", values=TWO, reader="other")
    plan = plan_of(asked, attributes={"two": TWO}, second_readers=seconds)
    (verdict,) = [verdict for verdict in analysed(plan, readings).verdicts if verdict.arm == SHIFT]
    return verdict.verdict


class Missing(NamedTuple):
    """What is said when one group's faces vanish in one arm."""

    held: bool
    capped: bool
    read_only_held: bool


def missing_faces(rng: np.random.Generator) -> Missing:
    """30 % of the first value's images are unread in the adapter's arm only; nothing else changed."""
    asked = prompts(20)
    plan = plan_of(asked, attributes={"two": TWO})
    share_J = rng.uniform(0.35, 0.65, 20)
    truth = {arm: drawn(rng, two_shares(share_J), num_seeds=400) for arm in ARMS}
    lost = (truth["adapted"] == 0) & (rng.random(truth["adapted"].shape) < 0.3)
    labels = {"base": truth["base"], "adapted": np.where(lost, UNREAD, truth["adapted"])}
    results = analysed(plan, readings_of(asked, labels, attribute="two", values=TWO))
    true_share = {arm: float((truth[arm] == 0).mean(axis=1).mean()) for arm in ARMS}
    bounds = [shift_of(results, "bounds:a", attribute="two", arm=arm) for arm in (*ARMS, SHIFT)]
    wanted = (true_share["base"], true_share["adapted"], true_share["adapted"] - true_share["base"])
    return Missing(
        held=all(not excludes(bound, value) for bound, value in zip(bounds, wanted, strict=True)),
        capped=any("unread" in cap or "missing" in cap for verdict in results.verdicts for cap in verdict.caps),
        read_only_held=holds(shift_of(results, "share:a", attribute="two"), 0.0),
    )


def check_missing(bench: Bench) -> Outcome:
    """Faces of one group that are not found: bounds hold the truth in every run, and the verdict is capped."""
    runs = bench.repeat(missing_faces, runs=bench.runs(full=100, fast=10))
    return Outcome(
        figures=(
            always("bounds hold the truth", [run.held for run in runs]),
            always("verdict capped, unread images named", [run.capped for run in runs]),
            naive_coverage("share of the images that were read", [run.read_only_held for run in runs]),
        )
    )


def check_weak_reader(bench: Bench) -> Outcome:
    """A reader that is little better than a coin is not corrected but refused."""
    weak = too_weak(np.array([[60.0, 40.0], [40.0, 60.0]]))
    good = too_weak(np.array([[90.0, 10.0], [5.0, 95.0]]))
    rng = np.random.default_rng(bench.seed)
    images = one_hot(drawn(rng, two_shares(np.full(10, 0.4)), num_seeds=16), 2)
    refused = corrected_shift(images, images, np.array([[60.0, 40.0], [40.0, 60.0]]), paired=True, level=LEVEL)
    return Outcome(
        figures=(
            true("Se + Sp - 1 = 0.2: too weak", weak is not None, note=weak or ""),
            true("  and nothing is corrected", all(interval.value is None for interval in refused)),
            true("Se + Sp - 1 = 0.85: corrected", good is None),
        )
    )


def check_disagree(bench: Bench) -> Outcome:
    """Two readers with opposite errors: both are shown, and no verdict rests on one of them."""
    rng = np.random.default_rng(bench.seed)
    agrees, differs = _ladder(rng, second="agrees"), _ladder(rng, second="differs")
    return Outcome(
        figures=(
            true("readers agree: a gain is called one", agrees in ("improved", "partial", "on target"), note=agrees),
            true(
                "readers disagree: suggestive at most", differs not in CHANGED or differs == "suggestive", note=differs
            ),
        )
    )
