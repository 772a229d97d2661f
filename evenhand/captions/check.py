"""Mistakes of grammar in whole captions, as templates and careless lists make them: "a accountant", "two woman".

Two kinds of rule. Spaces, doubled words and punctuation, and what a template left behind are looked for in every
language. Articles, and the number of nouns beside an article or a numeral, are looked for in English. Where English
allows two readings ("a herb", "an herb"; a word in capitals that may be an acronym) both are right. What a rule gets
wrong for a noun is cured where the noun is declared: a concept's own ``article`` and ``plural`` are taken as right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from evenhand.captions.grammar import IRREGULAR_PLURALS, LOWER_CASE_ACRONYM, VOWELS, indefinite_article
from evenhand.captions.templates import Concept

LEFT_BEHIND = re.compile(r"[{}][^\s{}]*[{}]?|\ba\s?/\s?an\b|\ba\(n\)|\(e?s\)")
SPACES = re.compile(r"[^\S ]| {2,}| (?=[,.](?:\s|$))|^\s+|\s+$")
SURROUNDINGS = 8  # characters that are shown on either side of what has no word of its own
PUNCTUATION = re.compile(r"[,;:]\s*[,;:.](?!\.)")
DOUBLED = re.compile(r"(?<![\w'\u2019-])([^\W\d_]+)\s+\1(?![\w'\u2019-])", re.IGNORECASE)
MAY_BE_DOUBLED = frozenset({"had", "that"})
TWO_ARTICLES = re.compile(r"\b(?:an?|the)\s+(?:an?|the)(?=\s)", re.IGNORECASE)
# An article in lower case anywhere; with a capital where a sentence begins, elsewhere it is a letter: "vitamin A".
ARTICLE = re.compile(r"(?:(?<![\w'\u2019.&/-])(an?)|(?:(?<=^)|(?<=[.!?:] ))(An?|AN))\s+[\"'\u201c\u2018(\[]*([^\W_]+)")
EITHER = re.compile(r"herb.*|histori.*|homage|hotel")
NO_NOUN_PHRASE = re.compile("and|are|as|at|if|in|is|of|on|or")  # before these "a" is a letter: "players a and b"
NUMERAL = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|several|many|few|both|[2-9]|[1-9]\d)(?=\s)", re.I
)
SINGULAR = re.compile(r"(?<![\w'\u2019.&/-])an?(?=\s)", re.IGNORECASE)
TOKEN = re.compile(r"[\w'\u2019-]+|[^\w\s]")
MOST_MODIFIERS = 3
# What ends a noun phrase: after these nothing says anything of the noun's number.
ENDS_A_PHRASE = re.compile(
    "an?|the|of|in|at|on|from|for|with|without|by|to|and|or|near|under|over|behind|beside|between|before|after|around|"
    "who|that|which|is|are|was|were|has|have|wearing|holding|sitting|standing|walking|working|smiling|looking|talking|"
    "eating|drinking|playing|posing"
)
COUNTS_AS_ONE = re.compile("few|couple|dozen|hundred|thousand|million|lot|many")  # "a few nurses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A mistake in a caption: what kind it is, the words that show it, and what would be right (``""``: unknown)."""

    caption: str
    kind: str
    found: str
    wanted: str = ""

    def __str__(self) -> str:
        better = f", should be {self.wanted!r}," if self.wanted else ""
        return f"{self.kind} {self.found!r}{better} in the caption {self.caption!r}"


def grammar_problems(
    captions: Iterable[str], concepts: Sequence[Concept] = (), *, english: bool = True
) -> list[Problem]:
    """The mistakes in captions, in their order; a caption that comes again is checked and listed once.

    ``concepts`` are those that the captions name: their nouns are also checked for number, and their own articles are
    right. Without ``english`` only the rules of every language are used. An empty caption has no mistake.
    """
    nouns = _Nouns(concepts)
    problems: list[Problem] = []
    for caption in dict.fromkeys(captions):
        problems += _any_language(caption, nouns)
        if english:
            problems += _articles(caption, nouns)
            problems += _numbers(caption, nouns)
    return problems


