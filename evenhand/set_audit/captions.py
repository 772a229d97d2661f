"""What the captions of a set say: words that give a value away, prompts of a suite, and mistakes of grammar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.captions.check import grammar_problems
from evenhand.captions.language import Language
from evenhand.captions.leaks import attribute_leaks, heldout_leaks
from evenhand.captions.templates import Concept
from evenhand.evaluation.overlap import UNSEEN_SUITES, text_key
from evenhand.evaluation.suites import Suites
from evenhand.hygiene.skips import Skips
from evenhand.records import Attribute
from evenhand.set_audit.pictures import Picture

HELDOUT_SUITE = "heldout"
ANY = Language(name="any", article="none", plural="given")  # of what a stranger calls a concept nobody knows the plural
MOST_EXAMPLES = 20

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenPrompts:
    """What captions of a training set may not hold: prompts of a suite that claim to be unseen, and its concepts."""

    name: str
    texts: frozenset[str]
    concepts: tuple[str, ...]


def unseen_prompts(suites: Suites, attributes: Sequence[Attribute]) -> UnseenPrompts:
    """Those of a suite; ValueError where it names an attribute that is not audited."""
    prompts = [entry.prompt for entry in suites.prompts({item.name: item for item in attributes})]
    unseen = [prompt for prompt in prompts if prompt.suite in UNSEEN_SUITES]
    return UnseenPrompts(
        name=suites.name or "a suite without a name",
        texts=frozenset(text_key(prompt.text) for prompt in unseen),
        concepts=tuple(dict.fromkeys(prompt.concept for prompt in unseen if prompt.suite == HELDOUT_SUITE)),
    )


def caption_report(
    pictures: Sequence[Picture], attributes: Sequence[Attribute], *, unseen: UnseenPrompts | None, language: Language
) -> Json:
    """Counts of pictures whose captions have each problem, with examples; ``leaks`` is None without a suite."""
    counts = Counter(picture.text for picture in pictures if picture.text is not None)
    texts = list(counts)
    problems = Skips()
    for picture in pictures:
        if picture.text_problem is not None:
            problems.add(picture.key, picture.text_problem)
    return {
        "n_captions": sum(counts.values()),
        "n_different": len(counts),
        "n_without": sum(picture.text is None and picture.text_problem is None for picture in pictures),
        "unusable": problems.rows(),
        "attribute_words": _attribute_words(texts, counts, attributes),
        "leaks": None if unseen is None else _leaks(texts, counts, unseen),
        "against": None if unseen is None else unseen.name,
        "grammar": _grammar(texts, counts, pictures, language=language),
    }


def _attribute_words(texts: Sequence[str], counts: Mapping[str, int], attributes: Sequence[Attribute]) -> list[Json]:
    """For each value, the pictures whose caption names it; in a set for neutral prompts there should be none."""
    found: dict[str, list[tuple[str, str]]] = {}
    for leak in attribute_leaks(texts, attributes):
        found.setdefault(leak.of, []).append((leak.caption, leak.word))
    return [
        {
            "value": value,
            "n_images": sum(counts[caption] for caption in {caption for caption, _ in hits}),
            "examples": [{"caption": caption, "word": word} for caption, word in hits[:MOST_EXAMPLES]],
        }
        for value, hits in sorted(found.items())
    ]


def _leaks(texts: Sequence[str], counts: Mapping[str, int], unseen: UnseenPrompts) -> Json:
    heldout = [Concept(name=name, noun=name) for name in unseen.concepts]
    named = heldout_leaks(texts, heldout)
    same = [text for text in texts if text_key(text) in unseen.texts]
    captions_of: dict[str, list[str]] = {}
    for leak in named:
        captions_of.setdefault(leak.of, []).append(leak.caption)
    leaking = {leak.caption for leak in named} | set(same)
    return {
        "n_images": sum(counts[caption] for caption in leaking),
        "concepts": [
            {"of": of, "n_images": sum(counts[caption] for caption in captions), "example": captions[0]}
            for of, captions in captions_of.items()
        ],
        "n_prompts": len(same),
        "prompts": same[:MOST_EXAMPLES],
    }


def _grammar(
    texts: Sequence[str], counts: Mapping[str, int], pictures: Sequence[Picture], *, language: Language
) -> Json:
    names = sorted({picture.concept for picture in pictures if picture.concept is not None})
    nouns = [
        Concept(name=name, noun=name, language=ANY) for name in names if name.strip() and not set(name) & set("{}")
    ]
    english = language.article == "english"
    found = grammar_problems(texts, nouns, english=english)
    kinds = Counter(problem.kind for problem in found)
    return {
        "english": english,
        "n_images": sum(counts[caption] for caption in {problem.caption for problem in found}),
        "n_captions": len({problem.caption for problem in found}),
        "kinds": dict(kinds.most_common()),
        "examples": [
            {"kind": each.kind, "found": each.found, "wanted": each.wanted, "caption": each.caption}
            for each in found[:MOST_EXAMPLES]
        ],
    }
