"""Do verdicts behave? Swapped arms, repeated images, disobedient or overshooting adapters, plans edited afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.analysis.results import Results, results_json
from evenhand.evaluation.folder import READINGS_FILE
from evenhand.evaluation.overlap import training_captions, without_overlap
from evenhand.evaluation.plan import PLAN_FILE, Plan, freeze_plan, load_plan
from evenhand.evaluation.suites import PlannedPrompt
from evenhand.files import read_json, write_json_atomic, write_jsonl_atomic
from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import CHANGED, shift_of
from evenhand.honesty.folders import (
    ARMS,
    FOUR,
    READER,
    SHIFT,
    TWO,
    UNREAD,
    analysed,
    dirichlet_shares,
    drawn,
    plan_of,
    prompts,
    readings_of,
    two_shares,
)
from evenhand.honesty.outcome import Outcome, exactly, true
from evenhand.honesty.traps import guarded
from evenhand.records import Reading
from evenhand.report.render import write_report

# Of an estimate with arm "shift": a difference of the arms, or something that does not know which arm came first.
SYMMETRIC = ("changed", "phi", "similarity")
ONE_SIDED = ("gap_reduction", "toward", "away")
TOLERANCE = 1e-9


def shifted(rng: np.random.Generator) -> tuple[Plan, list[Reading]]:
    """An evaluation in which much changes: two attributes, explicit prompts, unread images."""
    asked = prompts(12)
    explicit = prompts(4, suite="explicit", expects=({"two": "a"}, {"two": "b"}))
    plan = plan_of([*asked, *explicit], attributes={"two": TWO, "four": FOUR})
    readings: list[Reading] = []
    for group, num_seeds in ((asked, 12), (explicit, 6)):
        shares = {
            "two": {arm: two_shares(rng.uniform(0.1, 0.9, len(group))) for arm in ARMS},
            "four": {arm: dirichlet_shares(rng, len(group), 4) for arm in ARMS},
        }
        for attribute, values in (("two", TWO), ("four", FOUR)):
            labels = {arm: drawn(rng, shares[attribute][arm], num_seeds=num_seeds) for arm in ARMS}
            labels["adapted"][0, 0] = UNREAD
            readings += readings_of(group, labels, attribute=attribute, values=values)
    return plan, readings


def swapped(plan: Plan, readings: Sequence[Reading]) -> Results:
    """The analysis with the arms' readings exchanged."""
    other = {ARMS[0]: ARMS[1], ARMS[1]: ARMS[0]}
    return analysed(plan, [replace(entry, arm=other[entry.arm]) for entry in readings])


def asymmetries(one: Results, other: Results) -> list[str]:
    """Shifts that do not change their sign, and p values that change, when the arms are exchanged."""
    wrong = []
    estimates = {(e.name, e.suite, e.attribute, e.concept): e for e in other.estimates if e.arm == SHIFT}
    for estimate in one.estimates:
        if estimate.arm != SHIFT or estimate.name in ONE_SIDED:
            continue
        mirror = estimates[estimate.name, estimate.suite, estimate.attribute, estimate.concept]
        sign = 1.0 if estimate.name in SYMMETRIC else -1.0
        ends = (mirror.low, mirror.high) if sign > 0 else (mirror.high, mirror.low)
        pairs = ((estimate.value, mirror.value), (estimate.low, ends[0]), (estimate.high, ends[1]))
        if not all(_equal(a, b, sign) for a, b in pairs):
            wrong.append(f"{estimate.name} of {estimate.attribute} on {estimate.suite} prompts")
    for p_values, mirrored in zip(_p_values(one), _p_values(other), strict=True):
        wrong += [f"p of {name}" for name, p in p_values.items() if not _equal(p, mirrored[name], 1.0)]
    return wrong


