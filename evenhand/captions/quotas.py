"""Exact quotas: how many images of each cell each concept gets.

A *cell* is one combination of the attributes' values. `allocate` rounds the table "concept x cell" of exact shares so
that every concept's total is exact, and every entry is the exact number rounded down or up; so is every total over the
concepts, and every total over the later attributes (with three: of each value of the first and
each pair of the first two). Such a rounding of nested totals always exists (Bacharach, Management Science 1966; Cox,
JASA 1987). Which of several gets the odd image depends on the seed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise, product
from typing import Protocol

from evenhand.records import ANY_CONCEPT, SHARES_TOLERANCE, Attribute, Target
from evenhand.seeds import derive

JOINT = ","  # a target for several attributes names them joined by this: "presentation,skin"
MAX_DENOMINATOR = 1_000_000  # shares are read as fractions of at most this: 0.6 is exactly 3/5

Cell = tuple[str, ...]
Node = tuple[str | None, Cell]
Edge = tuple[Node, Node]


class TargetChoice(Protocol):
    """A choice of conf/target."""

    @property
    def reference(self) -> bool:
        """Whether a row for a concept that nobody asks for is no mistake: a statistic has more than any one set."""

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of an attribute."""


def cells_of(attributes: Sequence[Attribute]) -> list[Cell]:
    """Every combination of values, in the attributes' order; the last attribute varies fastest."""
    return list(product(*(attribute.values for attribute in attributes)))


def cell_name(attributes: Sequence[Attribute], cell: Cell) -> str:
    """A cell in words: ``presentation=woman, skin=dark``."""
    return ", ".join(f"{attribute.name}={value}" for attribute, value in zip(attributes, cell, strict=True))


def joint_attribute(attributes: Sequence[Attribute], *, joint: str = JOINT) -> Attribute:
    """The attributes as one whose values are the cells (``woman,dark``), so that one target can be given for all."""
    values = tuple(joint.join(cell) for cell in cells_of(attributes))
    return Attribute(
        name=joint.join(attribute.name for attribute in attributes),
        values=values,
        forms=dict.fromkeys(values, "{}"),
        words=dict.fromkeys(values, ()),
        parts=tuple(attributes),
    )


def targets_of(choice: TargetChoice, attribute: Attribute, *, concepts: Collection[str]) -> list[Target]:
    """The targets of an attribute for known concepts and for all; ValueError when a row names another one."""
    found = []
    for target in choice.targets(attribute):
        if target.concept == ANY_CONCEPT or target.concept in concepts:
            found.append(target)
        elif not choice.reference:
            near = difflib.get_close_matches(target.concept, concepts, n=1)
            cure = f"did you mean {near[0]!r}?" if near else "no list of concepts has it"
            raise ValueError(f"target of {target.attribute}: unknown concept {target.concept!r}; {cure}")
    return found


def cell_shares(
    attributes: Sequence[Attribute], targets: Sequence[Target], concepts: Sequence[str]
) -> dict[str, list[Fraction]]:
    """The wanted share of each cell for each concept; separate targets multiply, a joint one is taken as it is.

    A target for the concept itself replaces those for all concepts. A concept that is left alone is not in the answer.
    Raises ValueError when an attribute has no target or several, or when a target does not fit.
    """
    names = [attribute.name for attribute in attributes]
    by_concept: dict[str, list[Target]] = {}
    for target in targets:
        _check_fits(attributes, target)
        by_concept.setdefault(target.concept, []).append(target)
    known: dict[tuple[Target, ...], list[Fraction]] = {}  # most concepts share a target
    shares: dict[str, list[Fraction]] = {}
    for concept in concepts:
        chosen = _targets_for(names, by_concept, concept)
        if not _left_alone(chosen, concept):
            if chosen not in known:
                known[chosen] = _product(attributes, chosen)
            shares[concept] = known[chosen]
    return shares


