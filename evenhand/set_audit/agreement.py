"""What was not read, what was read with doubt, and where two readers, or a reader and the labels, differ."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.hygiene.skips import kind_of
from evenhand.records import Attribute
from evenhand.set_audit.pictures import Picture
from evenhand.set_audit.shares import by_subject
from evenhand.stats.agreement import agreement_share, kappa

MOST_REASONS = 12
MOST_EXAMPLES = 8
MOST_NAMED = 50  # pictures whose names an audit lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a reader got with an attribute. ``n_unread`` pictures show no subject whose value it could read.

    ``doubtful`` names pictures with a reading below the limit, the least sure first, and ``examples`` some of each
    value, by a hash of their names, so that nobody picked them; none where people are shown.
    """

    attribute: str
    reader: str
    n_images: int
    n_unread: int
    reasons: tuple[tuple[str, int], ...]
    n_doubtful: int
    doubtful: tuple[tuple[str, str, float], ...]
    examples: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often two say the same of a subject, and beyond chance; ``table`` counts (reader's value, other's value)."""

    attribute: str
    reader: str
    other: str
    n_subjects: int
    share: float | None
    kappa: float | None
    low: float | None
    high: float | None
    how: str
    table: tuple[tuple[str, str, int], ...]
    differ: tuple[tuple[str, str, str], ...]


def reach(pictures: Sequence[Picture], attribute: Attribute, reader: str, *, doubt_below: float, named: bool) -> Reach:
    """What a reader could not read of an attribute, and what it read with doubt."""
    reasons: Counter[str] = Counter()
    doubtful: list[tuple[str, str, float]] = []
    shown: dict[str, list[str]] = {value: [] for value in attribute.values}
    n_unread = 0
    for picture in pictures:
        said = [each for each in picture.readings.get(reader, ()) if each.attribute == attribute.name]
        if all(each.value is None for each in said):
            n_unread += 1
            reasons[kind_of(next((each.unread for each in said if each.unread), "not read"))] += 1
        if len(said) == 1 and said[0].value is not None:
            shown[said[0].value].append(picture.key)
        for each in said:
            if each.value is not None and each.probs is not None and max(each.probs) < doubt_below:
                doubtful.append((picture.key, each.value, round(max(each.probs), 4)))
    doubtful.sort(key=lambda entry: (entry[2], entry[0]))
    return Reach(
        attribute=attribute.name,
        reader=reader,
        n_images=len(pictures),
        n_unread=n_unread,
        reasons=tuple(reasons.most_common(MOST_REASONS)),
        n_doubtful=len({key for key, _, _ in doubtful}),
        doubtful=tuple(doubtful[:MOST_NAMED]) if named else (),
        examples=tuple((value, _some(keys)) for value, keys in shown.items() if keys) if named else (),
    )


def _some(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(heapq.nsmallest(MOST_EXAMPLES, keys, key=lambda key: hashlib.sha256(key.encode()).digest()))


def agreement(
    pictures: Sequence[Picture], attribute: Attribute, reader: str, other: str, *, level: float, named: bool
) -> Agreement:
    """How far two agree on the subjects that both read, in pictures in which both see as many subjects."""
    pairs: list[tuple[str, str, str]] = []
    for picture in pictures:
        mine, theirs = (by_subject(picture.readings.get(name, ())) for name in (reader, other))
        if set(mine) != set(theirs):
            continue
        for subject, readings in mine.items():
            one, two = (each.get(attribute.name) for each in (readings, theirs[subject]))
            if one is not None and two is not None and one.value is not None and two.value is not None:
                pairs.append((picture.key, one.value, two.value))
    ones, twos = [one for _, one, _ in pairs], [two for _, _, two in pairs]
    found = kappa(ones, twos, level=level)
    counts = Counter(zip(ones, twos, strict=True))
    return Agreement(
        attribute=attribute.name,
        reader=reader,
        other=other,
        n_subjects=len(pairs),
        share=agreement_share(ones, twos),
        kappa=found.value,
        low=found.low,
        high=found.high,
        how=found.how,
        table=tuple((one, two, counts[one, two]) for one in attribute.values for two in attribute.values),
        differ=tuple(entry for entry in pairs if entry[1] != entry[2])[:MOST_NAMED] if named else (),
    )
