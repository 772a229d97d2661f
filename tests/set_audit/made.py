"""Pictures of an audit made by hand: who said what is written down, so that every figure can be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evenhand.hygiene.images import ImageLimits
from evenhand.records import Attribute, SubjectReading
from evenhand.set_audit.pictures import LABELS, Picture
from evenhand.set_audit.settings import AuditSettings, Claim

COLORS = {"woman": (200, 60, 60), "man": (60, 60, 200), "nobody": (60, 200, 60)}
PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
SKIN = Attribute(
    name="skin",
    values=("light", "medium", "dark"),
    forms={"light": "light-skinned {}", "medium": "medium-skinned {}", "dark": "dark-skinned {}"},
    words={"light": ("light-skinned",), "medium": ("medium-skinned",), "dark": ("dark-skinned",)},
)


def settings(claim: Claim = "set", *, margin: float = 0.03) -> AuditSettings:
    limits = ImageLimits(min_side_px=8, max_pixels=1_000_000, max_aspect=4.0, max_bytes=1_000_000)
    return AuditSettings(
        claim=claim,
        level=0.95,
        margin=margin,
        max_unread=0.1,
        doubt_below=0.75,
        near_distance=0,
        max_caption_characters=100,
        limits=limits,
    )


def reading(attribute: str, value: str | None, *, subject: int = 0, prob: float | None = None) -> SubjectReading:
    probs = None if prob is None else (prob, 1 - prob)
    unread = "no person found (kind: car)" if value is None else None
    return SubjectReading(subject=subject, attribute=attribute, value=value, probs=probs, unread=unread)


def picture(
    key: str, readings: Mapping[str, Sequence[SubjectReading]], *, concept: str | None = "mechanic", **more: object
) -> Picture:
    given = {"labels": (), **readings}
    plain: dict[str, object] = {
        "text": None,
        "text_problem": None,
        "license": "CC0-1.0",
        "source": "made",
        "sha256": key,
        "phash": 0,
        "format": "PNG",
        "side_px": 64,
        "notes": (),
        "thumbnail": None,
    }
    said = {name: tuple(entries) for name, entries in given.items()}
    return Picture(key=key, concept=concept, readings=said, **{**plain, **more})  # type: ignore[arg-type]  # by name


def read_as(concept: str | None, women: int, men: int, unread: int = 0, *, by: str = "reader") -> list[Picture]:
    """Pictures of one person each, of which ``by`` says so."""
    values = ["woman"] * women + ["man"] * men + [None] * unread
    return [
        picture(f"{concept}/{place}", {by: [reading("presentation", value)]}, concept=concept)
        for place, value in enumerate(values)
    ]


def labelled(concept: str, women: int, men: int) -> list[Picture]:
    return read_as(concept, women, men, by=LABELS)


def paint(path: Path, value: str, *, seed: int, size_px: int = 24) -> None:
    """A picture in which the planted reader sees the value; no two seeds give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.full((size_px, size_px, 3), COLORS[value], dtype=np.int64) + rng.integers(
        -40, 41, (size_px, size_px, 1)
    )
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
