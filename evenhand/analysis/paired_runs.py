"""What two evaluation runs have in common: the same prompts and seeds, scored in all four arms.

Letters: N images that all four arms have, K values. The four arms are base and adapted of run a, then of run b.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.analysis.guards import shown
from evenhand.analysis.suite_shares import DIRECTED_SUITES
from evenhand.analysis.tables import ReadingTable
from evenhand.evaluation.folder import Similarity, load_readings, load_similarities
from evenhand.evaluation.plan import Plan
from evenhand.records import Prompt
from evenhand.stats import distances

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRun:
    """A run of a comparison, with the prompts that both runs have."""

    folder: Path
    plan: Plan
    table: ReadingTable
    similarities: list[Similarity]


def load_run(folder: Path, plan: Plan, shared: set[str]) -> PairedRun:
    """A run with its ``shared`` prompts only."""
    known = {prompt.id for prompt in plan.prompts}
    readings = [row for row in load_readings(folder) if row.prompt_id in shared or row.prompt_id not in known]
    kept = replace(plan, prompts=tuple(prompt for prompt in plan.prompts if prompt.id in shared))
    similarities = [row for row in load_similarities(folder) if row.prompt_id in shared]
    return PairedRun(folder=folder, plan=kept, table=ReadingTable(kept, readings), similarities=similarities)


class FourScores(NamedTuple):
    """A prompt's score in the four arms."""

    base_a: float
    adapted_a: float
    base_b: float
    adapted_b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRow:
    """One prompt in both runs, and how many pairs of images they share."""

    concept: str
    scores: FourScores
    n_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScores:
    """An estimate of a suite, prompt by prompt."""

    name: str
    suite: str
    attribute: str
    rows: Sequence[PairedRow]


def paired_scores(run_a: PairedRun, run_b: PairedRun) -> Iterator[PairedScores]:
    """Every headline estimate of two runs of the same plan, prompt by prompt."""
    plan = run_a.plan
    for suite in plan.suites:
        prompts = plan.in_suite(suite)
        if suite not in DIRECTED_SUITES:
            for attribute in run_a.table.values:
                if attribute not in plan.guard_attributes:
                    yield from _of_attribute(run_a, run_b, suite, attribute)
        if any(prompt.expects for prompt in prompts):
            yield _of_shown(run_a, run_b, suite, [prompt for prompt in prompts if prompt.expects])
    if run_a.similarities and run_b.similarities:
        yield _of_similarity(run_a, run_b)


def _of_attribute(run_a: PairedRun, run_b: PairedRun, suite: str, attribute: str) -> Iterator[PairedScores]:
    """Shares and gap, distances where there is a target, of images that all four arms have read; and what is unread."""
    plan = run_a.plan
    read = [(prompt, _read_rows(run_a, run_b, attribute, prompt)) for prompt in plan.in_suite(suite)]
    read = [(prompt, arms) for prompt, arms in read if len(arms[0])]
    if not read:
        return
    scores: dict[str, list[PairedRow]] = {}
    for prompt, arms in read:
        target = plan.target(attribute, prompt.concept)
        by_arm = [_scores_of(rows_NK, target, run_a.table.values[attribute]) for rows_NK in arms]
        for name in by_arm[0]:
            four = FourScores(*(entry[name] for entry in by_arm))
            row = PairedRow(concept=prompt.concept, scores=four, n_pairs=len(arms[0]))
            scores.setdefault(name, []).append(row)
    scores["unread"] = list(_unread(run_a, run_b, suite, attribute))
    for name, rows in scores.items():
        yield PairedScores(name=name, suite=suite, attribute=attribute, rows=rows)


def _scores_of(rows_NK: Floats, target: Sequence[float] | None, values: Sequence[str]) -> dict[str, float]:
    """Every estimate of one prompt in one arm."""
    shares_K = rows_NK.mean(axis=0)
    scores = {f"share:{value}": float(share) for value, share in zip(values, shares_K, strict=True)}
    scores["gap"] = float(distances.gap(shares_K))
    if target is not None:
        target_K = np.array(target)
        scores["tv"] = float(distances.total_variation(shares_K, target_K))
        scores["distance_sq"] = distances.distance_sq(rows_NK, target_K)
    return scores


