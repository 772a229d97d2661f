"""What a source of pictures gives: items and skipped places, streamed in a stable order, and how ranks share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evenhand.hygiene.people import Depicts, check_consent

Wanted = Callable[[str], bool]
# Larger files are not read into memory to find out what they are; ImageLimits refuses most pictures long before.
MAX_FILE_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """A picture as it was found: undecoded bytes, and what the source itself says of it, unchecked.

    ``key`` names it within its source and is the same in every pass. ``source`` is the source's name, ``license`` that
    of this picture where the source gives one for each.
    """

    key: str
    content: bytes
    text: str | None = None
    concept: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    license: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A place of a source that gives no picture, and why in a few words (without the key)."""

    key: str
    reason: str


class Source(Protocol):
    """Pictures from somewhere. The constructor stores and checks; ``check`` looks at the disk or the hub.

    ``license`` is that of every picture that brings none of its own. ``consent`` says on what ground pictures of real
    people may be used; a source that ``depicts`` people must have it. ``inputs`` are the files and folders on this
    machine that decide what comes.
    """

    name: str
    license: str
    depicts: Depicts
    consent: str | None
    inputs: Mapping[str, Path]

    def check(self) -> None:
        """ValueError for what is missing or wrong as a whole: no folder, no such column, nothing in it."""

    def items(
        self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Wanted | None = None
    ) -> Iterator[SourceItem | Skipped]:
        """Stream in a stable order; of the blocks of ``block`` places each, rank r gets every ``num_ranks``-th.

        With the default block rank r gets the places ``r::num_ranks``. ``only`` is asked for the key of each of them,
        once and in order, and those that it refuses are passed over without their bytes being read, where the kind of
        source allows it.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """A place of a source before it is looked at: its key, and what reads it."""

    key: str
    read: Callable[[], SourceItem | Skipped]


def stream(
    places: Iterable[Place], *, rank: int, num_ranks: int, block: int, only: Wanted | None
) -> Iterator[SourceItem | Skipped]:
    """What `Source.items` gives, from all places in order: whole blocks, so that they do not depend on how many share.

    A place is read before the next one is asked for.
    """
    if block < 1 or not 0 <= rank < num_ranks:
        raise ValueError(f"block must be >= 1 and rank below num_ranks, got block {block}, rank {rank} of {num_ranks}")
    for position, place in enumerate(places):
        if position // block % num_ranks == rank and (only is None or only(place.key)):
            yield place.read()


def check_declared(*, name: str, license: str, depicts: Depicts, consent: str | None) -> None:
    """Raise ValueError unless a source says what it is called, what its licence is, and why people may be in it."""
    if not name.strip():
        raise ValueError("a source needs a name (source.name)")
    if not license.strip():
        raise ValueError(f"source {name}: license is empty; name the licence of its pictures (source.license)")
    check_consent(depicts, consent, source=name)
