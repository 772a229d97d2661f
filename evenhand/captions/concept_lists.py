"""Concept lists as data: those in ``evenhand/captions/lists``, and lists of your own in the same form.

The head of a list says where it comes from: ``name``, ``source``, ``license``, ``year``; then ``concepts``, entries as
`evenhand.captions.templates.concept_of` takes them, with an optional ``code`` in a classification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from evenhand.captions.language import Language
from evenhand.captions.leaks import heldout_leaks
from evenhand.captions.templates import Concept, ConceptEntry, concept_of, concepts_of
from evenhand.construct import closest

LISTS = Path(__file__).parent / "lists"
SUFFIX = ".yaml"
HEAD_KEYS = ("name", "source", "license", "year")
CODE = "code"
MIN_HELDOUT_EVERY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFile:
    """A list as it stands in its file. ``codes`` maps a concept's name to its code, where it has one."""

    name: str
    source: str
    license: str
    year: int
    path: Path
    entries: tuple[ConceptEntry, ...]
    codes: Mapping[str, str]


class ConceptList:
    """Concepts of a list, some of them held out.

    ``name`` is a list of evenhand or the path of your own. ``only`` takes these names of it, ``limit`` so many, spread
    evenly over the list, and of what is left every ``heldout_every``-th is held out (null: none). A concept that names
    one that is held out ("dental nurse" where "nurse" is) is held out as well: it could not be in a training caption.
    """

    def __init__(self, *, name: str, only: Sequence[str] | None, limit: int | None, heldout_every: int | None) -> None:
        self.file = read_list(name)
        self._entries = list(self.file.entries)
        if only is not None:
            self._entries = [_entry_of(self.file, wanted) for wanted in only]
        if limit is not None:
            if not 1 <= limit <= len(self._entries):
                raise ValueError(f"concept list {name}: limit must be 1 to {len(self._entries)}, got {limit}")
            self._entries = [self._entries[place * len(self._entries) // limit] for place in range(limit)]
        if heldout_every is not None and heldout_every < MIN_HELDOUT_EVERY:
            raise ValueError(
                f"concept list {name}: heldout_every must be null or >= {MIN_HELDOUT_EVERY}, got {heldout_every}"
            )
        self._heldout_every = heldout_every

    def split(
        self, heldout: Sequence[Concept], *, language: Language
    ) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
        """The concepts to train on, and those held out: the given ones and the list's own."""
        concepts = concepts_of(self._entries, what=f"concept list {self.file.name}", language=language)
        every = self._heldout_every
        chosen = [concept for place, concept in enumerate(concepts, start=1) if every and place % every == 0]
        known = {concept.name for concept in heldout}
        away = [*heldout, *(concept for concept in chosen if concept.name not in known)]
        names = {concept.name for concept in away}
        for concept in concepts:
            if concept.name not in names and heldout_leaks(concept.phrases(), away):
                away.append(concept)
        names = {concept.name for concept in away}
        return tuple(concept for concept in concepts if concept.name not in names), tuple(away)


def listed(concepts: Sequence[ConceptEntry]) -> Sequence[ConceptEntry]:
    """Entries as they are: what a choice of conf/concepts gives that is no list of a file."""
    return concepts


def training_and_heldout(
    concepts: Sequence[ConceptEntry] | ConceptList, heldout: Sequence[ConceptEntry], *, language: Language
) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """What a plan's ``concepts`` and ``heldout`` say: entries, or a list that brings held-out concepts of its own."""
    away = concepts_of(heldout, what="heldout", language=language)
    if isinstance(concepts, ConceptList):
        return concepts.split(away, language=language)
    return concepts_of(concepts, what="concepts", language=language), away


@lru_cache(maxsize=32)
def read_list(name: str) -> ListFile:
    """A list by its name, or by the path of a file; ValueError says what is wrong with it."""
    path = Path(name) if name.endswith(SUFFIX) else LISTS / f"{name}{SUFFIX}"
    if not path.is_file():
        raise ValueError(f"no concept list {name!r}{closest(name, list_names())} (or the path of a {SUFFIX} file)")
    try:
        # the loader in C, where PyYAML has it: ten times as fast
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return _checked(content, path)


def list_names() -> list[str]:
    """The lists that evenhand brings."""
    return sorted(path.stem for path in LISTS.glob(f"*{SUFFIX}"))


def _checked(content: object, path: Path) -> ListFile:
    if not isinstance(content, dict) or not set(content) >= {*HEAD_KEYS, "concepts"}:
        raise ValueError(f"{path} must have the keys {', '.join(HEAD_KEYS)} and concepts")
    for key in ("name", "source", "license"):
        if not isinstance(content[key], str) or not content[key].strip():
            raise ValueError(f"{path}: {key} must be text, got {content[key]!r}")
    if not isinstance(content["year"], int):
        raise ValueError(f"{path}: year must be a number, got {content['year']!r}")
    if not isinstance(content["concepts"], list) or not content["concepts"]:
        raise ValueError(f"{path}: concepts must be a list of names or mappings")
    entries: list[ConceptEntry] = []
    codes: dict[str, str] = {}
    for number, entry in enumerate(content["concepts"], start=1):
        if not isinstance(entry, str | dict):
            raise ValueError(f"{path}: entry {number} must be a name or a mapping, got {entry!r}")
        plain = entry if isinstance(entry, str) else {key: value for key, value in entry.items() if key != CODE}
        name = concept_of(plain).name
        entries.append(plain)
        if isinstance(entry, dict) and CODE in entry:
            codes[name] = _code(entry[CODE], name, path)
    return ListFile(**{key: content[key] for key in HEAD_KEYS}, path=path, entries=tuple(entries), codes=codes)


def _code(code: Any, name: str, path: Path) -> str:  # Any: YAML
    if not isinstance(code, str):
        raise ValueError(f"{path}: the code of {name!r} must be text in quotes (or 0110 becomes 72), got {code!r}")
    return code


def _entry_of(file: ListFile, wanted: str) -> ConceptEntry:
    by_name = {concept_of(entry).name: entry for entry in file.entries}
    if wanted not in by_name:
        raise ValueError(f"concept list {file.name} has no {wanted!r}{closest(wanted, by_name)}")
    return by_name[wanted]
