"""What a curated set must hold, before any image is made: one slot for each image, with its labels and its captions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from evenhand.captions.check import Problem, grammar_problems
from evenhand.captions.concept_lists import LISTS, ConceptList, training_and_heldout
from evenhand.captions.language import ENGLISH, Language
from evenhand.captions.leaks import Leak, attribute_leaks, heldout_leaks
from evenhand.captions.quotas import (
    JOINT,
    Cell,
    TargetChoice,
    allocate,
    cell_shares,
    cells_of,
    check_feasible,
    joint_attribute,
    targets_of,
)
from evenhand.captions.templates import Concept, ConceptEntry, Template, check_forms, with_own_nouns
from evenhand.captions.wordings import Wordings
from evenhand.records import Attribute, Caption, Target
from evenhand.seeds import derive

ANY_ATTRIBUTE = "*"
NUM_SHOWN = 3


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
    ``concepts`` and ``heldout`` are names or mappings as in `evenhand.captions.templates.concept_of`; ``concepts`` may
    also be a list that ships with evenhand, ``templates`` also wordings to be crossed, ``language`` another one than
    English. Within a concept every cell gets the same sequence of templates, so that wording says nothing about the
    labels.

    Concepts whose target is ``base`` are in ``left_alone`` and not in ``concepts``: they have no quota and no slot.
    ``left_alone_captions`` are neutral captions for them, one for each image on which an adapter is held to its base.

    ``left_out_captions`` ask by name for what a target of 0 leaves out: for each concept that has such cells, as many
    as it has images, over these cells and the templates. Nothing in ``train/`` is under them; who asks is to get it.
    """

    def __init__(
        self,
        *,
        attributes: Mapping[str, Attribute],
        targets: Mapping[str, TargetChoice],
        concepts: Sequence[ConceptEntry] | ConceptList,
        heldout: Sequence[ConceptEntry],
        templates: Sequence[str] | Wordings,
        images_per_concept: int,
        seed: int,
        language: Language | None = None,
    ) -> None:
        self.attributes = tuple(attributes.values())
        self.language = ENGLISH if language is None else language
        self.concept_list = concepts.file if isinstance(concepts, ConceptList) else None
        named, self.heldout = training_and_heldout(concepts, heldout, language=self.language)
        texts = templates.texts if isinstance(templates, Wordings) else templates
        self.templates = tuple(Template(text) for text in texts)
        self.images_per_concept = images_per_concept
        self.seed = seed
        self._check_lists(named)
        self.targets = tuple(_targets(self.attributes, targets, [*named, *self.heldout]))
        shares = cell_shares(self.attributes, self.targets, [concept.name for concept in named])
        self.concepts = tuple(concept for concept in named if concept.name in shares)
        self.left_alone = tuple(concept for concept in named if concept.name not in shares)
        if not self.concepts:
            raise ValueError("every concept is to stay as the base has it; a curated set needs a target for one")
        check_feasible(self.attributes, shares, count=images_per_concept)
        self.cells = cells_of(self.attributes)
        self.exact: dict[str, list[Fraction]] = {
            concept: [share * images_per_concept for share in row] for concept, row in shares.items()
        }
        self.quotas = allocate(shares, cells=self.cells, count=images_per_concept, seed=seed)
        self.slots = tuple(self._slots())
        self.left_alone_captions = tuple(self._left_alone_captions())
        self.left_out_captions = tuple(self._left_out_captions())
        neutral = [slot.neutral for slot in self.slots] + [caption.text for caption in self.left_alone_captions]
        explicit = [slot.explicit for slot in self.slots] + [caption.text for caption in self.left_out_captions]
        self._refuse("captions leak", self.leaks(neutral, explicit))
        self._refuse("captions have mistakes of grammar", self.grammar([*neutral, *explicit]))

    def with_counts(self, counts: Mapping[str, int]) -> CuratedPlan:
        """The same plan with another number of images for each concept, by its name."""
        plan = copy.copy(self)
        shares = {name: [exact / sum(row) for exact in row] for name, row in self.exact.items()}
        plan.exact = {name: [share * counts[name] for share in row] for name, row in shares.items()}
        plan.quotas = allocate(shares, cells=self.cells, count=counts, seed=self.seed)
        plan.slots = tuple(plan._slots())
        return plan

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The files on this machine that the plan was made of, beside the config."""
        file = self.concept_list
        return {} if file is None or file.path.parent == LISTS else {"concept_list": file.path}

    def leaks(self, neutral: Sequence[str], explicit: Sequence[str]) -> list[Leak]:
        """Attribute words in neutral captions, and held-out concepts in any."""
        distinct = list(dict.fromkeys(neutral))
        everything = list(dict.fromkeys([*neutral, *explicit]))
        attributes = with_own_nouns(self.attributes, (*self.concepts, *self.left_alone))
        return attribute_leaks(distinct, attributes) + heldout_leaks(everything, self.heldout)

    def grammar(self, captions: Sequence[str]) -> list[Problem]:
        """Mistakes of grammar in captions of this plan."""
        concepts = (*self.concepts, *self.left_alone)
        return grammar_problems(captions, concepts=concepts, english=self.language.article == "english")

    @staticmethod
    def _refuse(what: str, problems: Sequence[Leak | Problem]) -> None:
        if problems:
            more = f", and {len(problems) - NUM_SHOWN} more" if len(problems) > NUM_SHOWN else ""
            raise ValueError(f"{what}: {'; '.join(map(str, problems[:NUM_SHOWN]))}{more}")

    def _check_lists(self, concepts: Sequence[Concept]) -> None:
        names = [attribute.name for attribute in self.attributes]
        for what, entries in (("attributes", names), ("concepts", concepts), ("templates", self.templates)):
            if not entries:
                raise ValueError(f"{what} is empty; a curated set needs at least one")
        for name in names:
            if JOINT in name:
                raise ValueError(f"attribute {name!r}: its name may not have {JOINT!r}, which joins names in targets")
        for what, entries in (("attribute", names), ("template", [item.text for item in self.templates])):
            twice = sorted({entry for entry in entries if entries.count(entry) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is listed twice")
        if self.images_per_concept < 1:
            raise ValueError(f"images_per_concept must be >= 1, got {self.images_per_concept}")
        for attribute in self.attributes:
            if len(set(attribute.forms.values())) != len(attribute.values):
                raise ValueError(f"attribute {attribute.name}: two values have the same form, {dict(attribute.forms)}")
        for attribute in self.attributes:
            self.language.check(attribute)
        check_forms(self.attributes, concepts)
        heldout = {concept.name for concept in self.heldout}
        for concept in concepts:
            if concept.name in heldout:
                raise ValueError(f"concept {concept.name!r} is held out and cannot be in the curated set")

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

    def _left_alone_captions(self) -> Iterator[Caption]:
        for concept in self.left_alone:
            first = derive(self.seed, "template", concept.name)
            for place in range(self.images_per_concept):
                template = self.templates[(first + place) % len(self.templates)]
                text = template.neutral(concept)
                yield Caption(text=text, concept=concept.name, labels={}, template=template.text)

    def _left_out_captions(self) -> Iterator[Caption]:
        for concept in self.concepts:
            left_out = [cell for cell, exact in zip(self.cells, self.exact[concept.name], strict=True) if exact == 0]
            first = derive(self.seed, "template", concept.name)
            for place in range(self.images_per_concept if left_out else 0):
                turn, which = divmod(place, len(left_out))
                labels = {item.name: value for item, value in zip(self.attributes, left_out[which], strict=True)}
                template = self.templates[(first + turn) % len(self.templates)]
                text = template.explicit(concept, self.attributes, labels)
                yield Caption(text=text, concept=concept.name, labels=labels, template=template.text)

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


def _targets(
    attributes: Sequence[Attribute], choices: Mapping[str, TargetChoice], concepts: Sequence[Concept]
) -> list[Target]:
    """The targets of all attributes; ``"*"`` is the choice for each attribute that no other key names."""
    by_name = {attribute.name: attribute for attribute in attributes}
    named = [name for key in choices if key != ANY_ATTRIBUTE for name in key.split(JOINT)]
    unknown = [name for name in named if name not in by_name]
    if unknown:
        raise ValueError(f"target for attribute {unknown[0]!r}, but the attributes are {', '.join(by_name)}")
    others = [name for name in by_name if name not in named]
    known = {concept.name for concept in concepts}
    found: list[Target] = []
    for key, choice in choices.items():
        groups = [[name] for name in others] if key == ANY_ATTRIBUTE else [key.split(JOINT)]
        for names in groups:
            members = [by_name[name] for name in names]
            one = members[0] if len(members) == 1 else joint_attribute(members)
            found += targets_of(choice, one, concepts=known)
    return found
