"""Plan and readings to ``results.json``: estimates, guards, and the sentences that the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evenhand.analysis.answer import answer, notes
from evenhand.analysis.dose import dose_estimates
from evenhand.analysis.estimates import suite_estimates
from evenhand.analysis.group_estimates import group_estimates
from evenhand.analysis.guards import guards, shown_estimates, similarity_estimates
from evenhand.analysis.pairs import (
    Overshoot,
    PermutationTest,
    PromptTest,
    overshoots,
    pair_estimates,
    permutation_test,
    prompt_tests,
)
from evenhand.analysis.quality import Quality, quality_estimates
from evenhand.analysis.readers_agreement import (
    Agreement,
    SecondReading,
    agreements,
    other_tables,
    second_readings,
    values_by_image,
)
from evenhand.analysis.suite_shares import SHIFT, SuiteShares, open_suites
from evenhand.analysis.tables import ReadingTable
from evenhand.analysis.unread import unread_difference, unread_estimates
from evenhand.analysis.verdicts import Evidence, Verdict, indexed, margin_of, verdicts_of
from evenhand.cache import cache_folder
from evenhand.evaluation.folder import (
    SEQUENTIAL_FILE,
    Similarity,
    load_readings,
    load_similarities,
    refuse_copied_images,
)
from evenhand.evaluation.plan import Plan, load_plan, plan_sha256
from evenhand.files import read_json, read_jsonl, write_json_atomic
from evenhand.records import Estimate, Guard, Reading

RESULTS_FILE, SELFTEST_FILE = "results.json", "selftest.json"
STOPPED_EARLY = ("changed", "narrow")
SMOKE_TIER = "smoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a report shows; ``answer`` is its first paragraph.

    ``reader`` gives the headline, ``readers`` are all in the file. ``guards`` begin with those that failed. ``caps``
    are the reasons that hold the headline's verdict down. ``sequential`` says how a run in rounds ended, ``selftest``
    what this installation's self-test found; None where there was none.
    """

    plan_sha256: str
    primary_attribute: str
    primary_suite: str
    arms: tuple[str, str]
    reader: str
    readers: tuple[str, ...]
    paired: bool
    circular: bool
    tier: str | None
    answer: str
    verdicts: tuple[Verdict, ...]
    guards: tuple[Guard, ...]
    estimates: tuple[Estimate, ...]
    agreement: tuple[Agreement, ...]
    second_readings: tuple[SecondReading, ...]
    prompt_tests: tuple[PromptTest, ...]
    permutation: tuple[PermutationTest, ...]
    overshoot: tuple[Overshoot, ...]
    caps: tuple[str, ...]
    excluded: tuple[str, ...]
    notes: tuple[str, ...]
    sequential: Mapping[str, Any] | None  # Any: JSON
    selftest: Mapping[str, Any] | None  # Any: JSON

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

    def verdict(self, *, suite: str | None = None, attribute: str | None = None, arm: str = SHIFT) -> Verdict | None:
        """A verdict by its scope, of the headline where none is named; None where there is none."""
        wanted = (suite or self.primary_suite, attribute or self.primary_attribute, arm)
        return next((v for v in self.verdicts if (v.suite, v.attribute, v.arm) == wanted), None)


def analyse(
    plan: Plan,
    readings: Sequence[Reading],
    similarities: Sequence[Similarity],
    *,
    plan_digest: str,
    folder: Path | None = None,
) -> Results:
    """Every estimate, guard and verdict of an evaluation; with its ``folder`` also of what else lies there."""
    _check_margins(plan)
    table = ReadingTable(plan, readings)
    others = other_tables(plan, readings, table.readers)
    views = open_suites(table)
    sequential = None if folder is None else _sequential(plan, folder)
    estimates = [*_estimates(table, views), *shown_estimates(table), *similarity_estimates(plan, similarities)]
    estimates = _stopped_early(plan, estimates, sequential)
    quality = _quality(table, folder)
    checks = sorted([*guards(table, similarities), *quality.guards], key=lambda guard: guard.passed)
    second = second_readings(others)
    indexes = {reader: indexed([row.estimate for row in second if row.reader == reader]) for reader in others}
    crossed = [entry for view in views for entry in overshoots(view, margin_of(view))]
    evidence = Evidence(
        index=indexed(estimates),
        others=indexes,
        caps=tuple(_caps(plan, table, sequential)),
        missing=frozenset((v.suite, v.attribute) for v in views if unread_difference(table, v).differs),
        guards=checks,
        overshoot=crossed,
    )
    verdicts = [verdict for view in views for verdict in verdicts_of(view, evidence)]
    agreement = list(agreements(table, others))
    estimates += quality.estimates
    circular, excluded = _circular(plan, table), _excluded(plan)
    return Results(
        plan_sha256=plan_digest,
        primary_attribute=plan.primary.attribute,
        primary_suite=plan.primary.suite,
        arms=plan.arms,
        reader=table.reader,
        readers=table.readers,
        paired=table.paired,
        circular=circular,
        tier=plan.tier,
        answer=answer(table, indexed(estimates), indexes, checks, verdicts, agreement, circular=circular),
        verdicts=tuple(verdicts),
        guards=tuple(checks),
        estimates=tuple(estimates),
        agreement=tuple(agreement),
        second_readings=tuple(second),
        prompt_tests=tuple(test for view in views for test in prompt_tests(view)),
        permutation=(*(permutation_test(view) for view in views), *quality.permutations),
        overshoot=tuple(crossed),
        caps=_headline_caps(plan, verdicts),
        excluded=excluded,
        notes=(*notes(table, similarities, excluded, list(others), sequential), *quality.notes),
        sequential=sequential,
        selftest=None if folder is None else _selftest(),
    )


