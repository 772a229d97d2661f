"""Two evaluations of adapters or baselines, compared pair by pair on the prompts and seeds that both have.

The difference of shifts is made prompt by prompt from images that all four arms have read, and its interval is a t
interval over prompts: what both adapters do alike cancels (Miller 2024, arXiv 2411.00640, section 4.2). Plans that
differ in anything but the adapter ask two questions, and are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.analysis.paired_runs import PairedRun, PairedScores, load_run, paired_scores
from evenhand.evaluation.folder import load_images
from evenhand.evaluation.plan import Plan, load_plan, plan_json, plan_sha256
from evenhand.files import read_json, sha256_json
from evenhand.stats.intervals import mean_interval

Json = dict[str, Any]  # Any: JSON

# What follows from the adapter and its training, so that two plans may differ in it.
OF_THE_ADAPTER = ("training_reader", "training_captions", "excluded", "seen", "mde")
ADAPTER_KEYS = ("adapter_sha256", "adapter_scale", "arm")
SEEDS_FIELD = "generation.seeds"
RESULTS_FILE = "results.json"
TIED, NOT_COMPARABLE = "tied", "not comparable"
# A share or a gap is better in neither direction by itself: that depends on a target, to which the distances are made.
LESS_IS_BETTER = ("tv", "distance_sq", "unread")
MORE_IS_BETTER = ("shown", "similarity")
HEADLINES = {"distance_sq": "squared distance to target", "gap": "gap"}  # the first that there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the shifts of two runs differ in one estimate: ``value`` is that of run b minus that of run a.

    ``verdict`` is ``tied`` where the interval contains zero, else which run's shift is higher; ``better`` names a run
    where one direction is better.
    """

    name: str
    suite: str
    attribute: str
    shift_a: float | None
    shift_b: float | None
    value: float | None
    low: float | None
    high: float | None
    level: float
    n_prompts: int
    n_pairs: int
    verdict: str
    better: str | None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What tells a run of a comparison: its folder, plan, second arm and adapter, and the guards that it failed.

    For a baseline, which has no weights, ``adapter_sha256`` is that of what it does.
    """

    folder: str
    plan_sha256: str
    arm: str
    adapter_sha256: str | None
    failed_guards: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that a comparison shows; ``answer`` is its first paragraph."""

    run_a: RunFacts
    run_b: RunFacts
    primary: Mapping[str, str]
    reader: str
    answer: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(folder_a: Path, folder_b: Path) -> Comparison:
    """The comparison of two evaluation folders; ValueError names the fields in which their plans differ."""
    plan_a, plan_b = load_plan(folder_a), load_plan(folder_b)
    fields = differing_fields(plan_a, plan_b)
    if fields:
        raise ValueError(
            f"{folder_a} and {folder_b} ask different questions: their plans differ in {', '.join(fields)}; "
            "evaluate both adapters with the same configuration"
        )
    shared = {prompt.id for prompt in plan_a.prompts} & {prompt.id for prompt in plan_b.prompts}
    if not shared:
        raise ValueError(f"{folder_a} and {folder_b} have no prompt in common")
    run_a, run_b = load_run(folder_a, plan_a, shared), load_run(folder_b, plan_b, shared)
    if run_a.table.reader != run_b.table.reader:
        raise ValueError(
            f"{folder_a} is read by {run_a.table.reader}, {folder_b} by {run_b.table.reader}; read both by one reader"
        )
    differences = tuple(_difference(scores, plan_a.level) for scores in paired_scores(run_a, run_b))
    return Comparison(
        run_a=_facts(run_a),
        run_b=_facts(run_b),
        primary={"attribute": plan_a.primary.attribute, "suite": plan_a.primary.suite},
        reader=run_a.table.reader,
        answer=_answer(run_a, run_b, differences),
        differences=differences,
        notes=tuple(_notes(run_a, run_b)),
    )


def differing_fields(plan_a: Plan, plan_b: Plan) -> list[str]:
    """The dotted names of the fields in which two plans differ, those of the adapter aside.

    A prompt that was excluded on account of one adapter's training is no difference, so long as the other plan has it.
    """
    excluded = {entry["prompt"]["id"] for plan in (plan_a, plan_b) for entry in plan.extra.get("excluded", ())}
    return list(_fields(_comparable(plan_a, excluded), _comparable(plan_b, excluded)))


def _comparable(plan: Plan, excluded: Collection[str]) -> Json:
    """A plan as JSON without what is the adapter's, and with its own ``excluded`` prompts put back."""
    content = {key: value for key, value in plan_json(plan).items() if key not in OF_THE_ADAPTER}
    own = plan.extra.get("excluded", ())
    asked = {row["id"]: row for row in (*content.pop("prompts"), *(entry["prompt"] for entry in own))}
    content["prompts"] = [asked[name] for name in sorted(asked)]
    content["arms"] = content["arms"][:1]  # what the second is called is the adapter's or the baseline's
    if plan.generation is None:
        return content
    # Of a prompt that was not generated only the number of its seeds is known.
    seeds: dict[str, object] = {
        prompt: len(values) if prompt in excluded else list(values) for prompt, values in plan.generation.seeds.items()
    }
    seeds |= {entry["prompt"]["id"]: entry["seeds"] for entry in own}
    generation = {key: value for key, value in content["generation"].items() if key not in ADAPTER_KEYS}
    return {**content, "generation": {**generation, "seeds": seeds}}


