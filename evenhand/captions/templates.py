"""Captions from templates: one template gives the neutral caption of a concept and every explicit one.

A template has one of three placeholders: ``{a_concept}`` ("an electrician"), ``{concept}`` ("electrician") and
``{concepts}`` ("electricians"). The explicit form puts `Attribute.forms` around the noun before the article is chosen:
"a portrait of a female electrician with glasses". Forms are applied in the attributes' order, from the noun outwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenhand.captions.grammar import plural, with_article
from evenhand.records import Attribute

PLACEHOLDERS = ("a_concept", "concept", "concepts")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
CONCEPT_KEYS = ("name", "noun", "article", "plural")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """What a neutral prompt asks for. ``noun`` is the phrase in captions, by default the name itself.

    ``article`` and ``plural`` replace what the grammar says; the article ``""`` is for nouns that take none.
    """

    name: str
    noun: str
    article: str | None = None
    plural: str | None = None

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("noun", self.noun)):
            if not text.strip() or PLACEHOLDER.search(text):
                raise ValueError(f"concept {self.name!r}: its {field} must be words without braces, got {text!r}")

    def many(self) -> str:
        """The plural of the noun."""
        return plural(self.noun) if self.plural is None else self.plural

    def one(self, phrase: str) -> str:
        """A phrase built on the noun, with its article."""
        if self.article == "":
            return phrase
        if self.article is not None and phrase.startswith(self.noun):
            return f"{self.article} {phrase}"
        return with_article(phrase)


@dataclass(frozen=True, slots=True)
class Template:
    """A caption with a place for the concept."""

    text: str

    def __post_init__(self) -> None:
        found = PLACEHOLDER.findall(self.text)
        if len(found) != 1 or found[0] not in PLACEHOLDERS or re.search(r"[{}]", PLACEHOLDER.sub("", self.text)):
            choices = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"template {self.text!r} needs exactly one placeholder, one of {choices}")

    def neutral(self, concept: Concept) -> str:
        """The caption that names no attribute."""
        return self._fill(concept, [])

    def explicit(self, concept: Concept, attributes: Sequence[Attribute], labels: Mapping[str, str]) -> str:
        """The same caption with the labelled value of each attribute named."""
        return self._fill(concept, [attribute.forms[labels[attribute.name]] for attribute in attributes])

    def _fill(self, concept: Concept, forms: Sequence[str]) -> str:
        kind = PLACEHOLDER.findall(self.text)[0]
        phrase = concept.many() if kind == "concepts" else concept.noun
        for form in forms:
            phrase = form.replace("{}", phrase)
        if kind == "a_concept":
            phrase = concept.one(phrase)
        return PLACEHOLDER.sub(lambda _: phrase, self.text)


def concept_of(entry: str | Mapping[str, str]) -> Concept:
    """A concept from YAML: its name, or a mapping with ``name`` and any of ``noun``, ``article``, ``plural``."""
    if isinstance(entry, str):
        return Concept(name=entry, noun=entry)
    unknown = sorted(set(entry) - set(CONCEPT_KEYS))
    if unknown or "name" not in entry:
        problem = f"unknown key {unknown[0]!r}" if unknown else "no name"
        raise ValueError(f"concept {dict(entry)}: {problem}; its keys are {', '.join(CONCEPT_KEYS)}")
    return Concept(
        name=entry["name"],
        noun=entry.get("noun", entry["name"]),
        article=entry.get("article"),
        plural=entry.get("plural"),
    )


def concepts_of(entries: Sequence[str | Mapping[str, str]], *, what: str) -> tuple[Concept, ...]:
    """Concepts from YAML, in order; ValueError when there are none or a name comes twice."""
    concepts = tuple(concept_of(entry) for entry in entries)
    names = [concept.name for concept in concepts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: concept {twice[0]!r} is listed twice")
    return concepts
