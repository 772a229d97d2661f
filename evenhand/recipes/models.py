"""The base that makes a set's images, the filters and the readers that judge them; loaded when first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evenhand.hygiene.filters import LoadedFilter, ReaderFilter
from evenhand.hygiene.skips import kind_of
from evenhand.interfaces import Base, LoadedBase, LoadedReader, Reader, SamplingSettings
from evenhand.recipes.attempts import Outcome
from evenhand.recipes.curated_plan import CuratedPlan, Slot
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image


class Models:
    """See the head of this file: a finished build loads none of them."""

    def __init__(
        self,
        base: Base,
        readers: Sequence[Reader],
        filters: Sequence[ReaderFilter],
        sampling: SamplingSettings,
        *,
        device: torch.device,
        dtype: str,
    ) -> None:
        self._base = base
        self._readers = readers
        self._filters = filters
        self._sampling = sampling
        self._device = device
        self._dtype = dtype
        self._loaded_base: LoadedBase | None = None
        self._loaded_readers: list[LoadedReader] = []
        self._loaded_filters: list[LoadedFilter] = []

    def generate(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One batch of images."""
        import torch

        if self._loaded_base is None:
            self._loaded_base = self._base.load(device=self._device, dtype=getattr(torch, self._dtype))
        return [made.image for made in self._loaded_base.generate(captions, seeds, self._sampling)]

    def read(self, images: Sequence[Image.Image]) -> list[list[list[SubjectReading]]]:
        """For each reader, the subject readings of each image."""
        if not self._loaded_readers:
            self._loaded_readers = [reader.load(device=self._device) for reader in self._readers]
        return [reader.read(images) for reader in self._loaded_readers]

    def left_out(self, images: Sequence[Image.Image]) -> list[str | None]:
        """For each image why a filter leaves it out, None where none does."""
        if not self._loaded_filters:
            self._loaded_filters = [each.load(device=self._device) for each in self._filters]
        reasons: list[str | None] = [None] * len(images)
        for each in self._loaded_filters:
            reasons = [first or second for first, second in zip(reasons, each.reasons(images), strict=True)]
        return reasons


class Judges:
    """What each reader is asked of an image: the labels, and the concept where ``concept_attribute`` is what it reads.

    The first reader must read the concept attribute, where one is given; the others need not.
    """

    def __init__(self, readers: Sequence[Reader], plan: CuratedPlan, *, concept_attribute: str | None) -> None:
        self._concept_attributes = [
            concept_attribute if number == 0 or concept_attribute in reader.attributes else None
            for number, reader in enumerate(readers)
        ]
        wanted = {attribute.name: list(attribute.values) for attribute in plan.attributes}
        concepts = [concept.name for concept in plan.concepts]
        for reader, name in zip(readers, self._concept_attributes, strict=True):
            _check_reader(reader, wanted if name is None else {**wanted, name: concepts})

    def outcomes(self, slots: Sequence[Slot], images: Sequence[Image.Image], models: Models) -> list[Outcome]:
        """For the image of each slot, why each reader refuses it; all of them do what a filter leaves out."""
        left_out, readings = models.left_out(images), models.read(images)
        return [
            tuple(
                kind_of(reason)
                if (reason := left_out[position]) is not None
                else _refusal(subjects[position], slot.labels if name is None else {name: slot.concept, **slot.labels})
                for name, subjects in zip(self._concept_attributes, readings, strict=True)
            )
            for position, slot in enumerate(slots)
        ]


def _check_reader(reader: Reader, wanted: Mapping[str, Sequence[str]]) -> None:
    for name, values in wanted.items():
        if name not in reader.attributes:
            raise ValueError(f"reader {reader.name} does not read {name!r}; it reads {', '.join(reader.attributes)}")
        missing = [value for value in values if value not in reader.attributes[name]]
        if missing:
            raise ValueError(
                f"reader {reader.name} knows no {name}={missing[0]}; it knows {', '.join(reader.attributes[name])}"
            )


def _refusal(subjects: Sequence[SubjectReading], wanted: Mapping[str, str]) -> str | None:
    """Why an image is refused: the first wanted value that some subject does not show. None when all are confirmed."""
    for name, value in wanted.items():
        readings = [reading for reading in subjects if reading.attribute == name]
        if not readings:
            return f"{name} unread"
        for reading in readings:
            if reading.unread is not None:
                return f"{name} unread: {reading.unread.partition(' (')[0]}"  # details differ from image to image
            if reading.value != value:
                return f"{name}={reading.value}"
    return None
