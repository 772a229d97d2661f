"""Who and what the pictures show: shares with intervals, and how far they are from what is wanted.

The picture is the independent draw, never the person in it. Letters: N pictures, K values or cells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenhand.captions.quotas import JOINT, cells_of
from evenhand.records import Attribute, SubjectReading
from evenhand.set_audit.pictures import Picture
from evenhand.set_audit.wanted import Wanted
from evenhand.stats.distances import distance_sq, noise_floor, total_variation
from evenhand.stats.groups import subject_share
from evenhand.stats.intervals import mean_interval

MOST_CELLS = 200  # of a joint; beyond, only the attributes one by one

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueShare:
    """A value (or cell) among the subjects read. ``least`` and ``most``: whatever the unread pictures show."""

    value: str
    count: int
    share: float | None
    low: float | None
    high: float | None
    least: float | None
    most: float | None
    target: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What a reader saw of an attribute, or of several together, in the pictures of a concept (None: of all).

    ``tv`` is half the sum of the differences to the target, ``tv_floor`` what it is on average where pictures on target
    are drawn by chance, and ``distance_sq`` the unbiased squared distance, which has no floor.
    """

    attribute: str
    concept: str | None
    reader: str
    values: tuple[ValueShare, ...]
    n_images: int
    n_read: int
    n_subjects: int
    tv: float | None
    tv_floor: float | None
    distance_sq: float | None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDistance:
    """The mean over concepts of the distances to target: opposite biases of two concepts do not cancel in it."""

    attribute: str
    reader: str
    n_concepts: int
    tv: float | None
    tv_floor: float | None
    distance_sq: float | None
    low: float | None
    high: float | None
    how: str

    @property
    def rms(self) -> float | None:
        """The root of the squared distance, zero where that is below zero."""
        return None if self.distance_sq is None else math.sqrt(max(0.0, self.distance_sq))


def groups_of(attributes: Sequence[Attribute]) -> list[tuple[Attribute, ...]]:
    """Each attribute by itself, and all of them together where there are several and not too many cells."""
    single: list[tuple[Attribute, ...]] = [(attribute,) for attribute in attributes]
    together = len(attributes) > 1 and math.prod(len(item.values) for item in attributes) <= MOST_CELLS
    return [*single, tuple(attributes)] if together else single


def count_cells(pictures: Sequence[Picture], reader: str, members: Sequence[Attribute]) -> Floats:
    """How many subjects of each cell each picture shows, (N, K); a subject counts where every member is read."""
    places = {cell: place for place, cell in enumerate(cells_of(members))}
    counts_NK = np.zeros((len(pictures), len(places)))
    names = [item.name for item in members]
    for row, picture in enumerate(pictures):
        for subject in by_subject(picture.readings.get(reader, ())).values():
            cell = tuple(subject[name].value for name in names if name in subject)
            place = places.get(cell)  # type: ignore[arg-type]  # a cell with an unread value is none
            if place is not None:
                counts_NK[row, place] += 1
    return counts_NK


def by_subject(readings: Sequence[SubjectReading]) -> dict[int, dict[str, SubjectReading]]:
    """The readings of each subject of a picture, by attribute."""
    found: dict[int, dict[str, SubjectReading]] = {}
    for reading in readings:
        found.setdefault(reading.subject, {})[reading.attribute] = reading
    return found


