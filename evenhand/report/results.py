"""Plan and readings to ``results.json``: estimates, guards, and the sentences that the intervals allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evenhand.evaluation.folder import Similarity, load_readings, load_similarities
from evenhand.evaluation.plan import Plan, load_plan, plan_sha256
from evenhand.files import write_json_atomic
from evenhand.records import Estimate, Guard, Reading
from evenhand.report.estimates import SHIFT, distribution_estimates
from evenhand.report.guards import guards, shown_estimates, similarity_estimates
from evenhand.report.tables import ReadingTable

RESULTS_FILE = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the interval of a suite's gap allows to be said, in a word and in a sentence."""

    suite: str
    attribute: str
    verdict: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a report shows; ``answer`` is its first paragraph."""

    plan_sha256: str
    primary_attribute: str
    primary_suite: str
    arms: tuple[str, str]
    reader: str
    paired: bool
    answer: str
    verdicts: tuple[Verdict, ...]
    guards: tuple[Guard, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]

    @property
    def failed_guards(self) -> tuple[Guard, ...]:
        """The guards that did not hold."""
        return tuple(guard for guard in self.guards if not guard.passed)

    def find(
        self, name: str, *, suite: str, arm: str, attribute: str | None = None, concept: str | None = None
    ) -> Estimate | None:
        """An estimate by its name and scope; None where the plan has none."""
        for estimate in self.estimates:
            if (estimate.name, estimate.suite, estimate.arm, estimate.concept) == (name, suite, arm, concept) and (
                attribute is None or estimate.attribute == attribute
            ):
                return estimate
        return None


def analyse(
    plan: Plan, readings: Sequence[Reading], similarities: Sequence[Similarity], *, plan_digest: str
) -> Results:
    """Every estimate, guard and verdict of an evaluation."""
    table = ReadingTable(plan, readings)
    estimates = (
        *distribution_estimates(table),
        *shown_estimates(table),
        *similarity_estimates(plan, similarities),
    )
    checks = tuple(guards(table, estimates, similarities))
    verdicts = tuple(_verdicts(plan, estimates))
    return Results(
        plan_sha256=plan_digest,
        primary_attribute=plan.primary.attribute,
        primary_suite=plan.primary.suite,
        arms=plan.arms,
        reader=table.readers[0],
        paired=table.paired,
        answer=_answer(plan, table, estimates, checks, verdicts),
        verdicts=verdicts,
        guards=checks,
        estimates=estimates,
        notes=tuple(_notes(plan, table, similarities)),
    )


def analyse_folder(folder: Path) -> Results:
    """The results of an evaluation folder, from its plan and readings."""
    plan = load_plan(folder)
    readings = load_readings(folder)
    return analyse(plan, readings, load_similarities(folder), plan_digest=plan_sha256(folder))


def results_json(results: Results) -> dict[str, Any]:  # Any: JSON
    """Results as they stand in ``results.json``."""
    content = asdict(results)
    content["primary"] = {"attribute": content.pop("primary_attribute"), "suite": content.pop("primary_suite")}
    return {"version": 1, **content}


def write_results(results: Results, folder: Path) -> Path:
    """Write ``results.json``; its path."""
    path = folder / RESULTS_FILE
    write_json_atomic(path, results_json(results))
    return path


def _find(estimates: Sequence[Estimate], name: str, suite: str, attribute: str, arm: str) -> Estimate | None:
    for estimate in estimates:
        if estimate.concept is None and (estimate.name, estimate.suite, estimate.attribute, estimate.arm) == (
            name,
            suite,
            attribute,
            arm,
        ):
            return estimate
    return None


def number(value: float | None) -> str:
    """A number as every report prints it."""
    return "not estimable" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def signed(value: float) -> str:
    """A change, with its sign."""
    return f"{value:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00").replace("-", "−")


def percent(value: float) -> str:
    """A part of one as a percentage."""
    return f"{100 * value:.0f}".replace("-0", "0").replace("-", "−")


def _interval(estimate: Estimate | Guard, level: float) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{percent(level)} % interval {signed(estimate.low)} to {signed(estimate.high)}"


def _verdicts(plan: Plan, estimates: Sequence[Estimate]) -> list[Verdict]:
    verdicts = []
    for change in estimates:
        if change.name != "gap" or change.arm != SHIFT or plan.target(change.attribute, "*") is None:
            continue
        before, after = (_find(estimates, "gap", change.suite, change.attribute, arm) for arm in plan.arms)
        assert before is not None
        assert after is not None
        distance = _find(estimates, "tv", change.suite, change.attribute, plan.arms[1])
        word = _word(change) + (", on target" if _on_target(plan, distance) else "")
        if change.value is None or before.value is None or after.value is None:
            text = f"The gap in {change.attribute} on {change.suite} prompts: {change.how}."
        else:
            text = (
                f"On {change.suite} prompts the gap in {change.attribute} went from {number(before.value)} to "
                f"{number(after.value)} ({signed(change.value)}, {_interval(change, change.level)}): {word}."
            )
        verdicts.append(Verdict(suite=change.suite, attribute=change.attribute, verdict=word, sentence=text))
    return verdicts


def _on_target(plan: Plan, distance: Estimate | None) -> bool:
    """Whether the whole interval of the adapted arm's distance to target is within the declared margin."""
    if distance is None or distance.high is None or "target" not in plan.margins:
        return False
    return distance.high <= plan.margins["target"]


