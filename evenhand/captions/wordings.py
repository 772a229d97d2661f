"""More ways to say a caption: wordings, modifiers and styles, crossed into templates.

A wording is a template ("{a_concept} at work"); a modifier and a style are patterns with ``{}`` for what they are put
around ("{} in a blue jacket", "an oil painting of {}"). Which ones go together depends on the seed; every wording,
modifier and style is used equally often, within one. No value of an attribute decides anything here, and a plan gives
every cell of a concept the same sequence of templates, so how a caption is worded says nothing about its labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from evenhand.captions.templates import Template
from evenhand.seeds import derive

PLACE = "{}"


class Wordings:
    """See the head of this file. ``texts`` are the templates.

    ``limit`` is how many (None: all combinations). Without a ``seed`` the lists are crossed as they are.
    """

    def __init__(
        self,
        *,
        wordings: Sequence[str],
        modifiers: Sequence[str],
        styles: Sequence[str],
        limit: int | None,
        seed: int | None,
    ) -> None:
        for text in wordings:
            Template(text)
        for what, patterns in (("modifier", modifiers), ("style", styles)):
            for pattern in patterns:
                if pattern.count(PLACE) != 1:
                    raise ValueError(f"{what} {pattern!r} needs one {PLACE} for what it is put around")
        for what, entries in (("wordings", wordings), ("modifiers", modifiers), ("styles", styles)):
            if not entries:
                raise ValueError(f"{what} is empty; {PLACE!r} alone is the one that changes nothing")
            if len(set(entries)) != len(entries):
                twice = next(entry for entry in entries if list(entries).count(entry) > 1)
                raise ValueError(f"{what}: {twice!r} is listed twice")
        most = len(wordings) * len(modifiers) * len(styles)
        if limit is not None and not 1 <= limit <= most:
            raise ValueError(
                f"limit must be 1 to {most}, as {len(wordings)} wordings, {len(modifiers)} modifiers and {len(styles)} "
                f"styles have no more combinations; got {limit}"
            )
        shuffled = [_shuffled(entries, seed) for entries in (wordings, modifiers, styles)]
        self.texts = tuple(_crossed(*shuffled, count=most if limit is None else limit))


def _shuffled(entries: Sequence[str], seed: int | None) -> Sequence[str]:
    if seed is None:
        return entries
    return sorted(entries, key=lambda entry: derive(seed, "wording", entry))


def _crossed(wordings: Sequence[str], modifiers: Sequence[str], styles: Sequence[str], *, count: int) -> list[str]:
    """The first combinations of a walk on which all three move on at every step and none comes twice.

    After as many steps as a common multiple of the three numbers the walk would come back to where it began; there the
    modifier or the style is moved on once more, to the next start that no walk has come by.
    """
    texts: list[str] = []
    used: set[tuple[int, int, int]] = set()
    length = math.lcm(len(wordings), len(modifiers), len(styles))
    for first_modifier, first_style in product(range(len(modifiers)), range(len(styles))):
        if (0, first_modifier, first_style) in used:
            continue
        for step in range(length):
            if len(used) == count:
                return texts
            place = step % len(wordings), (first_modifier + step) % len(modifiers), (first_style + step) % len(styles)
            used.add(place)
            inner = modifiers[place[1]].replace(PLACE, wordings[place[0]])
            texts.append(styles[place[2]].replace(PLACE, inner))
    return texts
