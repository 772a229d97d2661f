"""What a run's folders say: distances to target prompt by prompt, guards, quality, and what the adapter cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from evenhand.adapters.file import WEIGHTS_NAME
from evenhand.analysis.estimates import squared_distances
from evenhand.analysis.suite_shares import SHIFT, ArmShares, open_suites
from evenhand.analysis.tables import Floats, ReadingTable
from evenhand.evaluation.folder import load_readings
from evenhand.evaluation.plan import Plan, load_plan, plan_json
from evenhand.files import read_json, sha256_json
from evenhand.launch import EVALUATION_FOLDER
from evenhand.method_benchmark.bars import Bar, Part, parts_of
from evenhand.method_benchmark.names import ADAPTER_ARM, BASE, TRAINING_FOLDER
from evenhand.method_benchmark.plan import BUILD, Run, note_name
from evenhand.records import Guard
from evenhand.run import PROVENANCE
from evenhand.stats.intervals import Interval
from evenhand.stats.over_prompts import distance_sampling_variance
from evenhand.training.outcome import RESULT_FILE

# What follows from the competitor, how its images are made, and the prompts, which are compared one by one. All else of
# two plans must be the same.
OF_THE_COMPETITOR = ("training_reader", "training_captions", "excluded", "seen", "mde", "generation", "arms", "prompts")


class Figure(NamedTuple):
    """An estimate of pictures' quality: of the headline's suite and attribute where none is named.

    With ``arm: adapted`` the base has one as well; ``shift`` is a change.
    """

    says: str
    name: str
    arm: str
    suite: str | None = None
    attribute: str | None = None


SCORER = "scorer"  # in the place of an attribute: an estimate of the scorer's, which is about no attribute
QUALITY = (
    Figure("image-text score", "image_text", ADAPTER_ARM, attribute=SCORER),
    Figure("its change within values", "image_text_within", SHIFT),
    Figure("diversity within values", "diversity", ADAPTER_ARM),
    Figure("its change", "diversity", SHIFT),
    Figure("unread images", "unread", ADAPTER_ARM),
    Figure(
        "unrelated pictures: similarity to the base's", "similarity", SHIFT, suite="unrelated", attribute="features"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Unbiased squared distances to the target by prompt, of the base and of the competitor, and each one's concept.

    ``*_noise`` is the variance of each that sampling its images alone gives.
    """

    base: Mapping[str, float]
    adapted: Mapping[str, float]
    base_noise: Mapping[str, float]
    adapted_noise: Mapping[str, float]
    concepts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a training took: seconds of wall clock, processes, memory, and the adapter's size on the disk.

    ``at_least`` tells that a session was killed, whose seconds nobody knows. ``peak_bytes`` are the main process's.
    ``set_seconds`` are those of building the curated set, None where that was not noted.
    """

    seconds: float | None
    at_least: bool
    set_seconds: float | None
    num_processes: int | None
    peak_bytes: int | None
    adapter_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What a baseline may set otherwise than the methods: then its images have a base of their own."""

    steps: int
    guidance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run that was measured. ``scores`` are by (suite, attribute), ``question`` tells what was asked.

    ``asked`` holds for each prompt what it asks, as a hash; ``num_values`` is by attribute and joint. ``quality`` is by
    what a figure says and base, adapted or shift, ``bars`` by the bar's name and then base or adapted. Intervals are
    those over prompts, at ``level``; ``commit`` is evenhand's, None for an installed package.
    """

    run: Run
    primary: tuple[str, str]
    scores: Mapping[tuple[str, str], Scores]
    guards: tuple[Guard, ...]
    quality: Mapping[tuple[str, str], Interval]
    bars: Mapping[str, Mapping[str, tuple[Part, ...]]]
    cost: Cost | None
    question: str
    asked: Mapping[str, str]
    num_values: Mapping[str, int]
    sampling: Sampling | None
    level: float
    commit: str | None


def measured(run: Run, bars: Mapping[str, Bar]) -> Measured:
    """A run as its folders have it, with what it has of the bars of its case."""
    folder = run.folder / EVALUATION_FOLDER
    plan = load_plan(folder)
    results = read_json(folder / "results.json")
    table = ReadingTable(plan, load_readings(folder))
    made = plan.generation
    return Measured(
        run=run,
        primary=(plan.primary.suite, plan.primary.attribute),
        scores=_scores(table),
        guards=tuple(Guard(**row) for row in results["guards"]),
        quality=_quality(plan, results["estimates"]),
        bars={name: parts_of(bar, table, results) for name, bar in bars.items() if bar.case == run.case},
        cost=None if run.seed is None else _cost(run, run.seed),
        question=_question(plan),
        asked=_asked(plan),
        num_values={name: len(values) for name, values in table.values.items()},
        sampling=None if made is None else Sampling(steps=made.steps, guidance=made.guidance),
        level=plan.level,
        commit=_commit(run),
    )


def _scores(table: ReadingTable) -> dict[tuple[str, str], Scores]:
    scores = {}
    for view in open_suites(table):
        base_J, adapted_J = (squared_distances(arm, view.targets_JK) for arm in (view.base, view.adapted))
        used = [place for place in range(len(view.prompts)) if np.isfinite(base_J[place] + adapted_J[place])]
        if used:
            ids = [view.prompts[place].id for place in used]
            scores[view.suite, view.attribute] = Scores(
                base=dict(zip(ids, map(float, base_J[used]), strict=True)),
                adapted=dict(zip(ids, map(float, adapted_J[used]), strict=True)),
                base_noise=_noise(view.base, view.targets_JK, ids, used),
                adapted_noise=_noise(view.adapted, view.targets_JK, ids, used),
                concepts={view.prompts[place].id: view.prompts[place].concept for place in used},
            )
    return scores


def _noise(shares: ArmShares, targets_JK: Floats, ids: Sequence[str], used: Sequence[int]) -> dict[str, float]:
    """The sampling variance of each prompt's squared distance, one prompt at a time."""
    rows = [(shares.shares_JK[[at]], shares.read_J[[at]], targets_JK[[at]]) for at in used]
    return {name: distance_sampling_variance(*row) for name, row in zip(ids, rows, strict=True)}