def _word(change: Estimate) -> str:
    """``reduced`` and ``increased`` only when the interval excludes zero."""
    if change.value is None:
        return "not estimable"
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return "no change shown"
    return "reduced" if change.value < 0 else "increased"


def _answer(
    plan: Plan,
    table: ReadingTable,
    estimates: Sequence[Estimate],
    checks: Sequence[Guard],
    verdicts: Sequence[Verdict],
) -> str:
    """The first paragraph: failed guards first, then from what, to what, interval, counts, reader, cost."""
    attribute, suite = plan.primary.attribute, plan.primary.suite
    change = _find(estimates, "gap", suite, attribute, SHIFT)
    before, after = (_find(estimates, "gap", suite, attribute, arm) for arm in plan.arms)
    reduction = _find(estimates, "gap_reduction", suite, attribute, SHIFT)
    failed = [guard for guard in checks if not guard.passed]
    parts = [f"A guard failed: {'; '.join(_cost(guard, estimates, plan) for guard in failed)}."] if failed else []
    if change is None or before is None or after is None or change.value is None:
        how = change.how if change is not None else f"suite {suite} leaves no attribute open"
        parts.append(f"The gap in {attribute} on {suite} prompts is not estimable: {how}.")
    else:
        values = " and ".join(plan.attributes[attribute]) if len(plan.attributes[attribute]) == 2 else "values"
        verb = {"reduced": "fell", "increased": "rose"}.get(_word(change), "was not shown to change:")
        less = ""
        if _word(change) == "reduced" and reduction is not None and reduction.value is not None:
            assert reduction.low is not None
            assert reduction.high is not None
            less = f"; {percent(reduction.value)} % less, {percent(reduction.low)} to {percent(reduction.high)}"
        parts.append(
            f"On {suite} prompts the gap between {values} in perceived {attribute} {verb} from {number(before.value)} "
            f"to {number(after.value)} (change {signed(change.value)}, {_interval(change, change.level)}{less})."
        )
        pairs = "same-seed pairs of images" if table.paired else "images of the adapted arm, not paired by seed"
        parts.append(
            f"Measured on {change.n_prompts} prompts and {change.n_images} {pairs} ({change.n_unread} of them unread), "
            f"by reader {table.readers[0]}; a perfectly even generator would score {number(after.floor)} here."
        )
    others = [verdict.sentence for verdict in verdicts if verdict.attribute == attribute and verdict.suite == "train"]
    parts += others if suite != "train" else []
    if plan.training_reader is not None and plan.training_reader == table.readers[0]:
        parts.append("Circular: the reader that judges was used in training.")
    parts += _cost_sentence(plan, estimates, [guard for guard in checks if guard.passed])
    return " ".join(parts)


def _cost_sentence(plan: Plan, estimates: Sequence[Estimate], held: Sequence[Guard]) -> list[str]:
    """What the headline cost, of the guards that held: the named ones in figures, the others by their number."""
    named = [
        guard
        for guard in held
        if guard.name in ("explicit", "fixed", "unrelated_similarity")
        or (guard.name == "readable" and guard.suite == plan.primary.suite)
    ]
    others = len(held) - len(named)
    texts = [_cost(guard, estimates, plan) for guard in named]
    if others:
        texts.append(f"{others} {'other guards' if texts else 'guards'} held")
    return [f"Cost: {'; '.join(texts)}."] if texts else []


def _cost(guard: Guard, estimates: Sequence[Estimate], plan: Plan) -> str:
    names = {
        "explicit": "explicit prompts obeyed",
        "fixed": "fixed facts kept",
        "readable": f"{guard.suite} prompts' subject readable",
        "unrelated_similarity": "unrelated images alike",
        "unread": f"{guard.suite} images unread",
    }
    what = names[guard.name]
    if guard.value is None:
        return f"{what}: not estimable"
    levels = ""
    shown = [
        next((e for e in estimates if (e.name, e.suite, e.arm) == ("shown", guard.suite, arm)), None)
        for arm in plan.arms
    ]
    if guard.name in ("explicit", "fixed", "readable") and shown[0] is not None and shown[1] is not None:
        levels = f" {number(shown[0].value)} → {number(shown[1].value)}"
    return f"{what}{levels} ({signed(guard.value)}, margin {number(guard.margin)}{'' if guard.passed else ', failed'})"


def _notes(plan: Plan, table: ReadingTable, similarities: Sequence[Similarity]) -> list[str]:
    """What was not shown, and how to read the numbers."""
    notes = [
        f"Readings are what {table.readers[0]} perceives in a picture; its errors are not in these intervals.",
        "Intervals are for prompts like these: the prompt (or concept, where it has several wordings) is the unit.",
        "A gap has a noise floor: its value for a perfectly even generator at this number of images. It makes a real "
        "reduction look smaller than it is. distance_sq has none.",
    ]
    if plan.guard_rule == "point":
        notes.append(
            "A guard passes when the measured change is within its margin (at least one image); its interval may "
            "reach beyond."
        )
    if not table.paired:
        notes.append("The arms' images are not paired by seed: unpaired formulas are used, and intervals are wider.")
    if plan.in_suite("unrelated") and not similarities:
        notes.append("Whether unrelated images stayed alike was not measured: there are no images in this folder.")
    return notes
