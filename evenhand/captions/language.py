"""What a language asks of captions: articles, plurals, cases, and forms that agree with the noun. All of it is data.

English has rules for articles and plurals (`evenhand.captions.grammar`). Every other language brings its own in YAML:
a noun names its ``noun_class`` (feminine, common, ...), the language says which article a class takes in which case,
and a form of an attribute may differ by class and case. Names of classes and cases are free. A case is asked for in a
template: ``ein Foto von {a_concept:dative}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evenhand.captions.grammar import plural, with_article
from evenhand.records import Attribute

PLURAL = "plural"  # how forms name the plural where they name a noun class
CASE_KEYS = ("noun", "article", "plural")
ELISION = ("'", "\u2019")  # an article that ends so stands at the noun: l'avvocata


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """A noun phrase. ``cases`` maps a case to what differs in it: any of ``noun``, ``article`` and ``plural``."""

    noun: str
    article: str | None = None
    plural: str | None = None
    noun_class: str | None = None
    cases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for case, words in self.cases.items():
            unknown = sorted(set(words) - set(CASE_KEYS))
            if unknown:
                raise ValueError(
                    f"noun {self.noun!r}, cases.{case}: unknown key {unknown[0]!r}; keys are {', '.join(CASE_KEYS)}"
                )

    def spelling(self, case: str) -> str:
        """The singular in a case."""
        return self.cases.get(case, {}).get("noun", self.noun)

    def given_plural(self, case: str) -> str | None:
        """The plural in a case, as far as it was given."""
        return self.cases.get(case, {}).get("plural", self.plural)

    def given_article(self, case: str) -> str | None:
        """The article in a case, as far as it was given; that of another case is no answer."""
        return self.cases.get(case, {}).get("article", None if case else self.article)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """See the head of this file.

    ``article`` says where articles come from: English rules, the noun or its class (``given``), or there are none.
    ``articles`` maps a noun class to its article in each case, the first being that of ``{a_concept}`` without a case.
    ``forms`` maps an attribute, its value, and then a key to a pattern that is used in place of the attribute's own:
    the key is a class and a case (``feminine dative``), a case, or a class, of which the first that is there is taken;
    ``plural`` is the class of every plural.
    """

    name: str
    article: Literal["english", "given", "none"]
    plural: Literal["english", "given"]
    articles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    forms: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.articles and self.article != "given":
            raise ValueError(f"language {self.name}: articles are listed, but article is {self.article!r}, not 'given'")
        for noun_class, by_case in self.articles.items():
            if not by_case:
                raise ValueError(f"language {self.name}: articles.{noun_class} is empty")
        for attribute, values in self.forms.items():
            for value, patterns in values.items():
                for key, pattern in patterns.items():
                    if pattern.count("{}") != 1:
                        raise ValueError(
                            f"language {self.name}: forms.{attribute}.{value}.{key} needs one {{}}, got {pattern!r}"
                        )

    def one(self, noun: Noun, phrase: str, case: str) -> str:
        """A phrase that was built on a noun, with the noun's article."""
        if self.article == "none":
            return phrase
        own = noun.given_article(case)
        if self.article == "english":
            if own == "":
                return phrase
            # its own article is that of the noun itself: "the queen", but "a young queen"
            return f"{own} {phrase}" if own and phrase.startswith(noun.noun) else with_article(phrase)
        article = self._article_of_class(noun, case) if own is None else own
        return f"{article}{phrase}" if not article or article.endswith(ELISION) else f"{article} {phrase}"

    def many(self, noun: Noun, case: str) -> str:
        """The plural of a noun; ValueError where none was given and there are no rules."""
        given = noun.given_plural(case)
        if given is None and self.plural == "given":
            raise ValueError(f"noun {noun.noun!r} has no plural, and {self.name} has no rules for one; give its plural")
        return plural(noun.noun) if given is None else given

    def check_case(self, noun: Noun, case: str) -> None:
        """Raise ValueError unless a noun is known in a case."""
        known = {*noun.cases, *self.articles.get(noun.noun_class or "", {})}
        if case and case not in known:
            raise ValueError(
                f"there is no case {case!r} of {noun.noun!r}; give its cases.{case}, or a noun_class for which the "
                f"language {self.name} lists an article in that case"
            )

    def form(self, attribute: Attribute, value: str, noun: Noun, *, case: str, many: bool) -> str:
        """The pattern that names a value at a noun."""
        patterns = self.forms.get(attribute.name, {}).get(value, {})
        noun_class = PLURAL if many else noun.noun_class or ""
        keys = [f"{noun_class} {case}", noun_class] if many else [f"{noun_class} {case}", case, noun_class]
        return next((patterns[key] for key in keys if key in patterns), attribute.forms[value])

    def patterns(self, attribute: Attribute, value: str) -> Iterator[str]:
        """Every pattern that may name a value."""
        yield attribute.forms[value]
        yield from self.forms.get(attribute.name, {}).get(value, {}).values()

    def check(self, attribute: Attribute) -> None:
        """Raise ValueError when the language has forms for a value that the attribute does not declare."""
        unknown = sorted(set(self.forms.get(attribute.name, {})) - set(attribute.values))
        if unknown:
            raise ValueError(
                f"language {self.name}: forms.{attribute.name} names {unknown[0]!r}; the values are "
                f"{', '.join(attribute.values)}"
            )

    def _article_of_class(self, noun: Noun, case: str) -> str:
        by_case = self.articles.get(noun.noun_class or "")
        if by_case is None:
            classes = f"; its noun_class must be one of {', '.join(self.articles)}" if self.articles else ""
            raise ValueError(f"noun {noun.noun!r} has no article in language {self.name}; give its article{classes}")
        chosen = case or next(iter(by_case))
        if chosen not in by_case:
            raise ValueError(
                f"language {self.name} has no article for {noun.noun_class} in the case {chosen!r}; "
                f"articles.{noun.noun_class} has {', '.join(by_case)}"
            )
        return by_case[chosen]


ENGLISH = Language(name="english", article="english", plural="english")
