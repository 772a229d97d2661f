"""Whether a set keeps to its target: said only where the pictures can show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from evenhand.set_audit.pictures import LABELS
from evenhand.set_audit.settings import AuditSettings
from evenhand.set_audit.shares import Shares, ValueShare
from evenhand.stats.intervals import wilson

State = Literal["held", "failed", "unknown"]
HELD: Final = "held"
FAILED: Final = "failed"
UNKNOWN: Final = "unknown"
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A cell that is off target: its share, and what was wanted. ``concept`` is None for all pictures together."""

    concept: str | None
    value: str
    share: float
    low: float | None
    high: float | None
    target: float
    n_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Of an attribute, or of several together: ``failed`` with its cells, ``held``, or ``unknown`` with the reason."""

    attribute: str
    reader: str
    state: State
    why: str
    misses: tuple[Miss, ...]


def judge(shares: Sequence[Shares], settings: AuditSettings) -> list[Judgement]:
    """One judgement for each attribute and for all together; ``shares`` are by one reader."""
    return [
        _judge([entry for entry in shares if entry.attribute == attribute], settings)
        for attribute in dict.fromkeys(entry.attribute for entry in shares)
    ]


def _judge(shares: Sequence[Shares], settings: AuditSettings) -> Judgement:
    pooled = next(entry for entry in shares if entry.concept is None)
    judged = [entry for entry in shares if any(value.target is not None for value in entry.values) and entry.n_images]
    num_tests = max(1, sum(len(entry.values) for entry in judged if entry.concept is not None))
    misses = [
        Miss(
            concept=entry.concept,
            value=value.value,
            share=value.share,
            low=value.low,
            high=value.high,
            target=value.target,
            n_images=entry.n_read,
        )
        for entry in judged
        for value in entry.values
        if _is_off(entry, value, settings, num_tests) and value.share is not None and value.target is not None
    ]
    state, why = _state(pooled, judged, misses, settings)
    return Judgement(attribute=pooled.attribute, reader=pooled.reader, state=state, why=why, misses=tuple(misses))


def _state(
    pooled: Shares, judged: Sequence[Shares], misses: Sequence[Miss], settings: AuditSettings
) -> tuple[State, str]:
    if misses:
        return FAILED, "a share is off target by more than the margin"
    if not judged:
        return UNKNOWN, "no picture of a concept with a target"
    if pooled.n_read < (1 - settings.max_unread) * pooled.n_images:
        return UNKNOWN, f"{pooled.n_images - pooled.n_read} of {pooled.n_images} pictures have no reading"
    if any(_is_open(entry, value, settings) for entry in judged if entry.concept is None for value in entry.values):
        return UNKNOWN, "too few pictures to tell a share that is off target from chance, or from misreadings"
    return HELD, "no share is off target by more than the margin"


def _is_off(entry: Shares, value: ValueShare, settings: AuditSettings, num_tests: int) -> bool:
    """Whether a share is off target, as the claim has it; see `evenhand.set_audit.settings.AuditSettings`.

    Labels are counted. A reader errs, so what it says of a set must also be more than chance; and of single concepts,
    of which there are many, more than chance at the level of Bonferroni. With many pictures unread, all of that must be
    so whatever they show.
    """
    if value.share is None or value.target is None:
        return False
    level = settings.level if entry.concept is None else 1 - (1 - settings.level) / num_tests
    if entry.n_read < (1 - settings.max_unread) * entry.n_images:
        low, high = (value.least, value.most) if entry.reader == LABELS else _whatever_they_show(entry, value, level)
        return _is_clear(low, high, value.target, settings.margin)
    is_set = settings.claim == "set"
    if is_set and (entry.concept is None or entry.reader == LABELS):
        beyond = _is_beyond(entry, value, settings)
        return beyond and (entry.reader == LABELS or _is_clear(value.low, value.high, value.target, 0.0))
    if entry.concept is None:
        return _is_clear(value.low, value.high, value.target, settings.margin)
    strict = wilson(value.share * entry.n_read, entry.n_read, level=level)
    return _is_clear(strict.low, strict.high, value.target, settings.margin)


def _whatever_they_show(entry: Shares, value: ValueShare, level: float) -> tuple[float | None, float | None]:
    """From the lower end of the share if no unread picture shows the value to the upper end if all of them do."""
    if value.least is None or value.most is None:
        return None, None
    num = entry.n_images
    return wilson(value.least * num, num, level=level).low, wilson(value.most * num, num, level=level).high


def _is_open(entry: Shares, value: ValueShare, settings: AuditSettings) -> bool:
    """Whether a share that is not off target is not shown to be on it either."""
    if value.share is None or value.target is None:
        return False
    if settings.claim == "set":
        return _is_beyond(entry, value, settings)
    reaches = value.low is None or value.low < value.target - settings.margin
    return reaches or value.high is None or value.high > value.target + settings.margin


def _is_beyond(entry: Shares, value: ValueShare, settings: AuditSettings) -> bool:
    """Whether a count differs from what the target comes to by more than the margin, and by more than rounding."""
    assert value.target is not None
    allowed = max(1.0, settings.margin * entry.n_subjects)
    return abs(value.count - value.target * entry.n_subjects) > allowed + ROUNDING


def _is_clear(low: float | None, high: float | None, target: float, margin: float) -> bool:
    """Whether an interval lies outside the margin around a target."""
    if low is None or high is None:
        return False
    return low > target + margin + ROUNDING or high < target - margin - ROUNDING
