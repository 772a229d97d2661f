"""Guards: what must not have changed. A guard is run when the plan declares its margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evenhand.analysis.estimates import one_share, one_shift
from evenhand.analysis.suite_shares import DIRECTED_SUITES, SHIFT
from evenhand.analysis.tables import Floats, ReadingTable
from evenhand.evaluation.folder import Similarity
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate, Guard, Prompt
from evenhand.stats.equivalence import tost_of_interval
from evenhand.stats.intervals import Interval, mean_interval

TOLERANCE = 1e-9
# A guard's name is the key of its margin. What a prompt of another suite expects is that its picture can still be read.
GUARD_OF_SUITE = {"explicit": "explicit", "fixed": "fixed"}
READABLE = "readable"
UNREAD = "unread"
SIMILARITY = "unrelated_similarity"
# What two one-sided tests say (Schuirmann 1987), by the verdict of stats.equivalence.
EVIDENCE = {"within": "no harm shown", "beyond": "harm shown", "not settled": "inconclusive"}

Change = Callable[[float], Interval]  # of the level of its interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """For each image of a prompt in an arm, the share of its subjects that show all that the prompt expects.

    A subject that was not read does not show it: if people vanish, obedience has fallen.
    """

    shown_N: Floats
    n_unread: int


def shown(table: ReadingTable, prompt: Prompt, arm: str, seeds: Sequence[int]) -> Shown:
    """What images of a prompt show of what it expects; images without any reading of it are left out."""
    expects = prompt.expects or {}
    if len(expects) == 1:
        return _shown_one(table, prompt, arm, seeds)
    scores, unread = [], 0
    for seed in seeds:
        found = {name: table.subjects(name, arm, prompt.id).get(seed, {}) for name in expects}
        if not all(found.values()):
            continue
        subjects = sorted({subject for values in found.values() for subject in values})
        right = [all(found[name].get(subject) == value for name, value in expects.items()) for subject in subjects]
        scores.append(float(np.mean(right)))
        unread += any(all(value is None for value in values.values()) for values in found.values())
    return Shown(shown_N=np.array(scores), n_unread=unread)


def _shown_one(table: ReadingTable, prompt: Prompt, arm: str, seeds: Sequence[int]) -> Shown:
    """The same where one attribute is expected, which needs no look at single subjects."""
    ((name, value),) = (prompt.expects or {}).items()
    images = table.images(name, arm)
    where = images.of_prompt(table.place(prompt.id))
    chosen = np.isin(images.seed_N[where], np.array(list(seeds), dtype=np.int64))
    counts_NK = images.counts_NK[where][chosen]
    right_N = counts_NK[:, table.values[name].index(value)]
    return Shown(shown_N=right_N / images.subjects_N[where][chosen], n_unread=int(np.sum(counts_NK.sum(axis=1) == 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """One row for each prompt that can be compared: its images in both arms."""

    concepts: list[str]
    base: list[Shown]
    adapted: list[Shown]


def _rows(table: ReadingTable, prompts: Sequence[Prompt]) -> _Rows:
    rows = _Rows(concepts=[], base=[], adapted=[])
    for prompt in prompts:
        by_arm = []
        for arm in table.plan.arms:
            seeds = sorted({seed for name in prompt.expects or {} for seed in table.seeds_of(name, arm, prompt.id)})
            by_arm.append(shown(table, prompt, arm, seeds))
        if all(len(entry.shown_N) for entry in by_arm):
            rows.concepts.append(prompt.concept)
            rows.base.append(by_arm[0])
            rows.adapted.append(by_arm[1])
    return rows


def shown_estimates(table: ReadingTable) -> Iterator[Estimate]:
    """``shown``: the share of images that show what their prompt asks for, in both arms, and its change."""
    for suite in table.plan.suites:
        prompts = [prompt for prompt in table.plan.in_suite(suite) if prompt.expects]
        if not prompts:
            continue
        rows = _rows(table, prompts)
        attribute = ", ".join(dict.fromkeys(name for prompt in prompts for name in prompt.expects or {}))
        level = table.plan.level
        for arm, entries in zip(table.plan.arms, (rows.base, rows.adapted), strict=True):
            means = np.array([entry.shown_N.mean() for entry in entries])
            interval = mean_interval(means, rows.concepts, level=level)
            if entries and interval.low is not None and interval.low == interval.high:
                pooled = one_share(np.concatenate([entry.shown_N for entry in entries]), level)
                interval = pooled._replace(value=interval.value, how=f"no spread between prompts; {pooled.how}")
            yield _shown_estimate(table.plan, suite, attribute, arm, interval, entries, bounds=(0.0, 1.0))
        change = _change(table, rows, level)
        yield _shown_estimate(table.plan, suite, attribute, SHIFT, change, rows.adapted, bounds=(-1.0, 1.0))


def _change(table: ReadingTable, rows: _Rows, level: float) -> Interval:
    pairs = zip(rows.base, rows.adapted, strict=True)
    changes = np.array([adapted.shown_N.mean() - base.shown_N.mean() for base, adapted in pairs])
    interval = mean_interval(changes, rows.concepts, level=level)
    if interval.low is None or interval.low != interval.high:
        return interval
    base, adapted = (np.concatenate([entry.shown_N for entry in entries]) for entries in (rows.base, rows.adapted))
    pooled = one_shift(base, adapted, paired=table.paired and len(base) == len(adapted), level=level)
    return pooled._replace(value=interval.value, how=f"no spread between prompts; {pooled.how}")


def _shown_estimate(
    plan: Plan,
    suite: str,
    attribute: str,
    arm: str,
    interval: Interval,
    entries: Sequence[Shown],
    *,
    bounds: tuple[float, float],
) -> Estimate:
    low, high = interval.low, interval.high
    return Estimate(
        name="shown",
        suite=suite,
        concept=None,
        attribute=attribute,
        arm=arm,
        value=interval.value,
        low=None if low is None else max(bounds[0], low),
        high=None if high is None else min(bounds[1], high),
        level=plan.level,
        n_prompts=len(entries),
        n_images=sum(len(entry.shown_N) for entry in entries),
        n_unread=sum(entry.n_unread for entry in entries),
        floor=None,
        how=f"{interval.how}; an unread image does not show it",
    )


def guards(table: ReadingTable, similarities: Sequence[Similarity]) -> Iterator[Guard]:
    """Every guard whose margin the plan declares and whose prompts it has."""
    plan = table.plan
    for suite in plan.suites:
        name = GUARD_OF_SUITE.get(suite, READABLE)
        prompts = [prompt for prompt in plan.in_suite(suite) if prompt.expects]
        if prompts and name in plan.margins:
            rows = _rows(table, prompts)
            images = sum(len(entry.shown_N) for entry in rows.adapted)
            yield judged(plan, name, suite, lambda level, rows=rows: _change(table, rows, level), n_images=images)  # type: ignore[misc]  # binds the loop's rows
    if SIMILARITY in plan.margins and similarities:
        yield judged(plan, SIMILARITY, "unrelated", lambda level: similarity_loss(plan, similarities, level))
    if UNREAD in plan.margins:
        for suite in plan.suites:
            if suite not in DIRECTED_SUITES:
                change = unread_change(table, suite)
                if change is not None:
                    yield judged(plan, UNREAD, suite, change.interval, n_images=change.n_images, two_sided=True)


def judged(
    plan: Plan, name: str, suite: str, change: Change, *, n_images: int | None = None, two_sided: bool = False
) -> Guard:
    """A guard's verdict: the change itself, or the worse end of its interval, is within the margin.

    The margin of a share is at least one image of ``n_images``: less cannot be told from nothing. A change that cannot
    be estimated has not been shown to be harmless, so its guard fails. Whether harmlessness is *shown* is another
    question: the interval at ``1 - 2 alpha`` must be within the margin.
    """
    interval, narrow = change(plan.level), change(max(0.0, 1 - 2 * plan.alpha))
    margin = plan.margins[name] if not n_images else max(plan.margins[name], 1 / n_images)
    low = interval.value if plan.guard_rule == "point" else interval.low
    high = interval.value if plan.guard_rule == "point" else interval.high
    passed = low is not None and high is not None and low >= -margin - TOLERANCE
    if two_sided and passed:
        assert high is not None
        passed = high <= margin + TOLERANCE
    return Guard(
        name=name,
        suite=suite,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        margin=margin,
        passed=passed,
        evidence=EVIDENCE[tost_of_interval(narrow, low=-margin, high=margin if two_sided else math.inf)],
    )


def similarity_loss(plan: Plan, similarities: Sequence[Similarity], level: float) -> Interval:
    """Mean over prompts of the pair similarity, minus one: 0 when nothing changed."""
    concepts = {prompt.id: prompt.concept for prompt in plan.prompts}
    by_prompt: Mapping[str, list[float]] = {row.prompt_id: [] for row in similarities}
    for row in similarities:
        by_prompt[row.prompt_id].append(row.value)
    means = np.array([np.mean(values) for values in by_prompt.values()]) - 1.0
    return mean_interval(means, [concepts[prompt] for prompt in by_prompt], level=level)


def similarity_estimates(plan: Plan, similarities: Sequence[Similarity]) -> Iterator[Estimate]:
    """``similarity`` of same-seed pairs; as a yardstick, that of base images of the same prompt with another seed."""
    if not similarities:
        return
    concepts = {prompt.id: prompt.concept for prompt in plan.prompts}
    yardstick = [row for row in similarities if row.yardstick is not None]
    for name, arm, rows in (("similarity", SHIFT, similarities), ("similarity_yardstick", plan.arms[0], yardstick)):
        by_prompt: dict[str, list[float]] = {}
        for row in rows:
            value = row.value if name == "similarity" else row.yardstick
            assert value is not None
            by_prompt.setdefault(row.prompt_id, []).append(value)
        means = np.array([np.mean(values) for values in by_prompt.values()])
        interval = mean_interval(means, [concepts[prompt] for prompt in by_prompt], level=plan.level)
        yield Estimate(
            name=name,
            suite="unrelated",
            concept=None,
            attribute="pixels",
            arm=arm,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            level=plan.level,
            n_prompts=len(by_prompt),
            n_images=len(rows),
            n_unread=0,
            floor=None,
            how=f"{rows[0].measure if rows else 'no pair'}; {interval.how}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadChange:
    """The change in unread images, of the level of its interval, and how many images an arm has."""

    interval: Change
    n_images: int


def unread_change(table: ReadingTable, suite: str) -> UnreadChange | None:
    """Change in the share of images in which the primary attribute was not read; None where it never is."""
    attribute = table.plan.primary.attribute
    rows = [table.prompt_shares(attribute, prompt) for prompt in table.plan.in_suite(suite)]
    rows = [row for row in rows if row.base.n_images and row.adapted.n_images]
    if not any(len(row.base.images_NK) for row in rows):
        return None
    changes = [row.adapted.n_unread / row.adapted.n_images - row.base.n_unread / row.base.n_images for row in rows]
    concepts = [row.prompt.concept for row in rows]
    return UnreadChange(
        interval=lambda level: mean_interval(np.array(changes), concepts, level=level),
        n_images=sum(row.adapted.n_images for row in rows),
    )