def allocate(
    shares: Mapping[str, Sequence[Fraction]], *, cells: Sequence[Cell], count: int | Mapping[str, int], seed: int
) -> dict[str, list[int]]:
    """Whole numbers per concept and cell; for their totals over concepts and attributes see the head of the file.

    ``count`` is what each concept gets, or what each gets by its name.
    """
    totals = dict.fromkeys(shares, count) if isinstance(count, int) else count
    rounding = _Rounding(shares, cells=cells, totals=totals, seed=seed)
    rounding.run()
    counts = {concept: [int(rounding.quota(concept, cell)) for cell in cells] for concept in shares}
    assert all(sum(row) == totals[concept] for concept, row in counts.items()), "totals are whole and never moved"
    return counts


def check_feasible(attributes: Sequence[Attribute], shares: Mapping[str, Sequence[Fraction]], *, count: int) -> None:
    """Raise ValueError, naming the cell, when a wanted cell of a concept would get less than one image."""
    cells = cells_of(attributes)
    empty = [
        (share, concept, cell)
        for concept, row in shares.items()
        for cell, share in zip(cells, row, strict=True)
        if 0 < share * count < 1
    ]
    if empty:
        share, concept, cell = empty[0]
        more = f" ({len(empty) - 1} more cells are too small)" if len(empty) > 1 else ""
        least = math.ceil(1 / min(share for share, _, _ in empty))
        raise ValueError(
            f"quota of {concept}, cell {cell_name(attributes, cell)}: {float(share):.3g} of {count} images is less "
            f"than one{more}; needs images_per_concept >= {least}, or a target without this cell"
        )


def _check_fits(attributes: Sequence[Attribute], target: Target) -> None:
    by_name = {attribute.name: attribute for attribute in attributes}
    members = target.attribute.split(JOINT)
    for name in members:
        if name not in by_name:
            raise ValueError(f"target for attribute {name!r}, but the attributes are {', '.join(by_name)}")
    cells = cells_of([by_name[name] for name in members])
    if not target.leaves_alone and len(target.shares) != len(cells):
        listed = "; ".join(", ".join(cell) for cell in cells)
        raise ValueError(
            f"target of {target.attribute}: needs {len(cells)} shares, one for each of ({listed}), "
            f"got {list(target.shares)}"
        )


def _targets_for(names: Sequence[str], by_concept: Mapping[str, Sequence[Target]], concept: str) -> tuple[Target, ...]:
    """The targets that hold for a concept, each attribute in exactly one of them."""
    own = by_concept.get(concept, [])
    covered = {name for target in own for name in target.attribute.split(JOINT)}
    general = by_concept.get(ANY_CONCEPT, [])
    chosen = (*own, *(target for target in general if not covered & set(target.attribute.split(JOINT))))
    used = [name for target in chosen for name in target.attribute.split(JOINT)]
    for name in names:
        if used.count(name) != 1:
            problem = "no target" if name not in used else f"{used.count(name)} targets"
            raise ValueError(
                f"attribute {name} has {problem} for concept {concept!r}; it needs exactly one: a row of its own, or "
                f"one for all other concepts ({ANY_CONCEPT!r})"
            )
    return chosen


def _left_alone(chosen: Sequence[Target], concept: str) -> bool:
    """Whether a concept's targets leave it alone; ValueError when only some of them do."""
    alone = [target.attribute for target in chosen if target.leaves_alone]
    others = [target.attribute for target in chosen if not target.leaves_alone]
    if alone and others:
        raise ValueError(
            f"concept {concept!r}: {alone[0]} is to stay as the base has it, but {others[0]} has shares; a concept is "
            f"left alone as a whole: make both base, give both shares, or take {alone[0]} out of the attributes"
        )
    return bool(alone)


def _product(attributes: Sequence[Attribute], chosen: Sequence[Target]) -> list[Fraction]:
    """The share of each cell from targets that together cover each attribute once."""
    places = {attribute.name: place for place, attribute in enumerate(attributes)}
    tables = []
    for target in chosen:
        key = [places[name] for name in target.attribute.split(JOINT)]
        tables.append((key, _exact([attributes[place] for place in key], target)))
    return [
        math.prod((table[tuple(cell[place] for place in key)] for key, table in tables), start=Fraction(1))
        for cell in cells_of(attributes)
    ]


