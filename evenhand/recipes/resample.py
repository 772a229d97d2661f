"""Which pictures fill a plan's slots: drawn by the seed, none more often than a limit, or the plan fitted to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from evenhand.captions.quotas import Cell, cell_name
from evenhand.recipes.candidates import Candidate
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.seeds import derive

MOST_SAID = 12

CellKey = tuple[str, Cell]
Pools = Mapping[CellKey, Sequence[Candidate]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A cell whose pictures are too few: ``found`` of them may stand for ``wanted`` images, and ``missing`` stay."""

    concept: str
    cell: str
    wanted: int
    found: int
    missing: int

    def __str__(self) -> str:
        return f"{self.concept}, {self.cell}: {self.found} found, {self.wanted} wanted, {self.missing} missing"


def draw_seed(plan: CuratedPlan, candidate: Candidate) -> int:
    """By these numbers pictures are put in order: who comes first is drawn first."""
    return derive(plan.seed, "draw", candidate.source, candidate.key)


def pools(plan: CuratedPlan, candidates: Iterable[Candidate]) -> dict[CellKey, list[Candidate]]:
    """The usable pictures of each cell of each concept, in the order in which the seed draws them."""
    found: dict[CellKey, list[Candidate]] = {
        (concept.name, cell): [] for concept in plan.concepts for cell in plan.cells
    }
    for candidate in candidates:
        if candidate.skipped is None:
            cell = tuple(candidate.labels[attribute.name] for attribute in plan.attributes)
            found[candidate.concept, cell].append(candidate)
    for pool in found.values():
        pool.sort(key=lambda candidate: (draw_seed(plan, candidate), candidate.place))
    return found


def lacks(plan: CuratedPlan, found: Pools, *, max_repeats: int) -> list[Lack]:
    """The cells that the pictures cannot fill, in the plan's order."""
    lacking = []
    for concept, quotas in plan.quotas.items():
        for cell, quota in zip(plan.cells, quotas, strict=True):
            number = len(found[concept, cell])
            if quota > number * max_repeats:
                lacking.append(
                    Lack(
                        concept=concept,
                        cell=cell_name(plan.attributes, cell),
                        wanted=quota,
                        found=number,
                        missing=quota - number * max_repeats,
                    )
                )
    return lacking


def drawn(plan: CuratedPlan, found: Pools) -> list[Candidate]:
    """The picture of each slot. Those of a cell take turns, so none is used twice before all were used once."""
    pictures = []
    for slot in plan.slots:
        pool = found[slot.concept, slot.cell]
        pictures.append(pool[slot.place % len(pool)])
    return pictures


def most_images(plan: CuratedPlan, found: Pools, concept: str, *, max_repeats: int) -> int:
    """The most images of a concept at the plan's shares: the scarcest cell decides."""
    return min(
        math.floor(len(found[concept, cell]) * max_repeats / share)
        for cell, share in zip(plan.cells, _shares(plan, concept), strict=True)
        if share
    )


def reweighted(plan: CuratedPlan, found: Pools, *, max_repeats: int) -> CuratedPlan:
    """The plan with as many images of each concept as use every picture of it, scarce cells repeating theirs.

    As far as ``max_repeats`` and the plan's own ``images_per_concept``, which no concept exceeds, allow. A concept of
    which a wanted cell would stay empty gets the least number that leaves none so: `lacks` then tells what is missing.
    """
    counts = {}
    for concept in plan.quotas:
        shares = dict(zip(plan.cells, _shares(plan, concept), strict=True))
        every = max(math.ceil(len(found[concept, cell]) / share) for cell, share in shares.items() if share)
        count = min(every, most_images(plan, found, concept, max_repeats=max_repeats), plan.images_per_concept)
        counts[concept] = max(count, _fewest_images(plan, concept))
    return plan.with_counts(counts)


def lacks_told(plan: CuratedPlan, found: Pools, lacking: Sequence[Lack], *, max_repeats: int, mode: str) -> str:
    """All lacking cells in one line (the first of very many), and what can be done."""
    more = f"; and {len(lacking) - MOST_SAID} more cells" if len(lacking) > MOST_SAID else ""
    most = min(most_images(plan, found, concept, max_repeats=max_repeats) for concept in plan.quotas)
    cures = ["bring more pictures", "raise max_repeats"]
    if most >= max(_fewest_images(plan, concept) for concept in plan.quotas):
        cures.insert(1, f"lower images_per_concept to {most}")
        cures += ["set mode=reweight"] if mode == "resample" else []
    return (
        f"the sources lack pictures for {len(lacking)} cells, each used at most {max_repeats} times: "
        f"{'; '.join(map(str, lacking[:MOST_SAID]))}{more} ({', or '.join(cures)})"
    )


def _fewest_images(plan: CuratedPlan, concept: str) -> int:
    """The fewest images of which every wanted cell gets one."""
    return math.ceil(1 / min(share for share in _shares(plan, concept) if share))


def _shares(plan: CuratedPlan, concept: str) -> list[Fraction]:
    exact = plan.exact[concept]
    return [number / sum(exact) for number in exact]