def _quality(plan: Plan, estimates: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Interval]:  # Any: JSON
    """The estimates of QUALITY by what they say and by base, adapted or shift; none where nothing was scored."""
    arms = {plan.arms[0]: BASE, plan.arms[1]: ADAPTER_ARM, SHIFT: SHIFT}
    found = {}
    for figure in QUALITY:
        own_arms = (BASE, ADAPTER_ARM) if figure.arm == ADAPTER_ARM else (SHIFT,)
        for row in estimates:
            of_suite = row["suite"] == (figure.suite or plan.primary.suite) and row["concept"] is None
            about = (
                SCORER if row["attribute"] not in plan.attributes and figure.attribute == SCORER else row["attribute"]
            )
            of_attribute = about == (figure.attribute or plan.primary.attribute)
            if row["name"] == figure.name and of_suite and of_attribute and arms.get(row["arm"]) in own_arms:
                found[figure.says, arms[row["arm"]]] = Interval(row["value"], row["low"], row["high"], row["how"])
    return found


def _question(plan: Plan) -> str:
    """What was asked, beside the competitor and the prompts: targets, reader, margins, base and size of the images."""
    content = {key: value for key, value in plan_json(plan).items() if key not in OF_THE_COMPETITOR}
    made = plan.generation
    images = None if made is None else [made.height_px, made.width_px, made.base_fingerprint]
    return sha256_json({**content, "images": images})


def _asked(plan: Plan) -> dict[str, str]:
    """Of each prompt the hash of its text, of what it expects, and of its seeds."""
    seeds = {} if plan.generation is None else plan.generation.seeds
    return {
        prompt.id: sha256_json(
            [prompt.text, prompt.concept, dict(prompt.expects or {}), list(seeds.get(prompt.id, ()))]
        )
        for prompt in plan.prompts
    }


def _commit(run: Run) -> str | None:
    """The commit that the adapter was trained with; of a baseline, that which it was measured with."""
    folder = run.folder / (EVALUATION_FOLDER if run.seed is None else TRAINING_FOLDER)
    if not (folder / PROVENANCE).is_file():
        return None
    git = read_json(folder / PROVENANCE)["git"]
    return f"{git['commit']}, changed" if git["dirty"] else git["commit"]


def _cost(run: Run, seed: int) -> Cost:
    training = run.folder / TRAINING_FOLDER
    provenance = read_json(training / PROVENANCE)
    result = read_json(training / RESULT_FILE) if (training / RESULT_FILE).is_file() else {}
    built = run.set_folder(seed) / note_name(BUILD)
    return Cost(
        seconds=provenance["wall_seconds"],
        at_least=any(session["wall_seconds"] is None for session in provenance["sessions"]),
        set_seconds=read_json(built)["seconds"] if built.is_file() else None,
        num_processes=provenance["world_size"],
        peak_bytes=result.get("peak_device_bytes") or result.get("peak_bytes"),
        adapter_bytes=(training / "adapter" / WEIGHTS_NAME).stat().st_size,
    )
