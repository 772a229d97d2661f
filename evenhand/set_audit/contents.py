"""What a set is made of: its concepts, files, licences, and pictures that come more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from evenhand.hygiene.duplicates import duplicate_groups, near_duplicate_groups
from evenhand.hygiene.skips import Skips
from evenhand.set_audit.pictures import Picture
from evenhand.sources.records import Skipped

MOST_GROUPS, MOST_KEYS = 30, 8
NO_LICENCE = "none given"

Json = dict[str, Any]  # Any: JSON


def skipped_rows(skipped: Sequence[Skipped]) -> list[Json]:
    """What could not be used, by reason, with up to three names each."""
    tally = Skips()
    for each in skipped:
        tally.add(each.key, each.reason)
    return tally.rows()


def contents(pictures: Sequence[Picture], *, license_of_all: str) -> Json:
    """Counts of concepts, licences, formats, sizes, and of what was changed to use a picture."""
    sides = sorted(picture.side_px for picture in pictures)
    return {
        "concepts": dict(Counter(picture.concept for picture in pictures if picture.concept is not None)),
        "n_without_concept": sum(picture.concept is None for picture in pictures),
        "licenses": _counted(picture.license or license_of_all or NO_LICENCE for picture in pictures),
        "sources": _counted(picture.source for picture in pictures if picture.source),
        "formats": _counted(picture.format for picture in pictures),
        "notes": _counted(note for picture in pictures for note in picture.notes),
        "shorter_side_px": {"least": sides[0], "median": sides[len(sides) // 2], "most": sides[-1]} if sides else None,
    }


def _counted(values: Any) -> dict[str, int]:  # Any: an iterable of texts
    return dict(Counter(values).most_common())


def duplicates(pictures: Sequence[Picture], *, near_distance: int | None) -> Json:
    """Groups of equal files, and of pictures that look alike; equal files count once among the latter."""
    equal = duplicate_groups({picture.key: picture.sha256 for picture in pictures})
    again = {key for group in equal for key in group[1:]}
    hashes = {picture.key: picture.phash for picture in pictures if picture.key not in again}
    near = None if near_distance is None else near_duplicate_groups(hashes, max_distance=near_distance)
    by_key = {picture.key: picture for picture in pictures}
    return {
        "near_distance": near_distance,
        "equal": _groups(equal, by_key),
        "near": None if near is None else _groups(near, by_key),
    }


def _groups(groups: Sequence[Sequence[str]], by_key: Mapping[str, Picture]) -> Json:
    """``n_surplus`` pictures could go without losing any that is different."""
    largest = sorted(groups, key=lambda group: -len(group))[:MOST_GROUPS]
    return {
        "n_groups": len(groups),
        "n_images": sum(map(len, groups)),
        "n_surplus": sum(len(group) - 1 for group in groups),
        "n_of_several_concepts": sum(len({by_key[key].concept for key in group}) > 1 for group in groups),
        "groups": [{"size": len(group), "keys": list(group[:MOST_KEYS])} for group in largest],
    }
