"""The curated set from tinytown's renderer: the same captions and quotas, and labels that are true by construction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.processes import Ranks
from evenhand.recipes.curated_plan import CuratedPlan, Slot
from evenhand.recipes.curated_set import (
    PRESERVE,
    Origin,
    explicit_rows,
    request_row,
    save_image,
    train_row,
)
from evenhand.recipes.pictures import check_room
from evenhand.recipes.preserve import Preserve, Request, requests_of
from evenhand.recipes.report import BuildAccount
from evenhand.records import Example
from evenhand.seeds import derive
from evenhand.tinytown.world import WORLD_PATH, Scene, tinytown

if TYPE_CHECKING:
    import torch


class TinytownRenders:
    """See the head of this file. Preserve captions must be ones that tinytown can draw."""

    def __init__(self, *, plan: CuratedPlan, size_px: int, license: str, preserve: Preserve | None) -> None:
        if size_px < 1:
            raise ValueError(f"size_px must be >= 1, got {size_px}")
        self.plan = plan
        self.size_px = size_px
        self.preserve = preserve
        self.origin = Origin(source="renders:tinytown", confirmed_by=None, license=license)
        self.inputs: Mapping[str, Path] = {"world": WORLD_PATH, **plan.inputs}
        self.world = tinytown()
        for concept in (*plan.concepts, *plan.left_alone):
            self._check(concept.name)
        self.requests = requests_of(plan, preserve)
        for caption in () if preserve is None else preserve.captions:
            self._scene_of(caption)
        self.num_images = len(plan.slots) + len(self.requests) + self._num_explicit

    def check(self, folder: Path) -> None:
        """Raise ValueError for a folder that cannot hold the set."""
        check_room(folder, num_images=self.num_images - self._num_explicit, num_pixels=self.size_px**2)

    def account(self, folder: Path) -> BuildAccount:
        """Nothing was attempted in vain, and nothing left out."""
        return BuildAccount(sources={self.origin.source: self.origin.license})

    def build(self, folder: Path, *, device: torch.device, ranks: Ranks) -> Iterator[Example]:
        """Render this rank's share of the slots, then of ``preserve/``; the device is not needed."""
        rows: dict[int, Example] = {}
        for slot in self.plan.slots[ranks.rank :: ranks.num_ranks]:
            seed = derive(self.plan.seed, "image", slot.concept, *slot.cell, slot.place)
            row = train_row(slot, self.origin, seed=seed)
            self._render(folder / row.file_name, self._slot_scene(slot, seed))
            rows[slot.index] = row
            yield row
        if self._num_explicit:
            yield from explicit_rows(folder, self.plan, rows)
        numbered = list(enumerate(self.requests, start=self._num_explicit))
        for index, request in numbered[ranks.rank :: ranks.num_ranks]:
            seed = derive(self.plan.seed, PRESERVE, request.caption, request.number)
            row = request_row(request, self.origin, index=index, seed=seed)
            self._render(folder / row.file_name, self._request_scene(request, seed))
            yield row

    @property
    def _num_explicit(self) -> int:
        return len(self.plan.slots) if self.preserve is not None and self.preserve.explicit else 0

    def _check(self, concept: str) -> None:
        """Raise ValueError unless tinytown draws the concept with the plan's attributes and values."""
        drawn = self.world.drawn_with(concept)
        for attribute in self.plan.attributes:
            if attribute.name not in drawn:
                raise ValueError(f"tinytown draws {concept!r} without {attribute.name!r}; it has {', '.join(drawn)}")
            for value in attribute.values:
                if value not in drawn[attribute.name]:
                    raise ValueError(
                        f"tinytown draws no {attribute.name}={value}; choose from {', '.join(drawn[attribute.name])}"
                    )

    def _slot_scene(self, slot: Slot, seed: int) -> Scene:
        return self.world.draw(slot.concept, seed, fixed=slot.labels)

    def _request_scene(self, request: Request, seed: int) -> Scene:
        if request.concept:  # a concept that is left alone looks as the town has it
            return self.world.draw(request.concept, seed, fixed={})
        if request.caption == "":
            return self.world.sample(seed).scene
        concept, fixed = self._scene_of(request.caption)
        return self.world.draw(concept, seed, fixed=fixed)

    def _scene_of(self, caption: str) -> tuple[str, Mapping[str, str]]:
        if caption not in self._scenes:
            raise ValueError(
                f"tinytown cannot draw the caption {caption!r}; use a concept of its world in one of the templates "
                "of evenhand/tinytown/world.yaml, with at most one attribute named"
            )
        return self._scenes[caption]

    @cached_property
    def _scenes(self) -> dict[str, tuple[str, Mapping[str, str]]]:
        """Concept and fixed values of every caption of the world that names at most one attribute."""
        scenes: dict[str, tuple[str, Mapping[str, str]]] = {}
        for concept in self.world.concepts:
            fixed = [{}, *self._single_values(concept)]
            for template in self.world.templates(concept):
                for named in fixed:
                    scenes.setdefault(self.world.caption(concept, named, template=template), (concept, named))
        return scenes

    def _single_values(self, concept: str) -> Iterator[dict[str, str]]:
        for name in self.world.attributes_of(concept):
            for value in self.world.attributes[name]:
                yield {name: value}

    def _render(self, path: Path, scene: Scene) -> None:
        if not path.is_file():
            save_image(self.world.render(scene, size_px=self.size_px), path)