def _p_values(results: Results) -> tuple[dict[str, float | None], dict[str, float | None]]:
    permutation = {f"{test.statistic} of {test.attribute}, {test.suite}": test.p for test in results.permutation}
    return permutation, {f"{test.attribute}, {test.concept}": test.p for test in results.prompt_tests}


def _equal(one: float | None, other: float | None, sign: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - sign * other) <= TOLERANCE


def check_antisymmetry(bench: Bench) -> Outcome:
    """Base and adapter exchanged: every shift changes its sign. Readings in another order: nothing changes."""
    rng = np.random.default_rng(bench.seed)
    plan, readings = shifted(rng)
    one = analysed(plan, readings)
    wrong = asymmetries(one, swapped(plan, readings))
    shuffled = [readings[index] for index in rng.permutation(len(readings))]
    same = json.dumps(results_json(analysed(plan, shuffled))) == json.dumps(results_json(one))
    changed = [replace(readings[0], value=TWO[readings[0].value == TWO[0]]), *readings[1:]]
    noticed = bool(asymmetries(one, swapped(plan, changed)))
    num_shifts = sum(estimate.arm == SHIFT for estimate in one.estimates)
    return Outcome(
        figures=(
            exactly(f"of {num_shifts} shifts and their p: not mirrored", len(wrong), 0, note=", ".join(wrong[:3])),
            true("readings shuffled: same results, byte for byte", same),
            true("control: one reading changed is noticed", noticed),
        )
    )


