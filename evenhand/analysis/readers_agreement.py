"""Several readers: how far they agree image by image, and the headline by each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evenhand.analysis.estimates import headline_estimates
from evenhand.analysis.suite_shares import open_suites
from evenhand.analysis.tables import Integers, ReadingTable
from evenhand.analysis.unread import unread_estimates
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate, Reading
from evenhand.stats.agreement import agreement_share, kappa

MIXED = "mixed"  # the label of an image whose subjects differ
UNREAD_CODE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often two readers say the same of an arm's images that both could read; kappa is beyond chance."""

    attribute: str
    arm: str
    reader: str
    other: str
    share: float | None
    kappa: float | None
    low: float | None
    high: float | None
    n_images: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondReading:
    """A headline estimate by another reader than the primary one."""

    reader: str
    estimate: Estimate


def other_tables(plan: Plan, readings: Sequence[Reading], readers: Sequence[str]) -> dict[str, ReadingTable]:
    """The tables of the readers after the first; without those who did not read both arms."""
    arms: dict[str, set[str]] = {reader: set() for reader in readers[1:]}
    for reading in readings:
        if reading.reader in arms and reading.attribute in plan.attributes:
            arms[reading.reader].add(reading.arm)
    return {reader: ReadingTable(plan, readings, reader) for reader, found in arms.items() if set(plan.arms) <= found}


def image_labels(table: ReadingTable, attribute: str, arm: str) -> tuple[Integers, Integers]:
    """(prompt place, seed) of every image of an arm, and the code of its one value: K where its subjects differ."""
    images = table.images(attribute, arm)
    shown_N = (images.counts_NK > 0).sum(axis=1)
    codes_N = np.where(shown_N == 1, images.counts_NK.argmax(axis=1), images.counts_NK.shape[1])
    return np.stack([images.prompt_N, images.seed_N], axis=1), np.where(shown_N == 0, UNREAD_CODE, codes_N)


def values_by_image(table: ReadingTable, attribute: str) -> dict[tuple[str, str, int], str | None]:
    """(arm, prompt id, seed) -> the value that all its subjects show, ``mixed`` when they differ, None when unread."""
    names: list[str | None] = [*table.values[attribute], MIXED, None]
    found: dict[tuple[str, str, int], str | None] = {}
    for arm in table.arms:
        keys, codes = image_labels(table, attribute, arm)
        for (place, seed), code in zip(keys.tolist(), codes.tolist(), strict=True):
            found[arm, table.plan.prompts[place].id, seed] = names[code]
    return found


def agreements(table: ReadingTable, others: Mapping[str, ReadingTable]) -> Iterator[Agreement]:
    """The primary reader against every other, for each attribute and arm that both read."""
    plan = table.plan
    for other, second in others.items():
        for attribute in plan.attributes:
            for arm in plan.arms:
                one, two = image_labels(table, attribute, arm), image_labels(second, attribute, arm)
                if len(one[0]) and len(two[0]):
                    yield _agreement(table, one, two, attribute=attribute, arm=arm, other=other)


def _agreement(
    table: ReadingTable,
    one: tuple[Integers, Integers],
    two: tuple[Integers, Integers],
    *,
    attribute: str,
    arm: str,
    other: str,
) -> Agreement:
    every, inverse = np.unique(np.concatenate([one[0], two[0]]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    codes = np.full((2, len(every)), UNREAD_CODE, dtype=np.int64)
    codes[0, inverse[: len(one[0])]] = one[1]
    codes[1, inverse[len(one[0]) :]] = two[1]
    read = np.all(codes != UNREAD_CODE, axis=0)
    names = [*table.values[attribute], MIXED]
    labels = [[names[code] for code in row[read].tolist()] for row in codes]
    clusters = [str(place) for place in every[read, 0].tolist()]
    interval = kappa(labels[0], labels[1], level=table.plan.level, clusters=clusters)
    num_prompts = len(set(clusters))
    unit = f"Cohen's kappa, jackknife over {num_prompts} prompts"
    return Agreement(
        attribute=attribute,
        arm=arm,
        reader=table.reader,
        other=other,
        share=agreement_share(labels[0], labels[1]),
        kappa=interval.value,
        low=interval.low,
        high=interval.high,
        n_images=int(read.sum()),
        how=unit if interval.low is not None and num_prompts > 1 else interval.how,
    )


def second_readings(others: Mapping[str, ReadingTable]) -> list[SecondReading]:
    """The headline estimates of every other reader, in every suite that leaves an attribute open."""
    return [
        SecondReading(reader=reader, estimate=estimate)
        for reader, table in others.items()
        for view in open_suites(table)
        if view.attribute in table.plan.attributes and (view.base.num_read or view.adapted.num_read)
        for estimate in (*headline_estimates(view), *unread_estimates(view))
    ]
