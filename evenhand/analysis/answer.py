"""The first paragraph of a report, and the notes: what was found, at what cost, and how to read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evenhand.analysis.dose import has_dose, shared_seeds
from evenhand.analysis.readers_agreement import Agreement
from evenhand.analysis.suite_shares import BOTH, SHIFT
from evenhand.analysis.tables import ReadingTable
from evenhand.analysis.verdicts import Index, Verdict
from evenhand.analysis.wording import interval_text, listed, number, percent, signed
from evenhand.evaluation.folder import Similarity
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate, Guard

COSTS = {
    "explicit": "explicit prompts obeyed",
    "fixed": "fixed facts kept",
    "unrelated_similarity": "unrelated images alike",
    "image_text": "image-text score within values",
    "diversity": "diversity within values",
    "near_duplicates": "near-duplicates within a prompt",
    "copies": "copies of training images",
}
NAMED_COSTS = ("explicit", "fixed", "unrelated_similarity")
SHOWN_GUARDS = ("explicit", "fixed", "readable")
MOST_NAMED = 4  # guards, prompts, reasons that one sentence names


def moved(change: Estimate) -> str | None:
    """``fell`` or ``rose`` only when the interval excludes zero."""
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return None
    return "fell" if change.high < 0 else "rose"


def answer(
    table: ReadingTable,
    index: Index,
    others: Mapping[str, Index],
    checks: Sequence[Guard],
    verdicts: Sequence[Verdict],
    agreement: Sequence[Agreement],
    *,
    circular: bool,
) -> str:
    """Failed guards first, then from what, to what, interval, counts, reader, cost, and the verdict."""
    plan = table.plan
    failed = [guard for guard in checks if not guard.passed]
    parts = []
    if failed:
        more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        texts = "; ".join(_cost(guard, index, plan) for guard in failed[:MOST_NAMED])
        parts.append(f"{'A guard' if len(failed) == 1 else f'{len(failed)} guards'} failed: {texts}{more}.")
    parts += _headline(table, index)
    if circular:
        parts.append(f"Circular: {table.reader}, the reader that judges, was used in training.")
    parts += _second_opinion(table, others, agreement)
    parts += _verdict_sentence(plan, verdicts)
    parts += [
        verdict.sentence
        for verdict in verdicts
        if (verdict.suite, verdict.attribute, verdict.arm) == ("train", plan.primary.attribute, SHIFT)
        and plan.primary.suite != "train"
    ]
    parts += _cost_sentence(plan, index, [guard for guard in checks if guard.passed])
    return " ".join(parts)


def _headline(table: ReadingTable, index: Index) -> list[str]:
    plan = table.plan
    attribute, suite = plan.primary.attribute, plan.primary.suite
    change = index.get(("gap", suite, attribute, SHIFT))
    before, after = (index.get(("gap", suite, attribute, arm)) for arm in plan.arms)
    if change is None or before is None or after is None or change.value is None:
        how = change.how if change is not None else f"suite {suite} leaves no attribute open"
        return [f"The gap in {attribute} on {suite} prompts is not estimable: {how.replace('not estimable: ', '')}."]
    values = " and ".join(plan.attributes[attribute]) if len(plan.attributes[attribute]) == 2 else "values"
    verb, less = moved(change) or "was not shown to change:", ""
    reduction = index.get(("gap_reduction", suite, attribute, BOTH))
    if verb == "fell" and reduction is not None and reduction.value is not None:
        assert reduction.low is not None
        assert reduction.high is not None
        less = f"; {percent(reduction.value)} % less, {percent(reduction.low)} to {percent(reduction.high)}"
    pairs = "same-seed pairs of images" if table.paired else "images of the adapted arm, not paired by seed"
    return [
        f"On {suite} prompts the gap between {values} in perceived {attribute} {verb} from {number(before.value)} "
        f"to {number(after.value)} (change {signed(change.value)}, {interval_text(change, change.level)}{less}).",
        f"Measured on {change.n_prompts} prompts and {change.n_images} {pairs} ({change.n_unread} of them unread), "
        f"by reader {table.reader}; a perfectly even generator would score {number(after.floor)} here.",
    ]


def _second_opinion(table: ReadingTable, others: Mapping[str, Index], agreement: Sequence[Agreement]) -> list[str]:
    attribute, suite = table.plan.primary.attribute, table.plan.primary.suite
    texts = []
    for reader, index in others.items():
        change = index.get(("gap", suite, attribute, SHIFT))
        if change is None or change.value is None:
            continue
        found = [row for row in agreement if (row.other, row.attribute) == (reader, attribute)]
        shares = [row.share for row in found if row.share is not None]
        agreed = f"; it agrees on {_at_least(min(shares))}" if shares else ""
        texts.append(f"Reader {reader}: {signed(change.value)}, {interval_text(change, change.level)}{agreed}.")
    return texts[:MOST_NAMED]


def _at_least(share: float) -> str:
    """Rounded down, so that 99.6 % are not called all."""
    return "all images" if share == 1 else f"at least {math.floor(100 * share)} % of each arm's images"


def _verdict_sentence(plan: Plan, verdicts: Sequence[Verdict]) -> list[str]:
    primary = [v for v in verdicts if (v.suite, v.attribute) == (plan.primary.suite, plan.primary.attribute)]
    if not primary:
        return []
    words = {verdict.arm: verdict for verdict in primary}
    shift = words[SHIFT]
    why = f" ({listed(list(shift.caps[:MOST_NAMED]))})" if shift.caps else ""
    mde = f" (MDE {number(shift.mde)})" if shift.mde is not None and not shift.caps else ""
    arms = ", ".join(f"{arm} {words[arm].verdict}" for arm in plan.arms)
    return [f"Verdict: {shift.verdict}{why or mde}; against the target: {arms}."]


def _cost_sentence(plan: Plan, index: Index, held: Sequence[Guard]) -> list[str]:
    """What the headline cost, of the guards that held: the named ones in figures, the others by their number."""
    named = [
        guard
        for guard in held
        if guard.name in NAMED_COSTS or (guard.name == "readable" and guard.suite == plan.primary.suite)
    ]
    others = len(held) - len(named)
    texts = [_cost(guard, index, plan) for guard in named]
    if others:
        texts.append(f"{others} {'other guards' if texts else 'guards'} held")
    return [f"Cost: {'; '.join(texts)}."] if texts else []


def _cost(guard: Guard, index: Index, plan: Plan) -> str:
    suites = {"readable": f"{guard.suite} prompts' subject readable", "unread": f"{guard.suite} images unread"}
    what = {**COSTS, **suites}.get(guard.name, guard.name.replace("_", " "))
    if guard.value is None:
        return f"{what}: not estimable"
    levels = ""
    if guard.name in SHOWN_GUARDS:
        shown = [
            next(
                (e for (name, suite, _, at), e in index.items() if (name, suite, at) == ("shown", guard.suite, arm)),
                None,
            )
            for arm in plan.arms
        ]
        if shown[0] is not None and shown[1] is not None:
            levels = f" {number(shown[0].value)} → {number(shown[1].value)}"
    settled = (
        "" if guard.passed and guard.evidence != "inconclusive" else ", failed" if not guard.passed else ", not settled"
    )
    return f"{what}{levels} ({signed(guard.value)}, margin {number(guard.margin)}{settled})"


def notes(
    table: ReadingTable,
    similarities: Sequence[Similarity],
    excluded: Sequence[str],
    others: Sequence[str],
    sequential: Mapping[str, Any] | None,  # Any: JSON
) -> list[str]:
    """What was not shown, and how to read the numbers."""
    plan = table.plan
    found = [
        f"Readings are what {table.reader} perceives in a picture; its errors are not in these intervals.",
        "Intervals are for prompts like these: the prompt (or concept, where it has several wordings) is the unit. "
        "Those of a share “for these very prompts” hold for no other prompts.",
        "A gap has a noise floor: its value for a perfectly even generator at this number of images. It makes a real "
        "reduction look smaller than it is. The unbiased distances have none.",
    ]
    if plan.guard_rule == "point" and plan.margins:
        found.append(
            "A guard passes when the measured change is within its margin (at least one image); its interval may "
            "reach beyond. Its evidence says whether harmlessness is shown (two one-sided tests), or not settled."
        )
    if not table.paired:
        found.append("The arms' images are not paired by seed: unpaired formulas are used, and intervals are wider.")
    if plan.in_suite("unrelated") and not similarities:
        found.append("Whether unrelated images stayed alike was not measured: there are no images in this folder.")
    if excluded:
        found.append(f"Prompts left out because their text was used in training: {len(excluded)}.")
    if has_dose(table) and not shared_seeds(table, plan.primary.attribute, plan.primary.suite):
        found.append("There is no dose curve: no image of the headline was read at every scale of the adapter.")
    left_out = sorted(set(table.readers[1:]) - set(others))
    if left_out:
        found.append(f"Readers that did not read both arms are left out: {', '.join(left_out)}.")
    if sequential is not None and sequential["stopped"] in ("changed", "narrow"):
        found.append(
            f"The run stopped early, after {sequential['rounds']} rounds: the shares' shifts of the headline are "
            "confidence sequences, which allow for that; the other intervals do not."
        )
    return found
