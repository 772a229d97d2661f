"""Frozen records that cross module lines. No torch, no files, no model.

Words are used as the design defines them: a *concept* is what a neutral prompt asks for, an *attribute* is a
perceived property with declared values, a *target* the wanted distribution over those values, an *arm* what an image
was made with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

ANY_CONCEPT = "*"
SUITES = ("train", "heldout", "offtemplate", "explicit", "fixed", "unrelated", "groups", "scene")
SHARES_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A perceived property, as data.

    ``forms`` turns a concept's noun phrase into its explicit form, one pattern per value with ``{}`` for the noun:
    ``{"woman": "female {}", "man": "male {}"}`` or ``{"worn": "{} with glasses"}``. ``words`` lists, per value, the
    words that give the value away and so may not stand in a neutral caption. ``parts`` are those of a joint attribute,
    whose values are all combinations of theirs, the last part's varying fastest.
    """

    name: str
    values: tuple[str, ...]
    forms: Mapping[str, str]
    words: Mapping[str, tuple[str, ...]]
    parts: tuple[Attribute, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "words", {value: tuple(words) for value, words in self.words.items()})
        for value in self.values:
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"attribute {self.name}: values must be text, got {value!r}; put it in quotes")
        if len(set(self.values)) != len(self.values) or len(self.values) < 2:
            raise ValueError(f"attribute {self.name}: needs two or more different values, got {list(self.values)}")
        for field, entries in (("forms", self.forms), ("words", self.words)):
            if set(entries) != set(self.values):
                raise ValueError(
                    f"attribute {self.name}: {field} must name each of {list(self.values)}, got {sorted(entries)}"
                )
        for value, form in self.forms.items():
            if form.count("{}") != 1:
                raise ValueError(f"attribute {self.name}: the form of {value} needs one {{}}, got {form!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The wanted shares of an attribute's values for one concept, or for all (``concept="*"``).

    No shares leave the concept alone: it is to stay as the base has it (``base`` in YAML). ``source``, ``year`` and
    ``population`` say where shares come from: a statistic, when it was taken, and of whom.
    """

    attribute: str
    shares: tuple[float, ...]
    concept: str = ANY_CONCEPT
    source: str = "uniform"
    year: int | None = None
    population: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))
        if self.leaves_alone:
            return
        where = f"target of {self.attribute}" + ("" if self.concept == ANY_CONCEPT else f", concept {self.concept!r}")
        if not all(0 <= share < math.inf for share in self.shares):
            raise ValueError(f"{where}: shares must be >= 0, got {list(self.shares)}")
        total = math.fsum(self.shares)
        if abs(total - 1.0) > SHARES_TOLERANCE:
            raise ValueError(f"{where}: shares must sum to 1, got {total:g} from {list(self.shares)}")

    @property
    def leaves_alone(self) -> bool:
        """Whether nothing is wanted of the concept but that it stays as it is."""
        return not self.shares

    def check(self, attribute: Attribute) -> None:
        """Raise ValueError unless this target fits the attribute."""
        if self.attribute != attribute.name:
            raise ValueError(f"target is for attribute {self.attribute}, but the attribute is {attribute.name}")
        if not self.leaves_alone and len(self.shares) != len(attribute.values):
            raise ValueError(
                f"target of {self.attribute}: needs {len(attribute.values)} shares, one for each of "
                f"{list(attribute.values)}, got {list(self.shares)}"
            )


def target_json(target: Target) -> dict[str, object]:
    """A target as it stands in files: what is not known of its origin is left out."""
    known = {name: value for name, value in asdict(target).items() if value is not None}
    return {**known, "shares": list(target.shares)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line of a suite. ``expects`` names the values that an explicit or fixed prompt must show."""

    id: str
    text: str
    concept: str
    suite: str
    expects: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"prompt {self.id}: unknown suite {self.suite!r}; choose one of {', '.join(SUITES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A caption and what its image shows. A neutral caption's text names none of its labels' values."""

    text: str
    concept: str
    labels: Mapping[str, str]
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a curated set's ``metadata.jsonl``; ``file_name`` is relative to that file.

    ``explicit`` is the same caption with the labels' values named, which methods that compare the two need; a set may
    lack the column.
    """

    file_name: str
    text: str
    concept: str
    labels: Mapping[str, str]
    template: str
    source: str
    seed: int
    license: str
    explicit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One generated image; ``path`` is relative to the evaluation folder, hashes are sha256 in hex."""

    prompt_id: str
    seed: int
    arm: str
    path: str
    sha256: str
    noise_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectReading:
    """What a reader says of one subject of one image: a value, or the reason why there is none.

    ``probs`` follow the order of the attribute's values and sum to one; None where the reader gives none.
    """

    subject: int
    attribute: str
    value: str | None
    probs: tuple[float, ...] | None
    unread: str | None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unread is None):
            raise ValueError(f"a reading has either a value or a reason, got {self.value!r} and {self.unread!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One line of ``readings.jsonl``: a subject reading with the image and the reader that it belongs to."""

    prompt_id: str
    seed: int
    arm: str
    subject: int
    reader: str
    attribute: str
    value: str | None
    probs: tuple[float, ...] | None
    unread: str | None

    def __post_init__(self) -> None:
        where = f"{self.prompt_id} seed {self.seed} arm {self.arm}"
        if (self.value is None) == (self.unread is None):
            raise ValueError(
                f"{where}: exactly one of value and unread must be set, got {self.value!r}, {self.unread!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval. ``value`` is None where it cannot be made, and ``how`` then says why."""

    name: str
    suite: str
    concept: str | None
    attribute: str
    arm: str
    value: float | None
    low: float | None
    high: float | None
    level: float
    n_prompts: int
    n_images: int
    n_unread: int
    floor: float | None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A check that something did not change; ``value`` is the change, ``margin`` what is allowed.

    ``evidence`` is what two one-sided tests against the margin say: ``no harm shown``, ``harm shown`` or
    ``inconclusive``. A guard that passed may still be inconclusive: too few images to know.
    """

    name: str
    suite: str
    value: float | None
    low: float | None
    high: float | None
    margin: float
    passed: bool
    evidence: str = ""
