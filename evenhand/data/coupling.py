"""Rows that share their noise: of one concept, with values spread as the set spreads them.

Where an image is nearly noise, what a method learns from a row hangs on the value that the row happens to have, and an
adapter settles off the target by the binomial error of the last few hundred rows. Rows that differ in their values
alone, with the same noise at the same timestep, cancel that error: the values of K of them are a systematic sample of
the values of all such rows (Madow and Madow 1944), (j + u) / K of the way through them in the order of their labels. A
row is drawn as often as without, for any shares of values. Where a concept has as many rows of each value, with the
same wordings in the same order, as built sets have them, the K rows have the same wording too.
"""

from __future__ import annotations

from collections.abc import Sequence


def siblings(alike: Sequence[str], labels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each row all rows of equal ``alike``, itself among them, in the order of their labels."""
    found: dict[str, list[int]] = {}
    for row, group in enumerate(alike):
        found.setdefault(group, []).append(row)
    ordered = {group: tuple(sorted(rows, key=lambda row: (labels[row], row))) for group, rows in found.items()}
    return tuple(ordered[group] for group in alike)


def systematic(rows: Sequence[int], *, count: int, place: int, offset: float) -> int:
    """The ``place``-th of ``count`` rows spread evenly over ``rows``, ``offset`` in [0, 1) of a step from the first."""
    return rows[min(int((place + offset) / count * len(rows)), len(rows) - 1)]  # an offset may round up to 1
