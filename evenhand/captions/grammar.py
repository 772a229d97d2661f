"""English articles and plurals, as far as captions need them.

The rules work on spelling and know the common exceptions; a concept that they get wrong brings its own ``article`` or
``plural`` (`evenhand.captions.templates.Concept`). Acronyms are told by capitals ("an MC"), by having no vowel, or by
the list below, so that lower-case captions work too ("an mc"); any other word in lower case is read as one ("a ceo").
"""

from __future__ import annotations

import re

VOWELS = "aeiou"
# Letters whose names begin with a vowel sound: "an F", "an X", but "a U".
VOWEL_SOUND_LETTERS = frozenset("aefhilmnorsx")
# Acronyms that captions write in lower case. Those that sound the same read as a word are left out: "a ceo", "an emt".
LOWER_CASE_ACRONYM = re.compile(
    "fbi|lgbt[a-z]*|mba|mri|nba|nco|ngo|suv|ui|uk|un|url|us|usb|ux|uv|xray|[b-df-hj-np-tv-xz]+[0-9]*"
)
TITLES = re.compile("dr|ft|mr|mrs|ms|mt|st")  # without a vowel, and still read as words
SPOKEN_AS_WORDS = re.compile("fema|fifa|laser|nasa|nasdaq|nato|radar|scuba|unesco|unicef")
SILENT_H = re.compile(r"heir|honest|honor|honour|hour|hors\b")
VOWEL_Y = re.compile("y[bcdfglmnprstv]")  # "an Yvonne", but "a yacht"
# "you-" and "w-" sounds: "a uniform", "a european", "a one-man band"; but "an uninformed", "an unimpressed".
CONSONANT_SOUND = re.compile(
    r"eu|ewe|oaxa|once\b|one\b|ouija|ubiq|ugand|uig|uke|ukr|uku|unanim|unary\b|unes|uni(?![nmd])|uni(?=dir|mod)|ura|ure[at]|uri|"
    r"uro|uru|us[aeu]|uta|ute|uti|uto|utr|uvu|uyg"
)
# eight, eighty, eleven, eighteen, eighteen hundred
VOWEL_SOUND_NUMBER = re.compile(r"8|1[18](?!\d)|1[18]\d\d(?!\d)")

IRREGULAR_PLURALS = {
    "alumnus": "alumni",
    "child": "children",
    "criterion": "criteria",
    "foot": "feet",
    "goose": "geese",
    "man": "men",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "phenomenon": "phenomena",
    "quiz": "quizzes",
    "tooth": "teeth",
    "woman": "women",
}
ENDS_OF_COMPOUNDS = ("child", "man", "woman")  # "grandchildren", "policewomen"
NO_COMPOUND_OF_MAN = re.compile("caiman|german|human|norman|ottoman|roman|shaman|talisman")
SAME_IN_PLURAL = re.compile(
    "aircraft|barracks|corps|crossroads|deer|fish|glasses|headquarters|jeans|pants|people|police|scissors|series|sheep|"
    "shorts|species|staff|swiss|trousers|(chin|japan|leban|malt|portugu|sudan|taiwan|vietnam)ese"
)
F_TO_VES = re.compile("calf|elf|half|(house|mid)?wife|knife|leaf|life|loaf|self|shelf|thief|wolf")
O_TO_OES = re.compile("buffalo|domino|echo|hero|mosquito|potato|tomato|torpedo|veto")
HARD_CH = re.compile("(matri|mon|oligo?|patri)arch|epoch|eunuch|loch|stomach")  # "monarchs", but "churches"
# Only what precedes these is put into the plural: "meetups of python developers", "men at work", "editors-in-chief".
AFTER_THE_HEAD = re.compile(
    r"\s(?:of|in|at|on|from|for|with|without|by|to|near|behind|beside|before|after|between|around|full|who|that)\s"
    r"|-(?:in|of|at)-\S+$|(?<=er)-(?:by|on|up)$|(?<=attorney) general$"
)


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
    spelled = LOWER_CASE_ACRONYM.fullmatch(small) and not TITLES.fullmatch(small)
    if shouted or spelled or len(word) == 1:
        return small[0] in VOWEL_SOUND_LETTERS
    if SILENT_H.match(small) or VOWEL_Y.match(small):
        return True
    return small[0] in VOWELS and CONSONANT_SOUND.match(small) is None


def _plural_word(word: str) -> str:
    small = word.lower()
    if SAME_IN_PLURAL.fullmatch(small):
        return word
    for singular, many in IRREGULAR_PLURALS.items():
        compound = singular in ENDS_OF_COMPOUNDS and small.endswith(singular)
        if small == singular or (compound and not NO_COMPOUND_OF_MAN.fullmatch(small)):
            return word[: len(word) - len(singular)] + many
    if F_TO_VES.fullmatch(small):
        return word.removesuffix("fe").removesuffix("f") + "ves"
    if small.endswith("sis") and len(small) > len("sis"):
        return word[:-2] + "es"
    if small.endswith("y") and len(small) > 1 and (small[-2] not in VOWELS or small.endswith("quy")):
        return word[:-1] + "ies"
    if (small.endswith(("s", "x", "z", "ch", "sh")) and not HARD_CH.fullmatch(small)) or O_TO_OES.fullmatch(small):
        return word + "es"
    return word + "s"
