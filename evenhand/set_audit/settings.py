"""What an audit is asked, and where it stops to trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from evenhand.hygiene.duplicates import MAX_DISTANCE
from evenhand.hygiene.images import ImageLimits
from evenhand.interfaces import Reader

Claim = Literal["set", "generator"]
By = Literal["reader", "labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """``claim`` says what the pictures stand for.

    ``set``: they are all there is, so that a share is counted, and is off target where it differs by more than
    ``margin``. ``generator``: they are draws of a tool that can make more, so that a share is off target only where its
    whole interval (of ``level``) differs by more than ``margin``.

    Where more than ``max_unread`` of the pictures have no reading, nothing is said that the unread ones could turn.
    A reading whose probability is below ``doubt_below`` is listed as doubtful, and still counted. Pictures whose
    perceptual hashes differ in ``near_distance`` bits or fewer are near duplicates; None: they are not looked for.
    """

    claim: Claim
    level: float
    margin: float
    max_unread: float
    doubt_below: float
    near_distance: int | None
    max_caption_characters: int
    limits: ImageLimits

    def __post_init__(self) -> None:
        for name, value in (("level", self.level), ("margin", self.margin)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, got {value}")
        for name, value in (("max_unread", self.max_unread), ("doubt_below", self.doubt_below)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if self.near_distance is not None and not 0 <= self.near_distance <= MAX_DISTANCE:
            raise ValueError(f"near_distance must be between 0 and {MAX_DISTANCE} bits, got {self.near_distance}")
        if self.max_caption_characters < 1:
            raise ValueError(f"max_caption_characters must be >= 1, got {self.max_caption_characters}")


def readers_of(by: str, reader: Reader, second_reader: Reader | None) -> tuple[Reader, ...]:
    """The readers of an audit, whose shares are judged first; none where the set's own labels are to be counted."""
    if by not in get_args(By):
        raise ValueError(f"by must be one of {', '.join(get_args(By))}, got {by!r} (conf/audit_set.yaml: by)")
    if by == "reader":
        return (reader,) if second_reader is None else (reader, second_reader)
    if second_reader is not None:
        raise ValueError(f"by=labels loads no reader, so second_reader={second_reader.name} would not be used; drop it")
    return ()
