"""Pictures and rows of a source that others made, most of them odd or unusable, and what is to be said of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bad_pictures import animated_gif, bomb, encode, picture, png_16_bits, with_location

RTL = "صورة لشخص في ورشته"
EMOJI = "a photo of a nurse at work 🩺🎉"
LONG = "a photo of a nurse " * 527  # 10,013 characters
HIDDEN = "<script>alert(1)</script>"


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A picture and its row, and what must be said of it: ``skipped`` by a build, or changed with a ``note``.

    ``of_caption`` is a reason for which an audit, which is not to make anything, still counts the picture.
    """

    name: str
    content: bytes | None = None
    row: dict[str, Any]
    skipped: str | None = None
    note: str | None = None
    of_caption: bool = False


def row(name: str, job: str, shown: str, *, text: str | None = None) -> dict[str, Any]:
    return {"file_name": name, "text": text or f"a photo of a {job}", "job": job, "shown": shown}


def sixteen_bits() -> bytes:
    levels = np.random.default_rng(5).integers(0, 65536, size=(80, 80, 3))
    return png_16_bits(np.sort(levels, axis=0))


def kinds() -> list[Bad]:
    """Eight pictures that can be used, two for each cell of the plan, most of them odd; and all those that cannot."""
    good = encode(picture(80, 1), "PNG")
    cmyk = encode(picture(80, 2).convert("CMYK"), "JPEG", quality=95)
    gif = animated_gif(picture(80, 3), picture(80, 4), picture(80, 5))
    return [
        Bad(name="good.png", content=good, row=row("good.png", "mechanic", "woman")),
        Bad(name="cmyk.jpg", content=cmyk, row=row("cmyk.jpg", "mechanic", "woman"), note="CMYK converted"),
        Bad(name="deep.png", content=sixteen_bits(), row=row("deep.png", "mechanic", "man"), note="16 bits made 8"),
        Bad(name="moving.gif", content=gif, row=row("moving.gif", "mechanic", "man"), note="first frame of several"),
        Bad(
            name="wrong.jpg",
            content=encode(picture(80, 6), "PNG"),
            row=row("wrong.jpg", "nurse", "woman"),
            note="named .jpg, is PNG",
        ),
        Bad(
            name="phone.jpg",
            content=with_location(picture(100, 7, height_px=80), orientation=6),
            row=row("phone.jpg", "nurse", "woman", text=RTL),
            note="EXIF with a location removed",
        ),
        Bad(name="emoji.png", content=encode(picture(80, 8), "PNG"), row=row("emoji.png", "nurse", "man", text=EMOJI)),
        Bad(name="last.png", content=encode(picture(80, 9), "PNG"), row=row("last.png", "nurse", "man")),
        *unusable(good),
    ]


def unusable(good: bytes) -> list[Bad]:
    def nurse(name: str, **changed: Any) -> dict[str, Any]:
        return {key: value for key, value in {**row(name, "nurse", "man"), **changed}.items() if value is not None}

    def whole(number: int) -> bytes:
        return encode(picture(80, number), "PNG")

    return [
        Bad(name="cut.png", content=whole(20)[:3000], row=nurse("cut.png"), skipped="truncated"),
        Bad(name="dot.png", content=encode(picture(1), "PNG"), row=nurse("dot.png"), skipped="too small"),
        Bad(name="bomb.png", content=bomb(), row=nurse("bomb.png"), skipped="too many pixels"),
        Bad(name="page.png", content=b"<html>404</html>", row=nurse("page.png"), skipped="not a picture"),
        Bad(name="absolute", row=nurse("{outside}/secret.png"), skipped="absolute file name"),
        Bad(name="dots", row=nurse("../secret.png"), skipped="file name leaves the folder"),
        Bad(name="address", row=nurse("https://example.org/a.png"), skipped="absolute file name"),
        Bad(name="link", row=nurse("link.png"), skipped="link leaves the folder"),
        Bad(name="not there", row=nurse("gone.png"), skipped="no such file"),
        Bad(name="nul in its name", row=nurse("a\0.png"), skipped="control character in the file name"),
        Bad(name="twice", row=nurse("good.png"), skipped="file named by an earlier row"),
        Bad(name="good_copy.png", content=good, row=nurse("good_copy.png"), skipped="duplicate"),
        Bad(
            name="good_like.jpg",
            content=encode(picture(80, 1), "JPEG", quality=90),
            row=nurse("good_like.jpg"),
            skipped="near duplicate",
        ),
        Bad(
            name="bare.png",
            content=whole(21),
            row=nurse("bare.png", shown=None),
            skipped="no presentation in the source",
        ),
        Bad(
            name="other.png",
            content=whole(22),
            row=nurse("other.png", shown="robot"),
            skipped="unknown presentation in the source",
        ),
        *(
            Bad(name=name, content=whole(number), row=nurse(name, text=text), skipped=reason, of_caption=True)
            for number, (name, text, reason) in enumerate(
                [
                    ("empty.png", " \n ", "empty caption"),
                    ("markup.png", f"a nurse {HIDDEN}", "markup in the caption"),
                    ("nul.png", "a nurse\0at work", "control character in the caption"),
                    ("long.png", LONG, "caption too long"),
                    ("turned.png", "a nurse \u202egnp", "hidden change of direction in the caption"),
                ],
                start=30,
            )
        ),
    ]
