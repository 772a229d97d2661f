"""From probabilities to a reading: the best value, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

from evenhand.records import SubjectReading


def decide(
    attribute: str, values: Sequence[str], probs: Sequence[float], *, subject: int = 0, min_lead: float
) -> SubjectReading:
    """The value with the highest probability, or unread where it leads the second by less than ``min_lead``.

    A lead means the same for two values as for thirty; a bound on the probability would not. ``probs`` sum to one.
    """
    best, second = sorted(range(len(values)), key=lambda index: -probs[index])[:2]
    if probs[best] - probs[second] < min_lead:
        reason = f"undecided ({values[best]} {probs[best]:.2f}, {values[second]} {probs[second]:.2f})"
        return SubjectReading(subject=subject, attribute=attribute, value=None, probs=tuple(probs), unread=reason)
    return SubjectReading(subject=subject, attribute=attribute, value=values[best], probs=tuple(probs), unread=None)


def unread(attribute: str, reason: str, *, subject: int = 0, probs: Sequence[float] | None = None) -> SubjectReading:
    """A subject of which an attribute cannot be read, and why."""
    given = None if probs is None else tuple(probs)
    return SubjectReading(subject=subject, attribute=attribute, value=None, probs=given, unread=reason)


def check_min_lead(reader: str, min_lead: float) -> None:
    """Raise ValueError for a lead that is no difference of two probabilities."""
    if not 0 <= min_lead < 1:
        raise ValueError(f"reader {reader}: min_lead must be at least 0 and below 1, got {min_lead}")
