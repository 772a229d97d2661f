"""What a recipe tells of a build, for the set's certificate: what was tried, what was left out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evenhand.hygiene.people import Depicts

NUM_KEYS = 3  # that are named for each reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAccount:
    """What a cell of a concept took.

    ``refused`` counts reasons, ``disagreed`` the attempts that some readers confirm and others refuse.
    """

    concept: str
    labels: Mapping[str, str]
    attempts: int
    confirmed: int
    refused: Mapping[str, int]
    disagreed: int = 0

    @property
    def rate(self) -> float:
        """The share of attempts that were confirmed."""
        return self.confirmed / self.attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedItems:
    """How many items were left out for one reason, and up to three of them by their keys."""

    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildAccount:
    """See the head of this file.

    ``acceptance`` is None where nothing was attempted: labels are true by construction, or came with the source.
    ``skipped`` maps a reason to what was left out for it, ``filters`` the name of each filter by reader to how many
    items it refused, ``sources`` the name of each source to its licence. ``consent`` says on what ground pictures of
    real people are in the set. No picture may be in it more often than ``max_repeats`` times.
    """

    acceptance: tuple[CellAccount, ...] | None = None
    skipped: Mapping[str, SkippedItems] = field(default_factory=dict)
    filters: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    depicts: Depicts = "synthetic"
    consent: str | None = None
    max_repeats: int = 1


def count_skipped(items: Iterable[tuple[str, str]]) -> dict[str, SkippedItems]:
    """Pairs of key and reason by their reason, the most frequent one first; equal for any order of the pairs."""
    keys: dict[str, list[str]] = {}
    for key, reason in sorted(items):
        keys.setdefault(reason, []).append(key)
    reasons = sorted(keys, key=lambda reason: (-len(keys[reason]), reason))
    return {reason: SkippedItems(number=len(keys[reason]), keys=tuple(keys[reason][:NUM_KEYS])) for reason in reasons}
