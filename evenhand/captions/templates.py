"""Captions from templates: one template gives the neutral caption of a concept and every explicit one.

A template has one of three placeholders: ``{a_concept}`` ("an electrician"), ``{concept}`` ("electrician") and
``{concepts}`` ("electricians"). The explicit form puts `Attribute.forms` around the noun before the article is chosen:
"a portrait of a female electrician with glasses". Forms are applied in the attributes' order, from the noun outwards.
A concept may have a noun of its own for a value ("actress"), which then needs no form. Languages with cases name them
in the placeholder: ``{a_concept:dative}``. Captions are in Unicode's composed form (NFC), whatever a file's is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evenhand.captions.language import ENGLISH, Language, Noun
from evenhand.records import Attribute

PLACEHOLDERS = ("a_concept", "concept", "concepts")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
NOUN_KEYS = ("noun", "article", "plural", "noun_class", "cases")
CONCEPT_KEYS = ("name", *NOUN_KEYS, "described", "forms", "spellings")

ConceptEntry = str | Mapping[str, Any]  # Any: YAML, checked by concept_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """What a neutral prompt asks for. ``noun`` is the phrase in captions, by default the name itself.

    ``article`` and ``plural`` replace what the grammar says; the article ``""`` is for nouns that take none.
    ``noun_class`` and ``cases`` are those of `evenhand.captions.language.Noun`. ``described`` is the part of the noun
    that forms of attributes are put around, where that is not all of it: the members of a group ("a meetup of female
    Python developers"). ``forms`` maps an attribute and its value to the noun that stands for the concept with this
    value. ``spellings`` are other ways to write the concept, which are searched for where it is held out.
    """

    name: str
    noun: str
    article: str | None = None
    plural: str | None = None
    noun_class: str | None = None
    cases: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    described: str | None = None
    forms: Mapping[str, Mapping[str, Noun]] = field(default_factory=dict, hash=False)
    spellings: tuple[str, ...] = ()
    language: Language = field(default=ENGLISH, hash=False)

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("noun", self.noun)):
            if not text.strip() or PLACEHOLDER.search(text):
                raise ValueError(f"concept {self.name!r}: its {what} must be words without braces, got {text!r}")
        for phrase in (self.noun, self.plural) if self.described is not None else ():
            if phrase is not None and phrase.count(self.described or " ") != 1:
                raise ValueError(
                    f"concept {self.name!r}: {phrase!r} must hold {self.described!r}, what is described, once"
                )
        if len(self.forms) > 1:
            raise ValueError(
                f"concept {self.name!r} has nouns of its own for {' and '.join(self.forms)}; "
                "one noun cannot stand for values of two attributes: keep those of one"
            )
        for attribute, nouns in self.forms.items():
            used = {self.noun: "its neutral noun"}
            for value, noun in nouns.items():
                if noun.noun in used:
                    raise ValueError(
                        f"concept {self.name!r}: its noun for {attribute}={value} is {used[noun.noun]}, {noun.noun!r}, "
                        "so a caption with it would not name the value; take another noun for one of them"
                    )
                used[noun.noun] = f"the one for {attribute}={value}"

    def neutral_noun(self) -> Noun:
        """The noun that names no value."""
        return Noun(
            noun=self.noun,
            article=self.article,
            plural=self.plural,
            noun_class=self.noun_class,
            cases=self.cases,
        )

    def many(self) -> str:
        """The plural of the noun."""
        return self.language.many(self.neutral_noun(), "")

    def phrases(self) -> tuple[str, ...]:
        """Every way in which a caption may name the concept: name, noun, plural, cases, own nouns, other spellings."""
        own = [noun for nouns in self.forms.values() for noun in nouns.values()]
        found = [self.name, *self.spellings]
        for noun in (self.neutral_noun(), *own):
            found += noun_spellings(noun, self.language)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Template:
    """A caption with a place for the concept."""

    text: str

    def __post_init__(self) -> None:
        found = PLACEHOLDER.findall(self.text)
        kinds = [placeholder.split(":")[0] for placeholder in found]
        if len(found) != 1 or kinds[0] not in PLACEHOLDERS or re.search(r"[{}]", PLACEHOLDER.sub("", self.text)):
            choices = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"template {self.text!r} needs exactly one placeholder, one of {choices}")

    def neutral(self, concept: Concept) -> str:
        """The caption that names no attribute."""
        return self._fill(concept, [], {})

    def explicit(self, concept: Concept, attributes: Sequence[Attribute], labels: Mapping[str, str]) -> str:
        """The same caption with the labelled value of each attribute named."""
        return self._fill(concept, attributes, labels)

    def counterfactuals(
        self, concept: Concept, attributes: Sequence[Attribute], labels: Mapping[str, str]
    ) -> dict[str, dict[str, str]]:
        """For each attribute, the explicit caption with each of its values in place of the labelled one."""
        return {
            attribute.name: {
                value: self.explicit(concept, attributes, {**labels, attribute.name: value})
                for value in attribute.values
            }
            for attribute in attributes
        }

    def _fill(self, concept: Concept, attributes: Sequence[Attribute], labels: Mapping[str, str]) -> str:
        kind, _, case = PLACEHOLDER.findall(self.text)[0].partition(":")
        language = concept.language
        noun, spoken_for = concept.neutral_noun(), None
        for attribute in attributes:
            own = concept.forms.get(attribute.name, {}).get(labels[attribute.name])
            if own is not None:
                noun, spoken_for = own, attribute.name
        language.check_case(noun, case)
        many = kind == "concepts"
        whole = language.many(noun, case) if many else noun.spelling(case)
        described = concept.described if concept.described is not None and spoken_for is None else whole
        phrase = described
        for attribute in attributes:
            if attribute.name != spoken_for:
                form = language.form(attribute, labels[attribute.name], noun, case=case, many=many)
                phrase = form.replace("{}", phrase)
        phrase = whole.replace(described, phrase, 1)
        if kind == "a_concept":
            phrase = language.one(noun, phrase, case)
        return unicodedata.normalize("NFC", PLACEHOLDER.sub(lambda _: phrase, self.text))


def noun_spellings(noun: Noun, language: Language) -> list[str]:
    """Singular and plural of a noun in every case, as far as they are known."""
    known = noun.plural is not None or language.plural == "english"
    found = [noun.noun] + ([language.many(noun, "")] if known else [])
    for words in noun.cases.values():
        found += [words[key] for key in ("noun", "plural") if key in words]
    return found


def with_own_nouns(attributes: Sequence[Attribute], concepts: Sequence[Concept]) -> list[Attribute]:
    """The attributes, with the concepts' nouns for a value among the words that give the value away."""
    extended = []
    for attribute in attributes:
        words = {value: list(given) for value, given in attribute.words.items()}
        for concept in concepts:
            for value, noun in concept.forms.get(attribute.name, {}).items():
                words[value] += noun_spellings(noun, concept.language)
        given = {value: tuple(dict.fromkeys(found)) for value, found in words.items()}
        extended.append(replace(attribute, words=given))
    return extended


def check_forms(attributes: Sequence[Attribute], concepts: Sequence[Concept]) -> None:
    """Raise ValueError when a concept has a noun of its own for a value that the attribute does not declare."""
    by_name = {attribute.name: attribute for attribute in attributes}
    for concept in concepts:
        for name, nouns in concept.forms.items():
            if name in by_name and set(nouns) - set(by_name[name].values):
                unknown = sorted(set(nouns) - set(by_name[name].values))[0]
                raise ValueError(
                    f"concept {concept.name!r}: forms.{name} names {unknown!r}; the values are "
                    f"{', '.join(by_name[name].values)}"
                )


def concept_of(entry: ConceptEntry, *, language: Language = ENGLISH) -> Concept:
    """A concept from YAML: its name, or a mapping with ``name`` and any of the fields of `Concept`."""
    if isinstance(entry, str):
        return Concept(name=entry, noun=entry, language=language)
    unknown = sorted(set(entry) - set(CONCEPT_KEYS))
    if unknown or "name" not in entry:
        problem = f"unknown key {unknown[0]!r}" if unknown else "no name"
        raise ValueError(f"concept {dict(entry)}: {problem}; its keys are {', '.join(CONCEPT_KEYS)}")
    try:
        return Concept(
            **{key: entry[key] for key in ("name", *NOUN_KEYS, "described") if key in entry and key != "noun"},
            noun=entry.get("noun", entry["name"]),
            forms={
                attribute: {value: _noun_of(noun) for value, noun in nouns.items()}
                for attribute, nouns in entry.get("forms", {}).items()
            },
            spellings=tuple(entry.get("spellings", ())),
            language=language,
        )
    except (AttributeError, TypeError) as error:
        raise ValueError(f"concept {dict(entry)}: {error}; see evenhand/captions/templates.py: Concept") from error


def _noun_of(entry: str | Mapping[str, Any]) -> Noun:  # Any: YAML
    if isinstance(entry, str):
        return Noun(noun=entry)
    unknown = sorted(set(entry) - set(NOUN_KEYS))
    if unknown or "noun" not in entry:
        problem = f"unknown key {unknown[0]!r}" if unknown else "no noun"
        raise ValueError(f"noun {dict(entry)}: {problem}; its keys are {', '.join(NOUN_KEYS)}")
    return Noun(**entry)


def concepts_of(entries: Sequence[ConceptEntry], *, what: str, language: Language = ENGLISH) -> tuple[Concept, ...]:
    """Concepts from YAML, in order; ValueError when a name comes twice."""
    concepts = tuple(concept_of(entry, language=language) for entry in entries)
    counts = Counter(concept.name for concept in concepts)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(f"{what}: concept {twice[0]!r} is listed twice")
    return concepts