def _exact(members: Sequence[Attribute], target: Target) -> dict[Cell, Fraction]:
    """A target's shares by the values that they are for, as exact fractions that sum to one."""
    cells = cells_of(members)
    rounded = [Fraction(share).limit_denominator(MAX_DENOMINATOR) for share in target.shares]
    total = sum(rounded, Fraction(0))
    assert abs(total - 1) < 2 * len(cells) * SHARES_TOLERANCE, "Target checks its sum"
    return dict(zip(cells, (share / total for share in rounded), strict=True))


class _Rounding:
    """The quotas as a flow, made whole by pushing along cycles of edges that are not.

    Every quota is the flow of an edge: of a concept into its first attribute's values, of those into the second's and
    so on, out of the last into the cells over all concepts, and from these back through the attributes to one end.
    What flows into a node flows out, so no node has a single edge that is not whole, and walking along such edges
    closes a cycle. Pushing along it keeps every sum and makes at least one more edge whole.
    """

    def __init__(
        self, shares: Mapping[str, Sequence[Fraction]], *, cells: Sequence[Cell], totals: Mapping[str, int], seed: int
    ) -> None:
        self._flow: dict[Edge, Fraction] = {}
        for concept, row in shares.items():
            for cell, share in zip(cells, row, strict=True):
                for edge in _path(concept, cell):
                    self._flow[edge] = self._flow.get(edge, Fraction(0)) + share * totals[concept]
        self._open: dict[Node, dict[Node, Edge]] = {}
        broken = [edge for edge, flow in self._flow.items() if flow.denominator != 1]
        for edge in sorted(broken, key=lambda edge: derive(seed, "quota", repr(edge))):
            for here, there in (edge, edge[::-1]):
                self._open.setdefault(here, {})[there] = edge

    def quota(self, concept: str, cell: Cell) -> Fraction:
        """The flow into a cell of a concept."""
        return self._flow[(concept, cell[:-1]), (None, cell)]

    def run(self) -> None:
        """Make every flow whole."""
        for start in list(self._open):
            while self._open[start]:
                self._push(self._cycle(start))

    def _cycle(self, start: Node) -> list[tuple[Edge, int]]:
        """A cycle of edges that are not whole, each with +1 where it is walked in its own direction, else -1."""
        walk, place = [start], {start: 0}
        while True:
            here, before = walk[-1], walk[-2] if len(walk) > 1 else None
            there = next(node for node in self._open[here] if node != before)
            walk.append(there)
            if there in place:
                steps = pairwise(walk[place[there] :])
                return [(self._open[a][b], 1 if self._open[a][b] == (a, b) else -1) for a, b in steps]
            place[there] = len(walk) - 1

    def _push(self, cycle: Sequence[tuple[Edge, int]]) -> None:
        """Push forwards or backwards, whichever makes an edge whole with less; so large remainders are rounded up."""
        flows = [(self._flow[edge], sign) for edge, sign in cycle]
        forwards = min(math.ceil(flow) - flow if sign > 0 else flow - math.floor(flow) for flow, sign in flows)
        backwards = min(flow - math.floor(flow) if sign > 0 else math.ceil(flow) - flow for flow, sign in flows)
        amount = forwards if forwards <= backwards else -backwards
        for edge, sign in cycle:
            self._flow[edge] += sign * amount
            if self._flow[edge].denominator == 1:
                del self._open[edge[0]][edge[1]], self._open[edge[1]][edge[0]]


def _path(concept: str, cell: Cell) -> Iterator[Edge]:
    """The edges that an image of a concept's cell flows along. The nodes of all concepts together have no concept."""
    for depth in range(1, len(cell)):
        yield (concept, cell[: depth - 1]), (concept, cell[:depth])
    yield (concept, cell[:-1]), (None, cell)
    for depth in range(len(cell), 0, -1):
        yield (None, cell[:depth]), (None, cell[: depth - 1])