def _images(table: ReadingTable, attribute: str, arm: str, prompt: Prompt) -> dict[int, Floats]:
    """What each image of a prompt shows, by seed: the share of each value, or an empty row where nobody was read."""
    images = table.images(attribute, arm)
    where = images.of_prompt(table.place(prompt.id))
    return {
        int(seed): counts_K / counts_K.sum() if counts_K.sum() else np.zeros(0)
        for seed, counts_K in zip(images.seed_N[where], images.counts_NK[where], strict=True)
    }


def _four_arms(run_a: PairedRun, run_b: PairedRun, attribute: str, prompt: Prompt) -> list[dict[int, Floats]]:
    """The images of a prompt in the four arms: those seeds that all have, in order."""
    arms = [_images(run.table, attribute, arm, prompt) for run in (run_a, run_b) for arm in run.plan.arms]
    shared = sorted(set.intersection(*(set(images) for images in arms)))
    return [{seed: images[seed] for seed in shared} for images in arms]


def _read_rows(run_a: PairedRun, run_b: PairedRun, attribute: str, prompt: Prompt) -> list[Floats]:
    """The rows of the seeds that all four arms have read."""
    arms = _four_arms(run_a, run_b, attribute, prompt)
    read = [seed for seed in arms[0] if all(len(images[seed]) for images in arms)]
    none = np.zeros((0, len(run_a.table.values[attribute])))
    return [np.stack([images[seed] for seed in read]) if read else none for images in arms]


def _unread(run_a: PairedRun, run_b: PairedRun, suite: str, attribute: str) -> Iterator[PairedRow]:
    for prompt in run_a.plan.in_suite(suite):
        arms = _four_arms(run_a, run_b, attribute, prompt)
        if arms[0]:
            four = FourScores(*(float(np.mean([not len(row) for row in images.values()])) for images in arms))
            yield PairedRow(concept=prompt.concept, scores=four, n_pairs=len(arms[0]))


def _of_shown(run_a: PairedRun, run_b: PairedRun, suite: str, prompts: Sequence[Prompt]) -> PairedScores:
    """The share of images that show what their prompt asks for."""
    rows = []
    arms = [(run.table, arm) for run in (run_a, run_b) for arm in run.plan.arms]
    for prompt in prompts:
        expected = list(prompt.expects or {})
        found = [set(table.subjects(name, arm, prompt.id)) for table, arm in arms for name in expected]
        seeds = sorted(set.intersection(*found))
        images = [shown(table, prompt, arm, seeds).shown_N for table, arm in arms]
        if seeds:
            four = FourScores(*(float(shown_N.mean()) for shown_N in images))
            rows.append(PairedRow(concept=prompt.concept, scores=four, n_pairs=len(seeds)))
    names = dict.fromkeys(name for prompt in prompts for name in prompt.expects or {})
    return PairedScores(name="shown", suite=suite, attribute=", ".join(names), rows=rows)


def _of_similarity(run_a: PairedRun, run_b: PairedRun) -> PairedScores:
    """How alike the two arms' unrelated images are; a base is alike to itself, so its score is 1."""
    values = [{(row.prompt_id, row.seed): row.value for row in run.similarities} for run in (run_a, run_b)]
    rows = []
    for prompt in run_a.plan.prompts:
        keys = [key for key in values[0] if key in values[1] and key[0] == prompt.id]
        if keys:
            like_a, like_b = (float(np.mean([by_key[key] for key in keys])) for by_key in values)
            four = FourScores(base_a=1.0, adapted_a=like_a, base_b=1.0, adapted_b=like_b)
            rows.append(PairedRow(concept=prompt.concept, scores=four, n_pairs=len(keys)))
    return PairedScores(name="similarity", suite="unrelated", attribute="pixels", rows=rows)
