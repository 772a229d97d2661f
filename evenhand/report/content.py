"""What a report is made of: the content of ``results.json``, whoever wrote it, as records."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from evenhand.records import Estimate, Guard

RecordType = TypeVar("RecordType")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A verdict: its word, the sentence, why it is not a stronger one, and what could not have been found."""

    suite: str
    attribute: str
    verdict: str
    sentence: str
    arm: str = "shift"
    caps: tuple[str, ...] = ()
    mde: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two readers, or a reader and people, agree on the images of an arm."""

    attribute: str
    arm: str
    reader: str
    other: str
    share: float | None
    kappa: float | None
    low: float | None = None
    high: float | None = None
    n_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTest:
    """Whether one concept's readings changed, before and after Holm's correction over the concepts of its suite."""

    suite: str
    attribute: str
    concept: str
    p: float | None
    p_holm: float | None
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Permutation:
    """A label-swap test of a whole suite."""

    suite: str
    attribute: str
    statistic: str
    p: float | None
    value: float | None = None
    how: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overshoot:
    """A concept that both arms' intervals show on different sides of its target."""

    suite: str
    attribute: str
    concept: str
    value: str
    target: float
    base: float
    adapted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondReading:
    """A headline estimate by another reader."""

    reader: str
    estimate: Estimate


class Content:
    """The parsed content of ``results.json``; fields that this version does not know stay in ``raw``."""

    def __init__(self, raw: Mapping[str, Any]) -> None:  # Any: JSON
        self.raw = raw
        self.plan_sha256 = str(raw["plan_sha256"])
        self.answer = str(raw["answer"])
        self.reader = str(raw["reader"])
        self.paired = bool(raw["paired"])
        self.arms: tuple[str, str] = (str(raw["arms"][0]), str(raw["arms"][1]))
        self.attribute, self.suite = str(raw["primary"]["attribute"]), str(raw["primary"]["suite"])
        self.estimates = records(Estimate, raw["estimates"])
        self.guards = records(Guard, raw["guards"])
        self.verdicts = records(Sentence, raw["verdicts"])
        self.notes = tuple(str(note) for note in raw.get("notes", ()))
        self.caps = tuple(str(cap) for cap in raw.get("caps") or ())
        self.agreement = records(Agreement, raw.get("agreement") or ())
        self.prompt_tests = records(PromptTest, raw.get("prompt_tests") or ())
        self.permutation = records(Permutation, raw.get("permutation") or ())
        self.overshoot = records(Overshoot, raw.get("overshoot") or ())
        self.second_readings = tuple(
            SecondReading(reader=str(row["reader"]), estimate=record(Estimate, row))
            for row in raw.get("second_readings") or ()
        )
        self._index = {(e.name, e.suite, e.attribute, e.arm, e.concept): e for e in self.estimates}

    @property
    def failed_guards(self) -> tuple[Guard, ...]:
        """The guards that did not hold."""
        return tuple(guard for guard in self.guards if not guard.passed)

    def find(self, name: str, *, suite: str, attribute: str, arm: str, concept: str | None = None) -> Estimate | None:
        """An estimate by its name and scope; None where there is none."""
        return self._index.get((name, suite, attribute, arm, concept))


def record(kind: type[RecordType], row: Mapping[str, Any]) -> RecordType:  # Any: JSON
    """A record of a JSON object; fields that it does not have are left out, lists become tuples."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every kind here is a dataclass
    return kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key in known}
    )


def records(kind: type[RecordType], rows: Iterable[Mapping[str, Any]]) -> tuple[RecordType, ...]:  # Any: JSON
    """Records of a list of JSON objects."""
    return tuple(record(kind, row) for row in rows)


def visible(value: Any) -> Any:  # Any: JSON in, JSON of the same shape out
    """The same JSON with control and direction marks of its texts written out: nobody's prompt can reorder a page."""
    if isinstance(value, str):
        return visible_text(value)
    if isinstance(value, Mapping):
        return {visible(key): visible(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [visible(entry) for entry in value]
    return value


def visible_text(text: str) -> str:
    """A text in which whitespace is a space and no other character is invisible or turns the writing direction."""
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    # Joiners shape letters of many scripts and are kept; Cf else, Cc and lone surrogates can hide or reorder text.
    if character in "\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return character
    return f"\\u{ord(character):04x}"