class _Nouns:
    """What the concepts' nouns allow and forbid, by their small letters."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self.plural_of = {singular: many for singular, many in IRREGULAR_PLURALS.items() if singular != many}
        self.doubled: set[str] = set()
        self.own_articles: set[str] = set()
        for concept in concepts:
            noun = concept.noun.casefold()
            self.doubled |= {found.group() for found in DOUBLED.finditer(noun)}
            if concept.article:
                self.own_articles.add(f"{concept.article} {noun}".casefold())
            if concept.language.plural == "english" and concept.many().casefold() != noun:
                self.plural_of[noun] = concept.many().casefold()
        self.singular_of = {many: singular for singular, many in self.plural_of.items()}
        # A plural that is also somebody's singular says nothing: "a data entry clerks office".
        for noun in self.plural_of.keys() & self.singular_of.keys():
            del self.plural_of[noun], self.singular_of[noun]
        self.last_of_plurals = {_last_word(noun) for noun in self.singular_of}
        self.last_of_singulars = {_last_word(noun) for noun in self.plural_of}
        self.most_words = max((noun.count(" ") + 1 for noun in (*self.plural_of, *self.singular_of)), default=1)


def _last_word(noun: str) -> str:
    words: list[str] = TOKEN.findall(noun)
    return words[-1] if words else ""


def _any_language(caption: str, nouns: _Nouns) -> Iterator[Problem]:
    for kind, pattern in (("placeholder", LEFT_BEHIND), ("spaces", SPACES), ("punctuation", PUNCTUATION)):
        found = pattern.search(caption) if caption else None
        if found is not None:
            around = caption[max(0, found.start() - SURROUNDINGS) : found.end() + SURROUNDINGS]
            yield Problem(caption=caption, kind=kind, found=around)
    for found in DOUBLED.finditer(caption):
        first, second = found.group().split()
        name = first[0].isupper() and second[0].isupper() and not caption.isupper()
        if not name and first.casefold() not in MAY_BE_DOUBLED and found.group().casefold() not in nouns.doubled:
            yield Problem(caption=caption, kind="doubled word", found=found.group(), wanted=first)


def _articles(caption: str, nouns: _Nouns) -> Iterator[Problem]:
    two = TWO_ARTICLES.search(caption)
    if two is not None and len(set(two.group().casefold().split())) > 1:
        yield Problem(caption=caption, kind="two articles", found=two.group())
    shouted = caption.isupper()
    for found in ARTICLE.finditer(caption):
        article, word = (found[1] or found[2]).casefold(), found[3].casefold() if shouted else found[3]
        right = _right_articles(word)
        if NO_NOUN_PHRASE.fullmatch(word):
            continue
        if article not in right and not _is_own(caption[found.start() :], nouns):
            better = found.group().replace(found[1] or found[2], "an" if article == "a" else "a", 1)
            yield Problem(caption=caption, kind="article", found=found.group(), wanted=better)


@lru_cache(maxsize=10_000)
def _right_articles(word: str) -> frozenset[str]:
    """The articles that a word may have: both where it can be read in two ways."""
    small = word.casefold()
    if EITHER.fullmatch(small):
        return frozenset({"a", "an"})
    articles = {indefinite_article(word)}
    # LED, STOP: letters or a word. FBI and HR are on the list of acronyms, or cannot be read as a word.
    if len(word) > 1 and word.isupper() and not LOWER_CASE_ACRONYM.fullmatch(small) and set(small) & set(VOWELS):
        articles.add(indefinite_article(small))
    return frozenset(articles)


def _is_own(text: str, nouns: _Nouns) -> bool:
    """Whether a text begins with a concept's own article and noun."""
    small = " ".join(text.casefold().split())
    return any(small == own or re.match(re.escape(own) + r"(?!\w)", small) for own in nouns.own_articles)


def _numbers(caption: str, nouns: _Nouns) -> Iterator[Problem]:
    """A plural after ``a``, a singular after a numeral: of irregular nouns and of the concepts' nouns."""
    words = {token.casefold() for token in TOKEN.findall(caption)}
    for kind, pattern, wrong, last_words in (
        ("plural after an article", SINGULAR, nouns.singular_of, nouns.last_of_plurals),
        ("singular after a numeral", NUMERAL, nouns.plural_of, nouns.last_of_singulars),
    ):
        if last_words.isdisjoint(words):
            continue
        for found in pattern.finditer(caption):
            noun = _noun_after(caption[found.end() :], wrong, nouns.most_words)
            if noun is not None and not _is_own(caption[found.start() :], nouns):
                yield Problem(caption=caption, kind=kind, found=f"{found.group()} ... {noun}", wanted=wrong[noun])


def _noun_after(text: str, wrong: dict[str, str], most_words: int) -> str | None:
    """The wrong noun that ends the noun phrase at a text's beginning, after a few words that are no nouns of ours."""
    tokens = [token.casefold() for token in TOKEN.findall(text)[: MOST_MODIFIERS + most_words + 1]]
    for start in range(min(MOST_MODIFIERS + 1, len(tokens))):
        if _ends_a_phrase(tokens[start]) or COUNTS_AS_ONE.fullmatch(tokens[start]):
            return None
        for length in range(min(most_words, len(tokens) - start), 0, -1):
            after = tokens[start + length] if start + length < len(tokens) else ","
            noun = " ".join(tokens[start : start + length])
            if noun in wrong and _ends_a_phrase(after):
                return noun
    return None


def _ends_a_phrase(token: str) -> bool:
    return not token[0].isalnum() or ENDS_A_PHRASE.fullmatch(token) is not None