def _check_margins(plan: Plan) -> None:
    for name, margin in plan.margins.items():
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not margin >= 0:
            raise ValueError(f"plan: margin {name} must be a number of 0 or more, got {margin!r}")


def _headline_caps(plan: Plan, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    headline = (plan.primary.suite, plan.primary.attribute, SHIFT)
    return next((v.caps for v in verdicts if (v.suite, v.attribute, v.arm) == headline), ())


def _estimates(table: ReadingTable, views: Sequence[SuiteShares]) -> list[Estimate]:
    found = list(suite_estimates(table, views))
    for view in views:
        found += unread_estimates(view)
        found += pair_estimates(view)
    return [*found, *group_estimates(table, views), *dose_estimates(table)]


def _quality(table: ReadingTable, folder: Path | None) -> Quality:
    """What the images themselves say, where they were scored."""
    if folder is None:
        return Quality()
    return quality_estimates(table.plan, folder, values_by_image(table, table.plan.primary.attribute))


def _circular(plan: Plan, table: ReadingTable) -> bool:
    return plan.training_reader is not None and plan.training_reader == table.reader


def _caps(plan: Plan, table: ReadingTable, sequential: Mapping[str, Any] | None) -> list[str]:  # Any: JSON
    """What holds every verdict down."""
    caps = []
    if _circular(plan, table):
        caps.append("the reader was used in training")
    if plan.tier == SMOKE_TIER:
        caps.append("tier smoke tests the plumbing only")
    if sequential is not None and sequential["stopped"] in STOPPED_EARLY:
        caps.append("the run stopped early")
    return caps


def _excluded(plan: Plan) -> tuple[str, ...]:
    """The texts of prompts that were left out because training used them."""
    texts = []
    given = plan.extra.get("excluded")
    for entry in given if isinstance(given, list) else []:
        prompt = entry.get("prompt", entry) if isinstance(entry, Mapping) else entry
        texts.append(str(prompt.get("text", prompt)) if isinstance(prompt, Mapping) else str(prompt))
    return tuple(texts)


def _sequential(plan: Plan, folder: Path) -> dict[str, Any] | None:  # Any: JSON
    """How a run in rounds ended: its last round's row of every tracked value."""
    rows = read_jsonl(folder / SEQUENTIAL_FILE) if plan.sequential is not None else []
    if not rows:
        return None
    last = max(row["round"] for row in rows)
    looks = [row for row in rows if row["round"] == last]
    return {"rounds": last, "stopped": looks[0]["stopped"], "looks": looks}


def _stopped_early(
    plan: Plan,
    estimates: Sequence[Estimate],
    sequential: Mapping[str, Any] | None,  # Any: JSON
) -> list[Estimate]:
    """The headline's shifts with the confidence sequence in the place of an interval that the stop made invalid."""
    if sequential is None or sequential["stopped"] not in STOPPED_EARLY:
        return list(estimates)
    bounds = {look["value"]: (look["low"], look["high"]) for look in sequential["looks"]}
    values = plan.attributes[plan.primary.attribute]
    if len(values) == 2 and len(bounds) == 1:
        low, high = bounds[values[0]]
        bounds[values[1]] = (None if high is None else -high, None if low is None else -low)
    level, how = sequential["looks"][0]["level"], f"stopped early: {sequential['looks'][0]['how']}"
    scope = (plan.primary.suite, plan.primary.attribute, SHIFT, None)
    return [
        replace(e, low=bounds[value][0], high=bounds[value][1], level=level, how=how)
        if (value := e.name.removeprefix("share:")) in bounds
        and e.name.startswith("share:")
        and (e.suite, e.attribute, e.arm, e.concept) == scope
        else e
        for e in estimates
    ]


def _selftest() -> dict[str, Any] | None:  # Any: JSON
    """What the last self-test of this installation found."""
    path = cache_folder() / SELFTEST_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    return dict(content) if isinstance(content, dict) else None


def analyse_folder(folder: Path) -> Results:
    """The results of an evaluation folder, from its plan, its readings and what else it holds."""
    plan = load_plan(folder)
    readings = load_readings(folder)
    refuse_copied_images(folder)
    return analyse(plan, readings, load_similarities(folder), plan_digest=plan_sha256(folder), folder=folder)


def results_json(results: Results) -> dict[str, Any]:  # Any: JSON
    """Results as they stand in ``results.json``."""
    content = asdict(results)
    content["primary"] = {"attribute": content.pop("primary_attribute"), "suite": content.pop("primary_suite")}
    content["second_readings"] = [{"reader": row["reader"], **row["estimate"]} for row in content["second_readings"]]
    return {"version": 1, **content}


def write_results(results: Results, folder: Path) -> Path:
    """Write ``results.json``; its path."""
    path = folder / RESULTS_FILE
    write_json_atomic(path, results_json(results))
    return path
