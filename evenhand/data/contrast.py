"""For each row one of another value: what the row's own value is to be told apart from.

The teachers T_v of a concept's values v, in shares pi_v, have the mean M = sum_v pi_v T_v. With s drawn among the rows
of all values but v,

    T_v + c (1 - pi_v) (T_v - T_s)

is on average M + (1 + c) (T_v - M): further from the mean, and over the rows of a concept with the mean M as before,
whatever the shares. Of two values there is one other, and nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evenhand.data.encoded import EncodedSet
from evenhand.seeds import derive

Kind = tuple[int, tuple[tuple[str, str], ...], str]


class Other(NamedTuple):
    """A row of another value of the same concept; ``weight`` is the share of rows of other values, 1 - pi_v."""

    row: int
    weight: float


class Contrasts:
    """The rows of other values of each row of a set."""

    def __init__(self, encoded: EncodedSet) -> None:
        self._labels_N: Sequence[Mapping[str, str]] = encoded.labels_N
        self._caption_N = encoded.caption_N
        self._siblings_N = encoded.siblings_N
        self._known: dict[Kind, tuple[list[int], float]] = {}

    def draw(self, row: int, *, seed: int) -> Other | None:
        """One of the rows of the concept's other values, and one in the row's own wording where there are any.

        None where the concept has no other value.
        """
        siblings = self._siblings_N[row]
        kind = siblings[0], tuple(sorted(self._labels_N[row].items())), self._caption_N[row]
        if kind not in self._known:
            others = [other for other in siblings if self._labels_N[other] != self._labels_N[row]]
            alike = [other for other in others if self._caption_N[other] == self._caption_N[row]]
            self._known[kind] = alike or others, len(others) / len(siblings)
        rows, weight = self._known[kind]
        return Other(row=rows[derive(seed, "contrast") % len(rows)], weight=weight) if rows else None
