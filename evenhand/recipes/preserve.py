"""The captions on which an adapted model is held to its base, and the requests for their images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evenhand.captions.leaks import heldout_leaks
from evenhand.captions.templates import Concept


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An image to be made for a preserve caption; ``number`` counts within the caption."""

    caption: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preserve:
    """What ``preserve/`` holds.

    With ``explicit``, every training image under its explicit caption; ``images_per_caption`` images for each of
    ``captions``; and ``empty`` images under the empty caption. Readers do not confirm the last two.
    """

    captions: tuple[str, ...]
    images_per_caption: int
    explicit: bool
    empty: int

    def __post_init__(self) -> None:
        for name, count in (("images_per_caption", self.images_per_caption), ("empty", self.empty)):
            if count < 0:
                raise ValueError(f"preserve.{name} must be >= 0, got {count}")
        twice = sorted({caption for caption in self.captions if self.captions.count(caption) > 1})
        if twice:
            raise ValueError(f"preserve.captions: {twice[0]!r} is listed twice")
        if "" in self.captions:
            raise ValueError("preserve.captions: the empty caption has its own key; set preserve.empty")

    def check(self, heldout: Sequence[Concept]) -> None:
        """Raise ValueError when a caption names a held-out concept."""
        leaks = heldout_leaks(self.captions, heldout)
        if leaks:
            raise ValueError(f"preserve.captions leak: {leaks[0]}")

    def requests(self) -> Iterator[Request]:
        """The images of captions and of the empty caption, in a fixed order."""
        for caption in self.captions:
            yield from (Request(caption=caption, number=number) for number in range(self.images_per_caption))
        yield from (Request(caption="", number=number) for number in range(self.empty))
