"""Leaves out pictures by what a reader sees in them: not safe for work, no face, more than one face.

A filter is for what a picture shows, never for picking people: on pictures of real people only those filters may run
that say that they are about the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evenhand.hygiene.people import Depicts, check_reading
from evenhand.interfaces import LoadedReader, Reader
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(kw_only=True, eq=False)
class ReaderFilter:
    """Keeps a picture by what ``reader`` says of ``attribute``, in one of two ways.

    With ``allowed`` every subject must show one of these values; ``unread`` says what becomes of a picture with a
    subject that cannot be read. With ``min_subjects`` or ``max_subjects`` the subjects that can be read are counted.
    ``about`` is what the attribute is a property of: how many people there are, and what they wear or do, is about the
    picture; what a person looks like is about the person.
    """

    name: str
    reader: Reader
    attribute: str
    allowed: tuple[str, ...] | None
    min_subjects: int | None
    max_subjects: int | None
    unread: Literal["keep", "skip"]
    about: Literal["picture", "person"]

    def __post_init__(self) -> None:
        declared = self.reader.attributes.get(self.attribute)
        if declared is None:
            known = ", ".join(self.reader.attributes)
            raise ValueError(
                f"filter {self.name}: reader {self.reader.name} reads no {self.attribute!r}; it reads {known}"
            )
        counts = self.min_subjects is not None or self.max_subjects is not None
        if counts == (self.allowed is not None):
            raise ValueError(f"filter {self.name}: set either allowed, or min_subjects or max_subjects")
        for value in self.allowed or ():
            if value not in declared:
                raise ValueError(
                    f"filter {self.name}: allowed names {value!r}, which is no value of {self.attribute}; choose from "
                    f"{', '.join(declared)}"
                )
        least, most = self.min_subjects or 0, self.max_subjects
        if least < 0 or (most is not None and most < least):
            raise ValueError(
                f"filter {self.name}: min_subjects must be >= 0 and max_subjects not below it, got "
                f"{self.min_subjects} and {self.max_subjects}"
            )

    def check(self, depicts: Depicts, *, source: str) -> None:
        """Raise ValueError where this filter would pick real people by what they look like."""
        if self.about == "person":
            check_reading(depicts, "choose", source=source)

    def load(self, *, device: torch.device) -> LoadedFilter:
        """The filter with its reader on a device; ValueError when the reader is not there."""
        return LoadedFilter(self, self.reader.load(device=device))

    def reason(self, readings: Sequence[SubjectReading]) -> str | None:
        """Why a picture with these readings of ``reader`` is left out; None where it is kept."""
        own = [reading for reading in readings if reading.attribute == self.attribute]
        if self.allowed is None:
            return self._count_reason(sum(reading.value is not None for reading in own))
        for reading in own:
            if reading.value is None and self.unread == "skip":
                return f"left out by filter {self.name} ({reading.unread})"
            if reading.value is not None and reading.value not in self.allowed:
                return f"left out by filter {self.name} ({reading.value})"
        return None

    def _count_reason(self, number: int) -> str | None:
        too_few = self.min_subjects is not None and number < self.min_subjects
        too_many = self.max_subjects is not None and number > self.max_subjects
        return f"left out by filter {self.name} ({number} found)" if too_few or too_many else None


class LoadedFilter:
    """A filter whose reader is on a device."""

    def __init__(self, settings: ReaderFilter, reader: LoadedReader) -> None:
        self._settings = settings
        self._reader = reader

    def reasons(self, images: Sequence[Image.Image]) -> list[str | None]:
        """For each image why it is left out, or None where it is kept."""
        return [self._settings.reason(readings) for readings in self._reader.read(images)]
