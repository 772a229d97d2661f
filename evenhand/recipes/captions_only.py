"""A curated set without images: captions with exact quotas, for methods that need no pictures.

``train/captions.jsonl`` has one row for each place of the plan: the neutral caption (``text``), its concept and labels,
the ``explicit`` caption that names them, and for each attribute the same sentence with each of its values
(``counterfactuals``). Held-out concepts are in none. ``preserve/captions.jsonl`` holds what must stay as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.captions.templates import Concept, Template
from evenhand.files import write_jsonl_atomic
from evenhand.processes import Ranks
from evenhand.recipes.curated_plan import CuratedPlan, Slot
from evenhand.recipes.curated_set import PRESERVE, TRAIN, Origin
from evenhand.recipes.preserve import Preserve, Request, requests_of
from evenhand.recipes.report import BuildAccount
from evenhand.recipes.stored import CAPTIONS
from evenhand.records import Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRow:
    """One row of a ``captions.jsonl``. ``counterfactuals`` maps an attribute and its value to a caption."""

    text: str
    concept: str
    labels: Mapping[str, str]
    explicit: str
    counterfactuals: Mapping[str, Mapping[str, str]]
    template: str
    split: str
    source: str
    license: str


class CaptionsOnly:
    """See the head of this file. ``license`` is that of the captions."""

    num_images = 0

    def __init__(self, *, plan: CuratedPlan, license: str, preserve: Preserve | None) -> None:
        self.plan = plan
        self.preserve = preserve
        self.origin = Origin(source="captions:templates", confirmed_by=None, license=license)
        self.inputs = plan.inputs
        self.requests = requests_of(plan, preserve)

    def check(self, folder: Path) -> None:
        """Nothing can be wrong that the plan does not find: there is no model, no source, and next to no data."""

    def account(self, folder: Path) -> BuildAccount:
        """Where the captions come from; nothing was attempted in vain, and nothing left out."""
        sources = {self.origin.source: self.origin.license}
        if self.plan.concept_list is not None:
            sources[f"concept list {self.plan.concept_list.name}"] = self.plan.concept_list.license
        return BuildAccount(sources=sources)

    def build(self, folder: Path, *, device: torch.device, ranks: Ranks) -> Iterator[Example]:
        """Write the captions, on the first rank; there are no images, and so no rows of images."""
        if ranks.rank == 0:
            write_jsonl_atomic(folder / TRAIN / CAPTIONS, self._training_rows())
            if preserve := list(self._preserve_rows()):
                write_jsonl_atomic(folder / PRESERVE / CAPTIONS, preserve)
        ranks.wait()
        yield from ()

    def _training_rows(self) -> Iterator[CaptionRow]:
        concepts = {concept.name: concept for concept in self.plan.concepts}
        for slot in self.plan.slots:
            yield self._row(slot, text=slot.neutral, split=TRAIN, concept=concepts[slot.concept])

    def _preserve_rows(self) -> Iterator[CaptionRow]:
        if self.preserve is not None and self.preserve.explicit:
            concepts = {concept.name: concept for concept in self.plan.concepts}
            for slot in self.plan.slots:
                yield self._row(slot, text=slot.explicit, split=PRESERVE, concept=concepts[slot.concept])
        for request in self.requests:
            yield self._request_row(request)

    def _row(self, slot: Slot, *, text: str, split: str, concept: Concept) -> CaptionRow:
        return CaptionRow(
            text=text,
            concept=slot.concept,
            labels=dict(slot.labels),
            explicit=slot.explicit,
            counterfactuals=Template(slot.template).counterfactuals(concept, self.plan.attributes, slot.labels),
            template=slot.template,
            split=split,
            source=self.origin.source,
            license=self.origin.license,
        )

    def _request_row(self, request: Request) -> CaptionRow:
        return CaptionRow(
            text=request.caption,
            concept=request.concept,
            labels={},
            explicit=request.caption,
            counterfactuals={},
            template=request.template or request.caption,
            split=PRESERVE,
            source=self.origin.source,
            license=self.origin.license,
        )
