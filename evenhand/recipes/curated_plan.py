"""What a curated set must hold, before any image is made: one slot for each image, with its labels and its captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from evenhand.captions.leaks import Leak, attribute_leaks, heldout_leaks
from evenhand.captions.quotas import (
    JOINT,
    Cell,
    allocate,
    cell_shares,
    cells_of,
    check_feasible,
    joint_attribute,
)
from evenhand.captions.templates import Concept, Template, concepts_of
from evenhand.records import ANY_CONCEPT, Attribute, Target
from evenhand.seeds import derive

ANY_ATTRIBUTE = "*"
NUM_LEAKS_SHOWN = 3


class TargetChoice(Protocol):
    """A choice of conf/target."""

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of an attribute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place in the set that one image fills. ``place`` counts within the concept's cell, ``index`` over the set."""

    index: int
    concept: str
    cell: Cell
    place: int
    labels: Mapping[str, str]
    template: str
    neutral: str
    explicit: str


class CuratedPlan:
    """Concepts, cells, quotas and captions of a curated set.

    ``attributes`` are taken in the mapping's order, its keys are free. ``targets`` maps an attribute's name to its
    choice; ``presentation,skin`` asks for a joint target, ``"*"`` is for all attributes that no other key names.
    ``concepts`` and ``heldout`` are names or mappings as in `evenhand.captions.templates.concept_of`. Within a concept
    every cell gets the same sequence of templates, so that wording says nothing about the labels.
    """

    def __init__(
        self,
        *,
        attributes: Mapping[str, Attribute],
        targets: Mapping[str, TargetChoice],
        concepts: Sequence[str | Mapping[str, str]],
        heldout: Sequence[str | Mapping[str, str]],
        templates: Sequence[str],
        images_per_concept: int,
        seed: int,
    ) -> None:
        self.attributes = tuple(attributes.values())
        self.concepts = concepts_of(concepts, what="concepts")
        self.heldout = concepts_of(heldout, what="heldout")
        self.templates = tuple(Template(text) for text in templates)
        self.images_per_concept = images_per_concept
        self.seed = seed
        self._check_lists()
        self.targets = tuple(_targets(self.attributes, targets))
        self._check_targets()
        shares = {item.name: cell_shares(self.attributes, self.targets, item.name) for item in self.concepts}
        check_feasible(self.attributes, shares, count=images_per_concept)
        self.cells = cells_of(self.attributes)
        self.exact: dict[str, list[Fraction]] = {
            concept: [share * images_per_concept for share in row] for concept, row in shares.items()
        }
        self.quotas = allocate(shares, cells=self.cells, count=images_per_concept, seed=seed)
        self.slots = tuple(self._slots())
        leaks = self.leaks([slot.neutral for slot in self.slots], [slot.explicit for slot in self.slots])
        if leaks:
            more = f", and {len(leaks) - NUM_LEAKS_SHOWN} more" if len(leaks) > NUM_LEAKS_SHOWN else ""
            raise ValueError(f"captions leak: {'; '.join(map(str, leaks[:NUM_LEAKS_SHOWN]))}{more}")

    def leaks(self, neutral: Sequence[str], explicit: Sequence[str]) -> list[Leak]:
        """Attribute words in neutral captions, and held-out concepts in any."""
        distinct = list(dict.fromkeys(neutral))
        everything = list(dict.fromkeys([*neutral, *explicit]))
        return attribute_leaks(distinct, self.attributes) + heldout_leaks(everything, self.heldout)

    def _check_lists(self) -> None:
        names = [attribute.name for attribute in self.attributes]
        for what, entries in (("attributes", names), ("concepts", self.concepts), ("templates", self.templates)):
            if not entries:
                raise ValueError(f"{what} is empty; a curated set needs at least one")
        for what, entries in (("attribute", names), ("template", [item.text for item in self.templates])):
            twice = sorted({entry for entry in entries if entries.count(entry) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is listed twice")
        if self.images_per_concept < 1:
            raise ValueError(f"images_per_concept must be >= 1, got {self.images_per_concept}")
        for attribute in self.attributes:
            if len(set(attribute.forms.values())) != len(attribute.values):
                raise ValueError(f"attribute {attribute.name}: two values have the same form, {dict(attribute.forms)}")
        heldout = {concept.name for concept in self.heldout}
        for concept in self.concepts:
            if concept.name in heldout:
                raise ValueError(f"concept {concept.name!r} is held out and cannot be in the curated set")

    def _check_targets(self) -> None:
        known = [concept.name for concept in self.concepts]
        for target in self.targets:
            if target.concept != ANY_CONCEPT and target.concept not in known:
                raise ValueError(
                    f"target of {target.attribute}: unknown concept {target.concept!r}; "
                    f"the concepts are {', '.join(known)}"
                )

    def _slots(self) -> list[Slot]:
        slots: list[Slot] = []
        for concept in self.concepts:
            first = derive(self.seed, "template", concept.name)
            for cell, count in zip(self.cells, self.quotas[concept.name], strict=True):
                labels = {item.name: value for item, value in zip(self.attributes, cell, strict=True)}
                for place in range(count):
                    template = self.templates[(first + place) % len(self.templates)]
                    slots.append(self._slot(len(slots), concept, cell, place, labels, template))
        return slots

    def _slot(
        self, index: int, concept: Concept, cell: Cell, place: int, labels: Mapping[str, str], template: Template
    ) -> Slot:
        return Slot(
            index=index,
            concept=concept.name,
            cell=cell,
            place=place,
            labels=labels,
            template=template.text,
            neutral=template.neutral(concept),
            explicit=template.explicit(concept, self.attributes, labels),
        )


def _targets(attributes: Sequence[Attribute], choices: Mapping[str, TargetChoice]) -> list[Target]:
    """The targets of all attributes; ``"*"`` is the choice for each attribute that no other key names."""
    by_name = {attribute.name: attribute for attribute in attributes}
    named = [name for key in choices if key != ANY_ATTRIBUTE for name in key.split(JOINT)]
    unknown = [name for name in named if name not in by_name]
    if unknown:
        raise ValueError(f"target for attribute {unknown[0]!r}, but the attributes are {', '.join(by_name)}")
    others = [name for name in by_name if name not in named]
    found: list[Target] = []
    for key, choice in choices.items():
        groups = [[name] for name in others] if key == ANY_ATTRIBUTE else [key.split(JOINT)]
        for names in groups:
            members = [by_name[name] for name in names]
            found += choice.targets(members[0] if len(members) == 1 else joint_attribute(members))
    return found
