"""What a curated set is held against: the counts that were asked for, and the words that its captions may not hold.

Made from a plan when the set is built; read back from ``certificate.json`` when somebody counts the set again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evenhand.captions.language import Language, Noun
from evenhand.captions.templates import Concept, with_own_nouns
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.records import Attribute, Target, target_json

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCell:
    """A cell of a concept: the exact number of images that the target asks for, and the whole one that is the quota."""

    concept: str
    labels: Mapping[str, str]
    wanted: float
    quota: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """See the head of this file. ``license`` is that of rows that bring none; ``max_repeats`` is of one picture."""

    attributes: tuple[Attribute, ...]
    concepts: tuple[Concept, ...]
    heldout: tuple[Concept, ...]
    targets: tuple[Target, ...]
    cells: tuple[WantedCell, ...]
    license: str
    max_repeats: int

    def as_json(self) -> Json:
        """What ``claims_of`` reads back; the cells stand in the certificate with their counts."""
        return {
            "attributes": {attribute.name: list(attribute.values) for attribute in self.attributes},
            "heldout": [concept.name for concept in self.heldout],
            "max_repeats": self.max_repeats,
            "targets": [target_json(target) for target in self.targets],
            "vocabulary": {
                "words": {
                    attribute.name: {value: list(words) for value, words in attribute.words.items()}
                    for attribute in self.attributes
                },
                "concepts": [_concept_json(concept) for concept in self.concepts],
                "heldout": [_concept_json(concept) for concept in self.heldout],
                "languages": {
                    concept.language.name: asdict(concept.language) for concept in (*self.concepts, *self.heldout)
                },
            },
        }

    @property
    def english(self) -> bool:
        """Whether captions follow the rules of English."""
        return all(concept.language.article == "english" for concept in self.concepts)


def claims_of_plan(plan: CuratedPlan, *, license: str, max_repeats: int) -> Claims:
    """What a plan asks for."""
    names = [attribute.name for attribute in plan.attributes]
    return Claims(
        attributes=tuple(with_own_nouns(plan.attributes, (*plan.concepts, *plan.left_alone))),
        concepts=(*plan.concepts, *plan.left_alone),
        heldout=plan.heldout,
        targets=plan.targets,
        cells=tuple(
            WantedCell(
                concept=concept,
                labels=dict(zip(names, cell, strict=True)),
                wanted=round(float(plan.exact[concept][position]), 6),
                quota=quota,
            )
            for concept, quotas in plan.quotas.items()
            for position, (cell, quota) in enumerate(zip(plan.cells, quotas, strict=True))
        ),
        license=license,
        max_repeats=max_repeats,
    )


def claims_of(certificate: Json, *, where: Path) -> Claims:
    """What a certificate says was asked for; ValueError names the file ``where`` it lacks something."""
    try:
        vocabulary = certificate["vocabulary"]
        return Claims(
            attributes=tuple(
                Attribute(
                    name=name,
                    values=tuple(values),
                    forms=dict.fromkeys(values, "{}"),  # only their words are looked for
                    words={value: tuple(words) for value, words in vocabulary["words"][name].items()},
                )
                for name, values in certificate["attributes"].items()
            ),
            concepts=tuple(_concept(entry, vocabulary["languages"]) for entry in vocabulary["concepts"]),
            heldout=tuple(_concept(entry, vocabulary["languages"]) for entry in vocabulary["heldout"]),
            targets=tuple(Target(**{**entry, "shares": tuple(entry["shares"])}) for entry in certificate["targets"]),
            cells=tuple(
                WantedCell(**{field.name: entry[field.name] for field in fields(WantedCell)})
                for entry in certificate["cells"]
            ),
            license=certificate["license"],
            max_repeats=certificate["max_repeats"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} lacks something that a certificate has: {error!r}") from error


def _concept_json(concept: Concept) -> Json:
    """A concept without what it says nothing of, and with the name of its language in place of the language."""
    said = {name: value for name, value in asdict(concept).items() if value is not None and value not in ({}, ())}
    return {**said, "language": concept.language.name}


def _concept(entry: Json, languages: Json) -> Concept:
    return Concept(
        **{
            **entry,
            "spellings": tuple(entry.get("spellings", ())),
            "forms": {
                attribute: {value: Noun(**noun) for value, noun in nouns.items()}
                for attribute, nouns in entry.get("forms", {}).items()
            },
            "language": Language(**languages[entry["language"]]),
        }
    )
