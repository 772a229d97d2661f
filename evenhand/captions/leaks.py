"""What a caption must not say: a neutral one no attribute word, a training one no held-out concept.

Texts are compared without regard to case, spacing, hyphens, invisible characters, vowel points and Unicode form, and
word by word: "man" is found in "A  Man-made lake" and not in "a manager". In scripts that are written without spaces,
or with endings at the word (Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese), every character counts as a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evenhand.captions.templates import Concept
from evenhand.records import Attribute

# What a reader does not see, or may leave out: soft hyphen, zero-width and direction marks; the vowel points of Hebrew
# and Arabic, and the stroke that lengthens an Arabic word.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]"
)
HYPHENS = r"\-\u2010-\u2015"
WITHOUT_SPACES = (
    r"\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf"
    r"\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
MARKS = r"\u0300-\u036f\u0483-\u0487\u0900-\u0963\u0966-\u0dff"  # accents and Indic vowel signs are parts of words
WORD = re.compile(rf"[{WITHOUT_SPACES}]|(?:[^\W_{WITHOUT_SPACES}]|[{MARKS}])+|[^\w\s{HYPHENS}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A word in a caption that gives away ``of``: ``presentation=woman``, or ``held-out concept pilot``."""

    caption: str
    word: str
    of: str

    def __str__(self) -> str:
        return f"{self.word!r} ({self.of}) in the caption {self.caption!r}"


def normalise(text: str) -> str:
    """Text as it is compared: Unicode NFKC, case-folded, nothing unseen, hyphens and spaces as one space."""
    plain = text if text.isascii() else UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return re.sub(rf"[\s{HYPHENS}_]+", " ", plain.casefold()).strip()


def attribute_leaks(captions: Iterable[str], attributes: Sequence[Attribute]) -> list[Leak]:
    """The attribute words (`Attribute.words`) in captions that should be neutral, in the captions' order."""
    return _search(
        captions,
        {f"{item.name}={value}": words for item in attributes for value, words in item.words.items()},
    )


def heldout_leaks(captions: Iterable[str], heldout: Sequence[Concept]) -> list[Leak]:
    """The held-out concepts, in any of their `Concept.phrases`, that captions name, in the captions' order."""
    phrases = {f"held-out concept {item.name}": item.phrases() for item in heldout}
    return _search(captions, phrases)


def _search(captions: Iterable[str], phrases_of: Mapping[str, Sequence[str]]) -> list[Leak]:
    """One pass over each caption, whatever the number of phrases: they are looked up by their first word."""
    names = list(phrases_of)
    by_first: dict[str, list[tuple[list[str], int, str]]] = {}
    for number, phrases in enumerate(phrases_of.values()):
        for phrase in dict.fromkeys(map(normalise, phrases)):
            if words := WORD.findall(phrase):
                by_first.setdefault(words[0], []).append((words, number, phrase))
    for entries in by_first.values():
        entries.sort(key=lambda entry: -len(entry[0]))  # of "white person" and "white" the longer is shown
    leaks = []
    for caption in captions:
        words = WORD.findall(normalise(caption))
        found: dict[int, str] = {}
        for place, word in enumerate(words):
            for wanted, number, phrase in by_first.get(word, ()):
                if words[place : place + len(wanted)] == wanted:
                    found.setdefault(number, phrase)
        leaks += [Leak(caption=caption, word=found[number], of=names[number]) for number in sorted(found)]
    return leaks
