"""Who or what a picture is read for: the whole picture as one subject, or each subject that a finder crops from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from evenhand.readers.deciding import unread
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The part of a picture that shows a subject, or the reason why that subject cannot be read."""

    picture: Image.Image | None
    unread: str | None


class LoadedFinder(Protocol):
    """A finder on a device."""

    def subjects(self, image: Image.Image) -> list[Subject]:
        """The subjects of a picture in a fixed order; where there is none, one subject with that reason."""


class Finder(Protocol):
    """Finds the subjects of a picture."""

    def load(self, *, device: torch.device) -> LoadedFinder:
        """Load the finder; ValueError when its files are not there."""


def read_subjects(
    images: Sequence[Image.Image],
    finder: LoadedFinder | None,
    attributes: Collection[str],
    read: Callable[[list[Image.Image]], list[list[SubjectReading]]],
) -> list[list[SubjectReading]]:
    """For each image its subject readings; ``read`` gives those of pictures of one subject each, as subject 0.

    Without a finder, an image is one subject.
    """
    found = [_whole(image) if finder is None else finder.subjects(image.convert("RGB")) for image in images]
    pictures = [subject.picture for subjects in found for subject in subjects if subject.picture is not None]
    readings = iter(read(pictures) if pictures else [])
    return [
        [
            replace(reading, subject=number)
            for number, subject in enumerate(subjects)
            for reading in (
                next(readings)
                if subject.picture is not None
                else [unread(name, subject.unread or "") for name in attributes]
            )
        ]
        for subjects in found
    ]


def _whole(image: Image.Image) -> list[Subject]:
    return [Subject(picture=image.convert("RGB"), unread=None)]
