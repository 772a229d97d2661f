"""What a caption must not say: a neutral one no attribute word, a training one no held-out concept.

Texts are compared without regard to case, spacing, hyphens and Unicode form, and at word boundaries: "man" is found in
"A  Man-made lake" and not in "a manager".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evenhand.captions.templates import Concept
from evenhand.records import Attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A word in a caption that gives away ``of``: ``presentation=woman``, or ``held-out concept pilot``."""

    caption: str
    word: str
    of: str

    def __str__(self) -> str:
        return f"{self.word!r} ({self.of}) in the caption {self.caption!r}"


def normalise(text: str) -> str:
    """Text as it is compared: Unicode NFKC, case-folded, hyphens and spaces as one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s\-\u2010-\u2015_]+", " ", folded).strip()


def attribute_leaks(captions: Iterable[str], attributes: Sequence[Attribute]) -> list[Leak]:
    """The attribute words (`Attribute.words`) in captions that should be neutral, in the captions' order."""
    return _search(
        captions,
        {f"{item.name}={value}": words for item in attributes for value, words in item.words.items()},
    )


def heldout_leaks(captions: Iterable[str], heldout: Sequence[Concept]) -> list[Leak]:
    """The held-out concepts, in singular or plural, that captions name, in the captions' order."""
    phrases = {f"held-out concept {item.name}": (item.name, item.noun, item.many()) for item in heldout}
    return _search(captions, phrases)


def _search(captions: Iterable[str], words_of: Mapping[str, Sequence[str]]) -> list[Leak]:
    patterns = {of: _any_of(words) for of, words in words_of.items() if any(map(normalise, words))}
    leaks = []
    for caption in captions:
        text = normalise(caption)
        for of, pattern in patterns.items():
            found = pattern.search(text)
            if found is not None:
                leaks.append(Leak(caption=caption, word=found.group(), of=of))
    return leaks


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted({normalise(word) for word in words} - {""}, key=lambda word: (-len(word), word))
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")