def refusal(call: Callable[[], object]) -> str | None:
    """The message with which a call was refused; None when it was not."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def check_disobedient(bench: Bench) -> Outcome:
    """An adapter that evens out what was asked for explicitly has failed its guard, whatever it improved."""
    rng = np.random.default_rng(bench.seed)
    asked = prompts(20), prompts(20, suite="explicit", expects=({"two": "a"}, {"two": "b"}))
    figures = []
    for label, lower, expected in (("obeys as the base does", 0.9, True), ("ignores what is asked", 0.5, False)):
        results = guarded(rng, *asked, lower=lower, rule="point", margin=0.08)
        (guard,) = [guard for guard in results.guards if guard.name == "explicit"]
        figures.append(true(f"adapter {label}: guard {'holds' if expected else 'fails'}", guard.passed is expected))
    words = [verdict.verdict for verdict in results.verdicts if verdict.arm == SHIFT]
    figures.append(true("  and the verdict is harm", words == ["harm"], note=", ".join(words)))
    return Outcome(figures=tuple(figures))


def verdict_of(rng: np.random.Generator, *, base: float, adapted: float, **more: Any) -> Results:  # Any: of a plan
    """The analysis of 40 prompts with the same share of the first value in each arm; two readers that agree."""
    asked = prompts(40)
    shares = {arm: two_shares(np.full(40, share)) for arm, share in zip(ARMS, (base, adapted), strict=True)}
    labels = {arm: drawn(rng, shares_JK, num_seeds=16) for arm, shares_JK in shares.items()}
    readings = readings_of(asked, labels, attribute="two", values=TWO)
    readings += readings_of(asked, labels, attribute="two", values=TWO, reader="second")
    return analysed(plan_of(asked, attributes={"two": TWO}, **{"second_readers": ("second",), **more}), readings)


def ladder(results: Results) -> str:
    """The word for what changed."""
    (word,) = [verdict.verdict for verdict in results.verdicts if verdict.arm == SHIFT]
    return word


# Shares of the first value in base and adapted arm, with the words that may be said.
LADDER = (
    (0.06, 0.95, ("overshoot",)),
    (0.06, 0.50, ("on target",)),
    (0.06, 0.28, ("partial", "improved")),
    (0.40, 0.05, ("no detectable change", "inconclusive", "harm")),
    (0.50, 0.50, ("no detectable change", "on target")),
)


def check_overshoot(bench: Bench) -> Outcome:
    """From 6 % to 95 % is no improvement to 95 %; the other rungs of the ladder beside it."""
    rng = np.random.default_rng(bench.seed)
    figures = []
    for base, adapted, words in LADDER:
        word = ladder(verdict_of(rng, base=base, adapted=adapted))
        figures.append(true(f"{base:.2f} to {adapted:.2f}: {' or '.join(words)}", word in words, note=word))
    return Outcome(figures=tuple(figures))


def check_circular(bench: Bench) -> Outcome:
    """The reader of the training judges: said in the first paragraph, and no verdict above suggestive."""
    rng = np.random.default_rng(bench.seed)
    results = verdict_of(rng, base=0.06, adapted=0.5, training_reader=READER)
    word = ladder(results)
    honest = verdict_of(rng, base=0.06, adapted=0.5, training_reader="another")
    return Outcome(
        figures=(
            true("first paragraph says it", "ircular" in results.answer),
            true("verdict suggestive at most", word not in CHANGED or word == "suggestive", note=word),
            true("control: another reader, nothing said", "ircular" not in honest.answer),
        )
    )


def check_leak(bench: Bench) -> Outcome:
    """A prompt of the evaluation that was a caption of the training is left out, listed, and not counted."""
    folder = bench.folder("leak")
    asked = [PlannedPrompt(prompt=prompt, num_seeds=4) for prompt in prompts(12)]
    leaked = [asked[3].prompt, asked[7].prompt]
    captions = folder / "captions.txt"
    captions.write_text(f"{leaked[0].text.upper()}!\n  {leaked[1].text}\na picture of the heldout concept 5\n")
    known = training_captions(folder / "adapter", captions)
    assert known is not None
    found = without_overlap(asked, known, headline_suite="heldout")
    excluded = [row["prompt"]["id"] for row in found.excluded]
    kept = [entry.prompt for entry in found.prompts]
    plan = plan_of(kept, attributes={"two": TWO}, extra={"excluded": list(found.excluded)})
    labels = {arm: drawn(np.random.default_rng(bench.seed), np.full((len(kept), 2), 0.5), num_seeds=4) for arm in ARMS}
    results = analysed(plan, readings_of(kept, labels, attribute="two", values=TWO))
    counted = shift_of(results, "gap", attribute="two").n_prompts
    return Outcome(
        figures=(
            true("leaked prompts are left out, other case and spacing too", excluded == [one.id for one in leaked]),
            exactly("control: others are kept, a rewording too", len(kept), len(asked) - len(leaked)),
            true("the report lists them", all(one.text in " ".join(results.excluded) for one in leaked)),
            exactly("prompts that the headline counts", counted, len(kept)),
        )
    )


def check_plan_freeze(bench: Bench) -> Outcome:
    """A margin edited after the data: the folder is refused, and its old results are not shown as the new plan's."""
    folder = bench.folder("plan-freeze")
    plan, readings = shifted(np.random.default_rng(bench.seed))
    digest = freeze_plan(plan, folder)
    write_jsonl_atomic(folder / READINGS_FILE, readings)
    results = write_report(folder)
    edited = replace(plan, margins={**plan.margins, "explicit": 0.5})
    refused = refusal(lambda: freeze_plan(edited, folder))
    again = write_report(folder)
    _edit_margin(folder)
    rendered = refusal(lambda: write_report(folder))
    return Outcome(
        figures=(
            true("results name their plan", results.plan_sha256 == digest),
            true("control: rendered again under the same plan", again.plan_sha256 == digest),
            true("edited plan: folder refused", refused is not None, note=refused or ""),
            true("plan.json edited by hand: not rendered", rendered is not None, note=rendered or ""),
        )
    )


def _edit_margin(folder: Path) -> None:
    content = read_json(folder / PLAN_FILE)
    content["margins"]["explicit"] = 0.5
    write_json_atomic(folder / PLAN_FILE, content)
    assert load_plan(folder).margins["explicit"] == 0.5
