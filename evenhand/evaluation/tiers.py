"""Tiers: how many prompts of each kind, and how many seeds of each, so that every suite can be run small or in full.

A tier takes prompts of a suite in a fixed order that spreads them over held-out and training concepts, then over
concepts, then over wordings. A smaller tier takes the beginning of what a bigger one takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from evenhand.evaluation.suites import PlannedPrompt
from evenhand.records import SUITES

# The row of neutral prompts draws on two suites, half from each where both have enough.
TARGET_ROW = "target"
TARGET_SUITES = ("heldout", "train")
ROW_NAMES = (TARGET_ROW, *(suite for suite in SUITES if suite not in TARGET_SUITES))

Wording = tuple[PlannedPrompt, ...]  # one wording of one concept; of an explicit prompt, one prompt for each value
Key = Callable[[Wording], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """``prompts`` of a kind with ``seeds`` each; an ``optional`` row takes what there is, another must be filled."""

    prompts: int
    seeds: int
    optional: bool = False

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.seeds < 1:
            raise ValueError(f"a row needs prompts >= 1 and seeds >= 1, got {self.prompts} x {self.seeds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTaken:
    """What a row of a tier took: ``prompts`` of the ``wanted``, from which suites."""

    row: str
    suites: tuple[str, ...]
    wanted: int
    prompts: int
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The prompts that are asked, in the suite's order, and by which rows they were taken."""

    prompts: tuple[PlannedPrompt, ...]
    rows: tuple[RowTaken, ...]


class WholeSuite:
    """Every prompt of the suite, with the suite's own number of seeds."""

    name: str | None = None
    audit_pairs = 0

    def choose(self, prompts: Sequence[PlannedPrompt], *, shared_rows: Mapping[str, Sequence[str]]) -> Choice:
        """All prompts as they are."""
        return Choice(prompts=tuple(prompts), rows=())


class Tier:
    """``rows`` maps the name of a row to prompts, seeds and, where it need not be filled, ``optional: true``.

    The row ``target`` draws on the suites heldout and train, every other one on the suite of its name. ``audit_pairs``
    is how many pairs of images a person should label.
    """

    def __init__(self, *, name: str, rows: Mapping[str, Mapping[str, Any]], audit_pairs: int) -> None:  # Any: YAML
        unknown = [row for row in rows if row not in ROW_NAMES]
        if unknown or TARGET_ROW not in rows:
            problem = f"unknown row {unknown[0]!r}" if unknown else f"no row {TARGET_ROW!r}"
            raise ValueError(f"tier {name}: {problem}; its rows may be {', '.join(ROW_NAMES)}")
        if audit_pairs < 0:
            raise ValueError(f"tier {name}: audit_pairs must be >= 0, got {audit_pairs}")
        try:
            self.rows = {row: Row(**content) for row, content in rows.items()}
        except TypeError as error:
            raise ValueError(f"tier {name}: a row has the keys prompts, seeds and optional: {error}") from error
        self.name = name
        self.audit_pairs = audit_pairs

    def choose(self, prompts: Sequence[PlannedPrompt], *, shared_rows: Mapping[str, Sequence[str]]) -> Choice:
        """The tier's prompts. ``shared_rows`` maps a row to the suites that share it, instead of the suite of its name.

        Raises ValueError when a row that must be filled cannot be: a smaller run would not be this tier.
        """
        elsewhere = {suite for row, suites in shared_rows.items() for suite in suites if suite != row}
        seeds: dict[str, int] = {}
        taken = []
        for name, row in self.rows.items():
            if name in elsewhere:
                continue
            suites = tuple(shared_rows.get(name, TARGET_SUITES if name == TARGET_ROW else (name,)))
            found = in_order(prompts, suites)[: row.prompts]
            if len(found) < row.prompts and not row.optional:
                raise ValueError(
                    f"tier {self.name} wants {row.prompts} prompts of {' and '.join(suites)}, the suite has "
                    f"{len(found)} (rows.{name}); add prompts to the suite, or choose a smaller tier or tier=suite"
                )
            if found:
                taken.append(RowTaken(row=name, suites=suites, wanted=row.prompts, prompts=len(found), seeds=row.seeds))
            seeds |= {entry.prompt.id: row.seeds for entry in found}
        chosen = (entry for entry in prompts if entry.prompt.id in seeds)
        return Choice(
            prompts=tuple(replace(entry, num_seeds=seeds[entry.prompt.id]) for entry in chosen), rows=tuple(taken)
        )


def in_order(prompts: Sequence[PlannedPrompt], suites: Sequence[str]) -> list[PlannedPrompt]:
    """All prompts of some suites in the order in which tiers take them.

    By turns from each suite, then from concepts that are held out, trained on, or neither, then from what must be
    shown, then from each concept. A concept begins with another wording than the one before it, so that few prompts
    show many wordings.
    """
    homes = {entry.prompt.concept: entry.prompt.suite for entry in prompts if entry.prompt.suite in TARGET_SUITES}
    order = (*TARGET_SUITES, "")

    def home(wording: Wording) -> str:
        return homes.get(wording[0].prompt.concept, "")

    def concept(wording: Wording) -> str:
        return wording[0].prompt.concept

    def expected(wording: Wording) -> str:
        return str(sorted((wording[0].prompt.expects or {}).items()))

    def suite(wording: Wording) -> str:
        return wording[0].prompt.suite

    members: dict[tuple[str, str, int], list[PlannedPrompt]] = {}
    for entry in prompts:
        if entry.prompt.suite in suites:
            members.setdefault((entry.prompt.suite, entry.prompt.concept, entry.wording), []).append(entry)
    wordings = sorted(map(tuple, members.values()), key=lambda w: (suites.index(suite(w)), order.index(home(w))))
    concepts: dict[tuple[str, int], dict[str, list[Wording]]] = {}
    for wording in wordings:
        group = concepts.setdefault((suite(wording), order.index(home(wording))), {})
        group.setdefault(concept(wording), []).append(wording)
    turned = [
        wording
        for (_, place), group in concepts.items()
        for number, own in enumerate(group.values())
        for wording in _rotated(own, by=number + place * len(own) // len(order))
    ]
    return list(chain.from_iterable(_by_turns(turned, (suite, home, expected, concept))))


def _rotated(wordings: list[Wording], *, by: int) -> list[Wording]:
    start = by % len(wordings)
    return wordings[start:] + wordings[:start]


def _by_turns(wordings: Sequence[Wording], keys: Sequence[Key]) -> list[Wording]:
    """Wordings by turns from the groups of the first key, each group arranged by the keys that follow."""
    groups: dict[str, list[Wording]] = {}
    for wording in wordings:
        groups.setdefault(keys[0](wording), []).append(wording)
    arranged = [_by_turns(group, keys[1:]) for group in groups.values()] if len(keys) > 1 else groups.values()
    turns = chain.from_iterable(zip_longest(*arranged))
    return [wording for wording in turns if wording is not None]
