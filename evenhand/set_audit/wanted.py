"""What distribution a set is held to: what the user declares, what the set's own certificate declares, or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from evenhand.captions.quotas import JOINT, TargetChoice, cell_shares, cells_of, joint_attribute
from evenhand.files import read_json
from evenhand.records import ANY_CONCEPT, Attribute, Target

ANY_ATTRIBUTE = "*"
CERTIFICATE = "certificate.json"
EVEN = "even, for comparison only"
GIVEN = "the one that this audit was given"

Json = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class OwnTarget:
    """The choice ``target=own``: what the set's certificate declares; without one, even shares to compare with."""

    reference: ClassVar[bool] = False

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """Nobody but an audit can look what a set declares."""
        raise ValueError(
            f"target=own for {attribute.name}: a set that is there has a target of its own, one that is to be made has "
            "none; it is for data_recipes/audit.py (else target=uniform, or a table)"
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The wanted share of every cell for every concept.

    ``origin`` says who declared it; None: nobody, so that nothing is judged. ``judged`` names the attributes for which
    it was declared; the targets of others are even, to compare with. ``unasked`` are attributes that are not audited,
    and that stand in targets together with audited ones. ``expected`` are the concepts that a target names, of which
    there should be pictures.
    """

    attributes: tuple[Attribute, ...]
    targets: tuple[Target, ...]
    origin: str | None
    judged: frozenset[str] = frozenset()
    unasked: tuple[Attribute, ...] = ()
    expected: frozenset[str] = frozenset()

    def shares(self, names: Sequence[str], concepts: Sequence[str | None]) -> dict[str | None, tuple[float, ...]]:
        """The wanted shares of the named attributes' cells for each concept; one without a target has none.

        Such is a concept that is left alone, or that no row of the target is for. ``None`` stands for pictures without
        a concept, which get what holds for all.
        """
        known = [*self.attributes, *self.unasked]
        asked = {concept: ANY_CONCEPT if concept is None else concept for concept in concepts}
        asked = {concept: key for concept, key in asked.items() if self._is_covered(key, known)}
        places = [[item.name for item in known].index(name) for name in names]
        kept = cells_of([known[place] for place in places])
        every = cells_of(known)
        found: dict[str | None, tuple[float, ...]] = {}
        joint = cell_shares(known, self.targets, list(dict.fromkeys(asked.values())))
        sums_of: dict[tuple[Fraction, ...], tuple[float, ...]] = {}  # most concepts share a target
        for concept, key in asked.items():
            if key in joint:
                row = tuple(joint[key])
                if row not in sums_of:
                    sums = dict.fromkeys(kept, Fraction(0))
                    for cell, share in zip(every, row, strict=True):
                        sums[tuple(cell[place] for place in places)] += share
                    sums_of[row] = tuple(map(float, sums.values()))
                found[concept] = sums_of[row]
        return found

    def _is_covered(self, concept: str, known: Sequence[Attribute]) -> bool:
        rows = [target.attribute for target in self.targets if target.concept in (concept, ANY_CONCEPT)]
        return {item.name for item in known} <= {name for row in rows for name in row.split(JOINT)}


def certificate_of(inputs: Mapping[str, Path]) -> Json | None:
    """The certificate in the folder that a source reads, or in the one above it; None where there is none.

    What may not be read is none: the source itself says so of its folder.
    """
    for place in inputs.values():
        for path in (place / CERTIFICATE, place.absolute().parent / CERTIFICATE):
            if os.access(path, os.R_OK):
                found = read_json(path)
                return found if isinstance(found, dict) else None
    return None


def _declared(certificate: Json, attributes: Sequence[Attribute]) -> Wanted | None:
    """What a certificate declares of the audited attributes, if it has any of them with the same values."""
    values = certificate.get("attributes") or {}
    judged = [item for item in attributes if values.get(item.name) == list(item.values)]
    known = {field.name for field in fields(Target)}
    rows = certificate.get("targets") or []
    targets = [Target(**{key: value for key, value in row.items() if key in known}) for row in rows]
    used = {name for target in targets for name in target.attribute.split(JOINT)}
    others = [item for item in attributes if item not in judged]
    if not judged or not used <= set(values) or used & {item.name for item in others}:
        return None
    names = [item.name for item in judged]
    unasked = [_plain(name, tuple(entry)) for name, entry in values.items() if name in used and name not in names]
    return Wanted(
        attributes=tuple(attributes),
        targets=(*targets, *map(_even, others)),
        origin=f"the one in the set's own {CERTIFICATE}",
        judged=frozenset(names),
        unasked=tuple(unasked),
    )


def _plain(name: str, values: tuple[str, ...]) -> Attribute:
    """An attribute of which nothing but its values is known."""
    return Attribute(name=name, values=values, forms=dict.fromkeys(values, "{}"), words=dict.fromkeys(values, ()))


def _even(attribute: Attribute) -> Target:
    count = len(attribute.values)
    return Target(attribute=attribute.name, shares=(1 / count,) * count, source=EVEN)


def wanted_shares(
    attributes: Sequence[Attribute], choices: Mapping[str, TargetChoice], *, inputs: Mapping[str, Path]
) -> Wanted:
    """What the set is held to: ``choices`` are as in a curated plan, or ``target=own`` for all attributes."""
    own = [isinstance(choice, OwnTarget) for choice in choices.values()]
    every = tuple(attributes)
    if not all(own):
        if any(own):
            raise ValueError(
                f"targets: own is for all attributes or for none, got it for {own.count(True)} of {len(own)}"
            )
        judged = frozenset(item.name for item in every)
        targets, expected = _chosen(every, choices)
        return Wanted(attributes=every, targets=targets, origin=GIVEN, judged=judged, expected=expected)
    certificate = certificate_of(inputs)
    declared = None if certificate is None else _declared(certificate, every)
    return declared or Wanted(attributes=every, targets=tuple(map(_even, every)), origin=None)


def _chosen(
    attributes: Sequence[Attribute], choices: Mapping[str, TargetChoice]
) -> tuple[tuple[Target, ...], frozenset[str]]:
    """The targets of all attributes, and the concepts that they name where they are no statistic of others too.

    The key ``"*"`` is the choice for each attribute that no other key names.
    """
    by_name = {attribute.name: attribute for attribute in attributes}
    named = [name for key in choices if key != ANY_ATTRIBUTE for name in key.split(JOINT)]
    for name in named:
        if name not in by_name:
            raise ValueError(f"target for attribute {name!r}, but the attributes are {', '.join(by_name)}")
    found: list[Target] = []
    expected: set[str] = set()
    for key, choice in choices.items():
        others = [[name] for name in by_name if name not in named]
        for names in others if key == ANY_ATTRIBUTE else [key.split(JOINT)]:
            members = [by_name[name] for name in names]
            targets = choice.targets(members[0] if len(members) == 1 else joint_attribute(members))
            found += targets
            expected |= set() if choice.reference else {target.concept for target in targets} - {ANY_CONCEPT}
    cell_shares(attributes, found, [target.concept for target in found])  # what does not fit together is said at once
    return tuple(found), frozenset(expected)
