"""English articles and plurals, as far as captions need them.

The rules work on spelling and know the common exceptions; a concept that they get wrong brings its own ``article`` or
``plural`` (`evenhand.captions.templates.Concept`). Acronyms are told by capitals ("an MC") or by the list below, so
that lower-case captions work too ("an mc"); any other word in lower case is read as a word ("a ceo").
"""

from __future__ import annotations

import re

VOWELS = "aeiou"
# Letters whose names begin with a vowel sound: "an F", "an X", but "a U".
VOWEL_SOUND_LETTERS = frozenset("aefhilmnorsx")
# Acronyms that captions write in lower case. Those that sound the same read as a word are left out: "a ceo", "an emt".
LOWER_CASE_ACRONYM = re.compile(
    "fbi|fm|hgv|hr|lgbt|lpn|mba|mc|mp|mri|nba|nco|nfl|ngo|nhl|nhs|rn|sql|suv|svp|ui|uk|un|us|usb|ux|xray"
)
SPOKEN_AS_WORDS = re.compile("fema|fifa|laser|nasa|nasdaq|nato|radar|scuba|unesco|unicef")
SILENT_H = ("heir", "honest", "honor", "honour", "hour")
# "you-" and "w-" sounds: "a uniform", "a european", "a one-man band"; but "an uninformed", "an unimpressed".
CONSONANT_SOUND = re.compile(
    r"eu|ewe|once\b|one\b|ouija|ubiq|ukr|uku|unes|uni(?![nmd])|ura|uri|uro|us[aeu]|ute|uti|uto|uyg"
)
VOWEL_SOUND_NUMBER = re.compile(r"8|1[18](?!\d)")  # eight, eighty, eleven, eighteen

IRREGULAR_PLURALS = {
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "man": "men",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "tooth": "teeth",
    "woman": "women",
}
NO_COMPOUND_OF_MAN = re.compile("caiman|german|human|norman|ottoman|roman|shaman|talisman")
SAME_IN_PLURAL = re.compile("aircraft|corps|deer|fish|people|police|series|sheep|species|staff")
F_TO_VES = re.compile("calf|elf|half|(house|mid)?wife|knife|leaf|life|loaf|self|shelf|thief|wolf")
O_TO_OES = re.compile("echo|hero|potato|tomato|torpedo|veto")
# Only what precedes these is put into the plural: "meetups of python developers", "men at work".
AFTER_THE_HEAD = re.compile(r"\s(?:of|in|at|on|from|for|with|without|by|to)\s")


def indefinite_article(phrase: str) -> str:
    """``a`` or ``an`` for a noun phrase, by how its first word is spoken."""
    first = re.match(r"[\W_]*([^\W_]+)", phrase)
    if first is None:
        raise ValueError(f"no article for {phrase!r}: it has no word")
    return "an" if _starts_with_vowel_sound(first.group(1)) else "a"


def with_article(phrase: str) -> str:
    """A noun phrase with its indefinite article: ``an electrician``."""
    return f"{indefinite_article(phrase)} {phrase}"


def plural(phrase: str) -> str:
    """The plural of a noun phrase: its head is the last word before a preposition (``flight attendants``)."""
    end = AFTER_THE_HEAD.search(phrase)
    head, rest = (phrase, "") if end is None else (phrase[: end.start()], phrase[end.start() :])
    before, word = re.fullmatch(r"(.*?)([^\s-]*)", head, flags=re.DOTALL).groups()  # type: ignore[union-attr]  # always matches
    if not word:
        raise ValueError(f"no plural for {phrase!r}: it has no noun")
    return f"{before}{_plural_word(word)}{rest}"


def _starts_with_vowel_sound(word: str) -> bool:
    if word[0].isdigit():
        return VOWEL_SOUND_NUMBER.match(word) is not None
    small = word.casefold()
    shouted = len(word) > 1 and word.isupper() and not SPOKEN_AS_WORDS.fullmatch(small)
    if shouted or LOWER_CASE_ACRONYM.fullmatch(small) or len(word) == 1:
        return small[0] in VOWEL_SOUND_LETTERS
    if small.startswith(SILENT_H):
        return True
    return small[0] in VOWELS and CONSONANT_SOUND.match(small) is None


def _plural_word(word: str) -> str:
    small = word.lower()
    if SAME_IN_PLURAL.fullmatch(small):
        return word
    for singular, many in IRREGULAR_PLURALS.items():
        compound = singular in ("man", "woman") and small.endswith(singular)
        if small == singular or (compound and not NO_COMPOUND_OF_MAN.fullmatch(small)):
            return word[: len(word) - len(singular)] + many
    if F_TO_VES.fullmatch(small):
        return word.removesuffix("fe").removesuffix("f") + "ves"
    if small.endswith("y") and len(small) > 1 and small[-2] not in VOWELS:
        return word[:-1] + "ies"
    if small.endswith(("s", "x", "z", "ch", "sh")) or O_TO_OES.fullmatch(small):
        return word + "es"
    return word + "s"
