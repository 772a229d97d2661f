"""What the pictures of sources show, found out once and kept in an index on the disk, so that no picture need be.

The index is lines of blocks, one file for each process. A block is looked at as a whole by one process, whichever that
is, and stands in the index as a whole or not at all: a killed build goes on with the same blocks, in any number of
processes, and comes to the same index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evenhand.files import append_jsonl, read_jsonl, write_json_atomic
from evenhand.hygiene.duplicates import duplicate_groups, near_duplicate_groups

FOLDER = "candidates"
FINISHED = "finished.json"

Place = tuple[str, str]  # a source's name, and the key of a place in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A picture of a source that may come into the set, or, where ``skipped`` says why, may not."""

    source: str
    key: str
    skipped: str | None = None
    sha256: str = ""
    phash: int = 0
    concept: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    license: str = ""
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """What names it among the pictures of all sources."""
        return self.source, self.key


NOTHING_KNOWN = Candidate(source="", key="")


class Index:
    """See the head of this file."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._folder = folder / FOLDER
        self._own = self._folder / f"{rank:03d}.jsonl"

    def finished(self) -> bool:
        """Whether all sources were looked at to their end."""
        return (self._folder / FINISHED).is_file()

    def finish(self, num_places: int) -> None:
        """Say so; one process does, when all are done."""
        write_json_atomic(self._folder / FINISHED, {"places": num_places})

    def append(self, block: Sequence[Candidate]) -> None:
        """Add a block."""
        append_jsonl(self._own, [{"block": [_stored(candidate) for candidate in block]}])

    def read(self) -> list[Candidate]:
        """All that is known, in an order that does not depend on who found it."""
        blocks = (line["block"] for path in sorted(self._folder.glob("*.jsonl")) for line in read_jsonl(path))
        found = {candidate.place: candidate for block in blocks for candidate in map(_restored, block)}
        return [found[place] for place in sorted(found)]


def without_duplicates(found: Sequence[Candidate], *, near_distance: int | None) -> list[Candidate]:
    """The same list, in which of pictures that are equal, or look alike, all but the first are skipped.

    Equal are the bytes that were found. Alike are pictures whose perceptual hashes differ in ``near_distance`` bits or
    fewer, and pictures between which others lie that do; with None, none are.
    """
    usable = {str(number): candidate for number, candidate in enumerate(found) if candidate.skipped is None}
    skipped: dict[str, str] = {}
    for group in duplicate_groups({number: candidate.sha256 for number, candidate in usable.items()}):
        skipped |= dict.fromkeys(group[1:], f"duplicate (of {usable[group[0]].key})")
    if near_distance is not None:
        phashes = {number: candidate.phash for number, candidate in usable.items() if number not in skipped}
        for group in near_duplicate_groups(phashes, max_distance=near_distance):
            skipped |= dict.fromkeys(group[1:], f"near duplicate (of {usable[group[0]].key})")
    return [
        replace(candidate, skipped=skipped[str(number)]) if str(number) in skipped else candidate
        for number, candidate in enumerate(found)
    ]


def _stored(candidate: Candidate) -> dict[str, Any]:  # Any: JSON
    """What is known of a candidate; what is not takes no room."""
    nothing = asdict(NOTHING_KNOWN)
    return {name: value for name, value in asdict(candidate).items() if value != nothing[name]}


def _restored(row: Mapping[str, Any]) -> Candidate:  # Any: JSON
    return Candidate(**{**row, "notes": tuple(row.get("notes", ()))})
