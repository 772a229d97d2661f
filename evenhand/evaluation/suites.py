"""Suites as a choice: groups of prompts made from concept lists and templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from evenhand.captions.language import ENGLISH, Language
from evenhand.captions.templates import Concept, ConceptEntry, Template, concepts_of
from evenhand.records import SUITES, Attribute, Prompt

GROUP_KEYS = ("suite", "concepts", "templates", "name", "expects")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGroup:
    """Prompts of one suite: every concept of the named lists, times every template, times every value of ``name``.

    ``name`` is the attribute that explicit prompts state: each of its values makes one prompt that expects it.
    ``expects`` maps an attribute to the value that every prompt must show; ``{concept}`` in it is the concept.
    """

    suite: str
    concepts: tuple[str, ...]
    templates: tuple[Template, ...]
    name: str | None = None
    expects: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"unknown suite {self.suite!r}; choose one of {', '.join(SUITES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPrompt:
    """A prompt and how many images of it an arm makes. ``wording`` counts the wordings of its concept in its suite."""

    prompt: Prompt
    num_seeds: int
    wording: int = 0


class Suites:
    """``concepts`` maps list names to concepts (names, or mappings as captions take them); ``groups`` are PromptGroups.

    ``num_seeds`` says for each suite how many images an arm makes of each prompt. ``name`` and ``version`` go into the
    plan: other prompts are another version. ``shared_rows`` maps a row of a tier to the suites that fill it together,
    by turns, where a suite alone has too few prompts. ``language`` is that of the prompts, where it is not English.
    """

    def __init__(
        self,
        *,
        concepts: Mapping[str, Sequence[ConceptEntry]],
        groups: Sequence[Mapping[str, Any]],  # Any: YAML, checked by PromptGroup
        num_seeds: Mapping[str, int],
        name: str | None = None,
        version: int | None = None,
        shared_rows: Mapping[str, Sequence[str]] | None = None,
        language: Language | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.shared_rows = {row: tuple(suites) for row, suites in (shared_rows or {}).items()}
        spoken = ENGLISH if language is None else language
        self._lists = {
            name: concepts_of(entries, what=f"suite list {name}", language=spoken) for name, entries in concepts.items()
        }
        self._groups = tuple(self._group(group) for group in groups)
        self._num_seeds = dict(num_seeds)
        for suite in {group.suite for group in self._groups} | set(num_seeds):
            if self._num_seeds.get(suite, 0) < 1:
                raise ValueError(f"num_seeds.{suite} must be >= 1, got {self._num_seeds.get(suite)}")
            if suite not in {group.suite for group in self._groups}:
                raise ValueError(f"num_seeds.{suite}: there is no group of suite {suite!r}")
        for row, suites in self.shared_rows.items():
            if row not in suites or not set(suites) <= set(self._num_seeds):
                raise ValueError(
                    f"shared_rows.{row} must list {row} and other suites of {', '.join(self._num_seeds)}, "
                    f"got {list(suites)}"
                )

    def _group(self, group: Mapping[str, Any]) -> PromptGroup:  # Any: YAML
        where = f"suite group {dict(group)}"
        unknown = [key for key in group if key not in GROUP_KEYS]
        missing = [key for key in ("suite", "concepts", "templates") if key not in group]
        if unknown or missing:
            raise ValueError(f"{where}: unknown keys {unknown}, missing keys {missing}; known: {', '.join(GROUP_KEYS)}")
        named = group["concepts"]
        lists = (named,) if isinstance(named, str) else tuple(named)
        for name in lists:
            if name not in self._lists:
                raise ValueError(f"{where}: no concept list {name!r}; there are {', '.join(self._lists)}")
        templates = tuple(Template(text) for text in group["templates"])
        return PromptGroup(**{**group, "concepts": lists, "templates": templates})

    @property
    def concepts(self) -> frozenset[str]:
        """The names of all lists' concepts, whether or not a group asks for them."""
        return frozenset(concept.name for concepts in self._lists.values() for concept in concepts)

    @property
    def named_attributes(self) -> tuple[str, ...]:
        """Attributes whose forms :meth:`prompts` needs."""
        return tuple(dict.fromkeys(group.name for group in self._groups if group.name is not None))

    def prompts(self, attributes: Mapping[str, Attribute]) -> list[PlannedPrompt]:
        """All prompts, in order. Ids are ``<suite>-<concept>[-<value>]-<number>``, stable when concepts are added."""
        numbers: dict[str, int] = {}
        planned = []
        for group in self._groups:
            for stem, prompt in self._expand(group, attributes):
                number = numbers.get(stem, 0)
                numbers[stem] = number + 1
                whole = Prompt(id=f"{stem}-{number:02d}", suite=group.suite, **prompt)
                planned.append(PlannedPrompt(prompt=whole, num_seeds=self._num_seeds[group.suite], wording=number))
        self._refuse_overlap([entry.prompt for entry in planned])
        return planned

    def explicit_texts(self, attributes: Sequence[Attribute]) -> dict[str, dict[tuple[str, ...], str]]:
        """For each prompt that states no value, by id, its text with each combination of the attributes' values."""
        cells = list(product(*(attribute.values for attribute in attributes)))
        names = [attribute.name for attribute in attributes]
        numbers: dict[str, int] = {}
        texts = {}
        for group in self._groups:
            for concept in (concept for name in group.concepts for concept in self._lists[name]):
                for template in group.templates if group.name is None else ():
                    stem = f"{group.suite}-{concept.name.replace(' ', '-')}"
                    number = numbers.get(stem, 0)
                    numbers[stem] = number + 1
                    texts[f"{stem}-{number:02d}"] = {
                        cell: template.explicit(concept, attributes, dict(zip(names, cell, strict=True)))
                        for cell in cells
                    }
        return texts

    def _expand(
        self, group: PromptGroup, attributes: Mapping[str, Attribute]
    ) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: the fields of Prompt
        if group.name is not None and group.name not in attributes:
            raise ValueError(
                f"suite {group.suite} names attribute {group.name!r}, whose forms are not given; "
                f"add it to the config's attributes, which has {', '.join(attributes) or 'none'}"
            )
        for concept in (concept for name in group.concepts for concept in self._lists[name]):
            stem = f"{group.suite}-{concept.name.replace(' ', '-')}"
            expects = {key: value.replace("{concept}", concept.name) for key, value in (group.expects or {}).items()}
            for template in group.templates:
                if group.name is None:
                    yield stem, _fields(concept, template.neutral(concept), expects)
                    continue
                attribute = attributes[group.name]
                for value in attribute.values:
                    text = template.explicit(concept, [attribute], {attribute.name: value})
                    yield f"{stem}-{value}", _fields(concept, text, {**expects, attribute.name: value})

    def _refuse_overlap(self, prompts: Sequence[Prompt]) -> None:
        """A held-out prompt that also stands in the train suite would not be held out."""
        concepts = {prompt.concept for prompt in prompts if prompt.suite == "train"}
        for prompt in prompts:
            if prompt.suite == "heldout" and prompt.concept in concepts:
                raise ValueError(f"concept {prompt.concept!r} is in suites heldout and train; take it out of one")


def _fields(concept: Concept, text: str, expects: Mapping[str, str]) -> dict[str, Any]:  # Any: the fields of Prompt
    return {"text": text, "concept": concept.name, "expects": dict(expects) or None}