def shares_of(
    pictures: Sequence[Picture],
    wanted: Wanted,
    *,
    reader: str,
    level: float,
    of: Collection[str] | None = None,
) -> tuple[list[Shares], list[MeanDistance]]:
    """Shares of every attribute and of all together, over all pictures and for each concept, and their mean distance.

    ``of`` names the attributes of which ``reader`` says anything, if these are not all of them.
    The target over all pictures is what the concepts' targets come to with as many pictures as each has.
    """
    rows_of: dict[str | None, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault(picture.concept, []).append(row)
    shares: list[Shares] = []
    means: list[MeanDistance] = []
    for members in groups_of(wanted.attributes):
        names = [item.name for item in members]
        if of is not None and not set(of).issuperset(names):
            continue
        counts_NK = count_cells(pictures, reader, members)
        targets = wanted.shares(names, list(rows_of))
        values = [JOINT.join(cell) for cell in cells_of(members)]
        everything = _Group(JOINT.join(names), None, reader, values, level)
        shares.append(everything.of(counts_NK, _pooled(targets, rows_of)))
        concepts = [
            _Group(JOINT.join(names), concept, reader, values, level).of(counts_NK[rows], targets.get(concept))
            for concept, rows in rows_of.items()
            if concept is not None
        ]
        shares += concepts
        means.append(_mean_distance(JOINT.join(names), reader, concepts, level))
    return shares, means


def _pooled(
    targets: Mapping[str | None, tuple[float, ...]], rows_of: Mapping[str | None, Sequence[int]]
) -> tuple[float, ...] | None:
    """The target over all pictures; None where a concept has none, since then nothing is wanted of the whole."""
    if not targets or set(targets) != set(rows_of):
        return None
    weights = np.array([len(rows_of[concept]) for concept in targets], dtype=np.float64)
    mixed = weights @ np.array(list(targets.values())) / weights.sum()
    return tuple(float(share) for share in mixed)


@dataclass(frozen=True, slots=True)
class _Group:
    """The pictures that one row of the audit is about."""

    attribute: str
    concept: str | None
    reader: str
    values: Sequence[str]
    level: float

    def of(self, counts_NK: Floats, target: tuple[float, ...] | None) -> Shares:
        """Their shares and distances."""
        read_NK = counts_NK[counts_NK.sum(axis=1) > 0]
        n, how = len(read_NK), "not estimable: no subject was read"
        values = []
        for place, value in enumerate(self.values):
            found = subject_share(read_NK, place, level=self.level)
            how = found.how
            least, most = _bounds(counts_NK, place)
            values.append(
                ValueShare(
                    value=value,
                    count=int(counts_NK[:, place].sum()),
                    share=found.value,
                    low=found.low,
                    high=found.high,
                    least=least,
                    most=most,
                    target=None if target is None else target[place],
                )
            )
        return Shares(
            attribute=self.attribute,
            concept=self.concept,
            reader=self.reader,
            values=tuple(values),
            n_images=len(counts_NK),
            n_read=n,
            n_subjects=int(counts_NK.sum()),
            **_distances(read_NK, target),
            how=how,
        )


def _bounds(counts_NK: Floats, place: int) -> tuple[float | None, float | None]:
    """The share if every unread picture showed one subject without the value, and one with it."""
    if not len(counts_NK):
        return None, None
    unread, total = float((counts_NK.sum(axis=1) == 0).sum()), float(counts_NK.sum())
    count = float(counts_NK[:, place].sum())
    return count / (total + unread), (count + unread) / (total + unread)


def _distances(read_NK: Floats, target: tuple[float, ...] | None) -> dict[str, float | None]:
    if target is None or not len(read_NK):
        return {"tv": None, "tv_floor": None, "distance_sq": None}
    target_K = np.array(target)
    images_NK = read_NK / read_NK.sum(axis=1, keepdims=True)
    shares_K = read_NK.sum(axis=0) / read_NK.sum()
    return {
        "tv": float(total_variation(shares_K, target_K)),
        "tv_floor": noise_floor("tv", len(read_NK), target, target),
        "distance_sq": _defined(distance_sq(images_NK, target_K)),
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean_distance(attribute: str, reader: str, concepts: Sequence[Shares], level: float) -> MeanDistance:
    near = [entry for entry in concepts if entry.tv is not None and entry.tv_floor is not None]
    unbiased = {str(entry.concept): entry.distance_sq for entry in concepts if entry.distance_sq is not None}
    interval = mean_interval(np.array(list(unbiased.values())), list(unbiased), level=level)
    floors = [entry.tv_floor for entry in near if entry.tv_floor is not None]
    return MeanDistance(
        attribute=attribute,
        reader=reader,
        n_concepts=len(near),
        tv=_mean([entry.tv for entry in near if entry.tv is not None]),
        tv_floor=_mean(floors),
        distance_sq=interval.value,
        low=interval.low,
        high=interval.high,
        how=interval.how.replace("prompt", "concept"),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
