"""Targets as a choice: what distribution is wanted over an attribute's values.

In YAML shares stand beside the values' names, for a joint attribute nested in the order of its name:

    rows: {"*": {woman: 0.6, man: 0.4}}                                       # one attribute
    rows: {"*": {woman: {light: 0.3, dark: 0.2}, man: {light: 0.4, dark: 0.1}}}   # "presentation,skin"
    rows: {"*": {woman: 0.5, man: 0.5}, nurse: base}                          # nurses stay as the base has them
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from evenhand.captions.quotas import TargetChoice, joint_attribute
from evenhand.construct import closest
from evenhand.records import ANY_CONCEPT, SHARES_TOLERANCE, Attribute, Target

BASE = "base"
Unit = Literal["share", "percent", "count"]
PERCENT_ROUNDING = 0.5  # published percentages are rounded: what they may miss in the sum of 100
NUM_MISSING_SHOWN = 3

Tree = float | int | str | Sequence[object] | Mapping[str, object]  # a row of a YAML file: shares, nested or in order


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every declared value equally often, for every concept."""

    reference: ClassVar[bool] = False

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The target of an attribute."""
        count = len(attribute.values)
        return (Target(attribute=attribute.name, shares=(1.0 / count,) * count, source="uniform"),)


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """Every concept stays as the base has it."""

    reference: ClassVar[bool] = False

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The target of an attribute: none of its shares is wanted."""
        return (Target(attribute=attribute.name, shares=(), source=BASE),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Explicit shares with their source; ``rows`` maps a concept, or ``"*"`` for all others, to its shares.

    A row is as in the head of this file, a list of shares in the values' order, or ``base``. With the unit ``percent``
    or ``count`` rows are divided by their sums. ``reference`` is for a statistic of more concepts than a set has.
    """

    rows: Mapping[str, Tree]
    source: str
    year: int | None = None
    population: str | None = None
    unit: Unit = "share"
    reference: bool = False

    def __post_init__(self) -> None:
        _check_origin(self.rows, self.source)
        for concept, row in self.rows.items():
            if row != BASE:
                _portions(dict(_leaves(row, _where(concept))), self.unit, _where(concept))

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of an attribute; ValueError when a row does not fit its values."""
        return tuple(
            Target(
                attribute=attribute.name,
                shares=() if row == BASE else _shares(row, attribute, self.unit, _where(concept, attribute.name)),
                concept=concept,
                source=BASE if row == BASE else self.source,
                year=None if row == BASE else self.year,
                population=None if row == BASE else self.population,
            )
            for concept, row in self.rows.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional:
    """Shares of the last attribute given the values of those before it: for a joint such as ``presentation,skin``.

    ``given`` is the target of the attributes before the last. ``rows`` maps a concept, or ``"*"``, to the last one's
    shares under each value of those: ``{woman: {light: 0.5, dark: 0.5}, man: {light: 0.7, dark: 0.3}}``. A concept that
    one of the two leaves alone is left alone.
    """

    given: TargetChoice
    rows: Mapping[str, Tree]
    source: str
    year: int | None = None
    population: str | None = None
    unit: Unit = "share"
    reference: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", self.reference or self.given.reference)
        _check_origin(self.rows, self.source)
        for concept, row in self.rows.items():
            if row != BASE:
                dict(_leaves(row, _where(concept)))

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of a joint attribute: the product of what is given and of its rows."""
        if len(attribute.parts) < 2:
            raise ValueError(
                f"target of {attribute.name}: a conditional target is for two or more attributes together; name them "
                'in order, the given ones first, as in targets: {"presentation,skin": ...}'
            )
        *before, last = attribute.parts
        first = before[0] if len(before) == 1 else joint_attribute(before)
        given = {target.concept: target for target in self.given.targets(first)}
        concepts = dict.fromkeys([*self.rows, *given])
        return tuple(self._target(concept, given, attribute, first, last) for concept in concepts)

    def _target(
        self, concept: str, given: Mapping[str, Target], attribute: Attribute, first: Attribute, last: Attribute
    ) -> Target:
        where = _where(concept, attribute.name)
        wanted = given.get(concept, given.get(ANY_CONCEPT))
        row = self.rows.get(concept, self.rows.get(ANY_CONCEPT))
        if wanted is None or row is None:
            lacking = f"{first.name} (given)" if wanted is None else f"{last.name} given {first.name} (rows)"
            raise ValueError(f"{where}: no shares of {lacking}; add a row for it, or one for {ANY_CONCEPT!r}")
        if wanted.leaves_alone or row == BASE:
            return Target(attribute=attribute.name, shares=(), concept=concept, source=BASE)
        shares: list[float] = []
        for (cell, branch), weight in zip(_branches(row, first, where).items(), wanted.shares, strict=True):
            under = f"{where}, given {', '.join(cell)}"
            shares += [weight * share for share in _shares(branch, last, self.unit, under)]
        return Target(
            attribute=attribute.name,
            shares=tuple(shares),
            concept=concept,
            source=self.source,
            year=self.year,
            population=self.population,
        )


def _where(concept: str, attribute: str | None = None) -> str:
    return f"target of {attribute}, row {concept!r}" if attribute else f"target, row {concept!r}"


def _check_origin(rows: Mapping[str, Tree], source: str) -> None:
    if not rows:
        raise ValueError(f"target: rows is empty; it needs a row for a concept, or one for all ({ANY_CONCEPT!r})")
    if not source.strip():
        raise ValueError("target: source is empty; say where the shares come from, or that they are a choice")


def _leaves(row: object, where: str) -> Iterator[tuple[str, float]]:
    """The numbers of a row with their names, however it is nested."""
    entries: Sequence[tuple[object, object]]
    if isinstance(row, Mapping):
        entries = list(row.items())
    elif isinstance(row, Sequence) and not isinstance(row, str):
        entries = list(enumerate(row, start=1))
    else:
        raise ValueError(f"{where}: must be shares by value, a list of shares, or {BASE}, got {row!r}")
    for name, entry in entries:
        if isinstance(entry, Mapping | list | tuple):
            yield from ((f"{name}, {below}", share) for below, share in _leaves(entry, where))
        elif isinstance(entry, bool) or not isinstance(entry, int | float) or not 0 <= entry < math.inf:
            raise ValueError(f"{where}: the share of {name} must be a number >= 0, got {entry!r}")
        else:
            yield str(name), float(entry)


def _portions(numbers: Mapping[str, float], unit: Unit, where: str) -> list[float]:
    """Shares that sum to one, from numbers in a unit; ValueError names their sum."""
    total = math.fsum(numbers.values())
    if unit == "count":
        if total == 0:
            raise ValueError(f"{where}: nothing was counted ({', '.join(numbers)} are all 0); take the row out")
        return [number / total for number in numbers.values()]
    wanted, most_off = (1, SHARES_TOLERANCE) if unit == "share" else (100, PERCENT_ROUNDING)
    if abs(total - wanted) > most_off:
        listed = ", ".join(f"{name} {number:g}" for name, number in numbers.items())
        percent = unit == "share" and abs(total - 100) <= PERCENT_ROUNDING
        cure = "; these are percentages: set unit: percent" if percent else ""
        what = "shares" if unit == "share" else "percentages"
        raise ValueError(f"{where}: {what} must sum to {wanted}, got {total:g} from {listed}{cure}")
    return [number if unit == "share" else number / total for number in numbers.values()]


def _branches(row: object, attribute: Attribute, where: str) -> dict[tuple[str, ...], object]:
    """What stands in a row under each cell of an attribute, in the cells' order; ValueError names what is not there."""
    parts = attribute.parts or (attribute,)
    found: dict[tuple[str, ...], object] = {(): row}
    for part in parts:
        deeper: dict[tuple[str, ...], object] = {}
        missing: list[str] = []
        for cell, tree in found.items():
            under = f"{where}, {', '.join(cell)}" if cell else where
            if not isinstance(tree, Mapping):
                raise ValueError(f"{under}: must be shares by {part.name} ({', '.join(part.values)}), got {tree!r}")
            unknown = [name for name in tree if name not in part.values]
            if unknown:
                raise ValueError(f"{under}: unknown {part.name} {unknown[0]!r}{closest(str(unknown[0]), part.values)}")
            missing += [", ".join((*cell, value)) for value in part.values if value not in tree]
            deeper |= {(*cell, value): tree[value] for value in part.values if value in tree}
        if missing:
            more = f" and {len(missing) - NUM_MISSING_SHOWN} more" if len(missing) > NUM_MISSING_SHOWN else ""
            raise ValueError(
                f"{where}: no share for {'; '.join(missing[:NUM_MISSING_SHOWN])}{more}; write 0 where none is wanted"
            )
        found = deeper
    return found


def _shares(row: object, attribute: Attribute, unit: Unit, where: str) -> tuple[float, ...]:
    """A row's shares in the order of the attribute's values."""
    if isinstance(row, Mapping):
        branches = _branches(row, attribute, where)
        row = {", ".join(cell): branch for cell, branch in branches.items()}
    numbers = dict(_leaves(row, where))
    if len(numbers) != len(attribute.values):
        raise ValueError(
            f"{where}: needs {len(attribute.values)} shares, one for each of {list(attribute.values)}, got "
            f"{list(numbers.values())}"
        )
    return tuple(_portions(numbers, unit, where))