def _fields(one: object, other: object, prefix: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and prefix != SEEDS_FIELD:
        for key in {**one, **other}:
            yield from _fields(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif sha256_json(one) != sha256_json(other):
        yield prefix


def _facts(run: PairedRun) -> RunFacts:
    failed = None
    if (run.folder / RESULTS_FILE).is_file():
        guards = read_json(run.folder / RESULTS_FILE).get("guards", [])
        failed = tuple(f"{guard['name']} ({guard['suite']})" for guard in guards if not guard["passed"])
    return RunFacts(
        folder=run.folder.as_posix(),
        plan_sha256=plan_sha256(run.folder),
        arm=run.plan.arms[1],
        adapter_sha256=None if run.plan.generation is None else run.plan.generation.adapter_sha256,
        failed_guards=failed,
    )


def _difference(scores: PairedScores, level: float) -> Difference:
    """The mean over prompts of the difference of both runs' shifts."""
    rows = [row for row in scores.rows if not np.isnan(row.scores).any()]
    shifts_a = np.array([row.scores.adapted_a - row.scores.base_a for row in rows])
    shifts_b = np.array([row.scores.adapted_b - row.scores.base_b for row in rows])
    interval = mean_interval(shifts_b - shifts_a, [row.concept for row in rows], level=level)
    if interval.value and interval.low == interval.high:
        how = f"{interval.how}: every prompt differs by the same, so how prompts like these would differ is not known"
        interval = interval._replace(low=None, high=None, how=how)
    verdict, better = NOT_COMPARABLE, None
    if interval.low is not None and interval.high is not None and interval.value is not None:
        verdict = TIED
        if not interval.low <= 0 <= interval.high:
            verdict = "run b is higher" if interval.value > 0 else "run b is lower"
            better = _better(scores.name, interval.value)
    return Difference(
        name=scores.name,
        suite=scores.suite,
        attribute=scores.attribute,
        shift_a=float(shifts_a.mean()) if rows else None,
        shift_b=float(shifts_b.mean()) if rows else None,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=level,
        n_prompts=len(rows),
        n_pairs=sum(row.n_pairs for row in rows),
        verdict=verdict,
        better=better,
        how=interval.how,
    )


def _better(name: str, value: float) -> str | None:
    if name in LESS_IS_BETTER:
        return "run_b" if value < 0 else "run_a"
    if name in MORE_IS_BETTER:
        return "run_b" if value > 0 else "run_a"
    return None


def _answer(run_a: PairedRun, run_b: PairedRun, differences: Sequence[Difference]) -> str:
    """The headline: whose images came nearer to the target, or that the two are tied."""
    primary = run_a.plan.primary
    of_primary = {
        entry.name: entry
        for entry in differences
        if (entry.suite, entry.attribute) == (primary.suite, primary.attribute)
    }
    entry = next((of_primary[name] for name in HEADLINES if name in of_primary), None)
    what = f"On {primary.suite} prompts"
    if entry is None or entry.value is None or entry.low is None or entry.high is None:
        how = "no image was read in all four arms" if entry is None else entry.how
        return f"{what} the change in perceived {primary.attribute} cannot be compared: {how}."
    numbers = (
        f"{what} the {HEADLINES[entry.name]} of perceived {primary.attribute} changes by {entry.shift_a:+.3f} in run a "
        f"and by {entry.shift_b:+.3f} in run b: a difference of {entry.value:+.3f}, {100 * entry.level:.0f} % interval "
        f"{entry.low:+.3f} to {entry.high:+.3f}, over {entry.n_prompts} prompts and {entry.n_pairs} shared pairs of "
        f"images, by reader {run_a.table.reader}."
    )
    if entry.verdict == TIED:
        return f"{numbers} The two are tied."
    if entry.better is None:
        return f"{numbers} {entry.verdict.capitalize()}."
    return f"{numbers} Run {entry.better[-1]} comes nearer to the target."


def _notes(run_a: PairedRun, run_b: PairedRun) -> Iterator[str]:
    """What else must be known of a comparison."""
    yield (
        "Values are run b minus run a, prompt by prompt, of the shifts of both. The headline is one of many lines: "
        "among the others some differ by chance."
    )
    images_a, images_b = load_images(run_a.folder), load_images(run_b.folder)
    base = [key for key in images_a if key[0] == run_a.plan.arms[0] and key in images_b]
    other = sum(images_a[key].sha256 != images_b[key].sha256 for key in base)
    if other:
        yield f"{other} of {len(base)} base images of the two runs are not the same file: another machine made them."
    left = [sorted(set(_ids(run.folder)) - {prompt.id for prompt in run.plan.prompts}) for run in (run_a, run_b)]
    if any(left):
        yield (
            f"Left out, since the other adapter's training showed them: {len(left[0])} prompts of run a, "
            f"{len(left[1])} of run b."
        )
    made = [run.plan.generation for run in (run_a, run_b)]
    if made[0] is not None and made[1] is not None:
        if made[0].adapter_sha256 == made[1].adapter_sha256:
            yield "Both runs are of the same adapter."
        if made[0].adapter_scale != made[1].adapter_scale:
            yield f"Adapters are scaled by {made[0].adapter_scale:g} in run a and {made[1].adapter_scale:g} in run b."
    if run_a.plan.sequential is not None:
        yield "Runs that stopped early are compared on what both have made; such intervals are too narrow."


def _ids(folder: Path) -> Iterator[str]:
    yield from (prompt.id for prompt in load_plan(folder).prompts)
