"""Pictures from anywhere, made safe and plain: checked before they are decoded, upright, RGB, without metadata.

A picture's name says nothing here: what it is, its first bytes decide, and only a few formats are opened at all.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenhand.hygiene.perceptual import perceptual_hash

if TYPE_CHECKING:
    from PIL import Image

# No format that runs a program (EPS) or is seldom a picture of ours; MPO is found among the JPEGs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
FORMAT_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
PREFIX_BYTES = 16  # of a file's beginning: by them Pillow tells formats apart
EXIF_ORIENTATION, EXIF_LOCATION = 0x0112, 0x8825
PNG_BIT_DEPTH_AT = 24  # in a PNG's bytes: signature 8, chunk head 8, width 4, height 4
WHITE = (255, 255, 255, 255)


class Refused(ValueError):
    """What cannot be used, and why. Words in brackets at the end are of this one case: ``too small (1x1 px)``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What a picture may be at most and at least. ``max_aspect`` is its longer side over its shorter.

    ``max_pixels`` is read in the file's head: a picture that is larger is never decoded.
    """

    min_side_px: int
    max_pixels: int
    max_aspect: float
    max_bytes: int

    def __post_init__(self) -> None:
        if self.min_side_px < 1 or self.max_bytes < 1:
            raise ValueError(
                f"limits: min_side_px and max_bytes must be >= 1, got {self.min_side_px} and {self.max_bytes}"
            )
        if self.max_pixels < self.min_side_px**2:
            raise ValueError(
                f"limits: max_pixels={self.max_pixels} leaves no picture of min_side_px={self.min_side_px}; "
                f"it must be >= {self.min_side_px**2}"
            )
        if not self.max_aspect >= 1:
            raise ValueError(f"limits: max_aspect must be >= 1, got {self.max_aspect}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """A picture that can be used: RGB, upright, without metadata.

    ``sha256`` is that of the bytes as they were found, ``phash`` is the ``perceptual_hash`` of ``image``. ``notes`` say
    what was changed, each in words that can be counted.
    """

    image: Image.Image
    sha256: str
    phash: int
    format: str
    notes: tuple[str, ...]


def check_image(content: bytes, limits: ImageLimits, *, name: str) -> CheckedImage:
    """The picture in a file's bytes; Refused, without the file's name, when it cannot be used.

    ``name`` is the file's: where its suffix is of another format, a note says so.
    """
    if not content:
        raise Refused("empty file")
    if len(content) > limits.max_bytes:
        raise Refused(f"file too large ({len(content)} bytes, more than {limits.max_bytes})")
    try:
        with _open(content) as opened:
            _check_size(opened.size, limits)
            notes = _format_notes(opened, content, name)
            opened.load()
            image = _plain(opened, notes)
            found = opened.format or ""
    except Refused:
        raise
    except Exception as error:  # Pillow's decoders raise anything on bytes that nobody checked; the reason is kept
        raise Refused(_unreadable(error)) from error
    return CheckedImage(
        image=image,
        sha256=hashlib.sha256(content).hexdigest(),
        phash=perceptual_hash(image),
        format=found,
        notes=tuple(notes),
    )


def _open(content: bytes) -> Any:  # Any: Pillow's ImageFile
    """The file's head. Not by ``Image.open``, which warns on stderr of large pictures before they can be refused."""
    from PIL import Image

    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))  # an older Pillow lacks AVIF
        if factory is not None and accept is not None and accept(content[:PREFIX_BYTES]) is True:
            return factory(io.BytesIO(content), "")
    raise Refused(f"not a picture (its bytes are none of {', '.join(FORMATS)})")


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise Refused(f"too many pixels ({width}x{height} px, more than {limits.max_pixels})")
    if min(size) < limits.min_side_px:
        raise Refused(f"too small ({width}x{height} px, less than {limits.min_side_px})")
    if max(size) > limits.max_aspect * min(size):
        raise Refused(f"too long or too high ({width}x{height} px, sides more than {limits.max_aspect:g} to 1)")


def _format_notes(opened: Any, content: bytes, name: str) -> list[str]:  # Any: Pillow's ImageFile
    notes = []
    suffix = Path(name).suffix.lower()
    if suffix in FORMAT_SUFFIXES and suffix not in SUFFIXES.get(opened.format, ()):
        notes.append(f"named {suffix}, is {opened.format}")
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        notes.append("first frame of several")
    sixteen = opened.format == "PNG" and content[PNG_BIT_DEPTH_AT] == 16
    if sixteen or opened.mode.startswith("I;16"):
        notes.append("16 bits made 8")
    return notes


def _unreadable(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower() or isinstance(error, EOFError | struct.error):
        return "truncated"
    return f"undecodable ({text[:80] or type(error).__name__})"


def _plain(opened: Any, notes: list[str]) -> Image.Image:  # Any: Pillow's ImageFile
    """The decoded picture as RGB, upright, with nothing else in it; what was changed is added to ``notes``."""
    from PIL import Image

    image = _upright(_flat(opened, notes), opened, notes)
    image = _in_srgb(image, opened.info.get("icc_profile"), notes)
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    return clean


def _flat(opened: Any, notes: list[str]) -> Image.Image:  # Any: Pillow's ImageFile
    """L, RGB or CMYK with 8 bits, without transparency."""
    from PIL import Image

    image: Image.Image = opened
    if image.mode in ("I", "F"):
        raise Refused(f"pixels without a known range (mode {image.mode})")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if "A" in image.mode.upper().removeprefix("LAB") or "transparency" in image.info:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            layer = Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer)
            notes.append("transparency laid on white")
        return layer.convert("RGB")
    if image.mode == "CMYK":
        notes.append("CMYK converted")
        return image
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def _upright(image: Image.Image, opened: Any, notes: list[str]) -> Image.Image:  # Any: Pillow's ImageFile
    """The picture turned as its EXIF says, and notes of the metadata that it loses."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        exif = opened.getexif()
        turn, has_exif, has_location = exif.get(EXIF_ORIENTATION), len(exif) > 0, EXIF_LOCATION in exif
    except Exception:  # as above: a broken EXIF block says nothing, and is left out with the rest
        notes.append("unreadable EXIF removed")
        return image
    if has_exif and opened.format != "TIFF":  # a TIFF's own tags count as EXIF
        notes.append("EXIF with a location removed" if has_location else "EXIF removed")
    if turn in turns:
        notes.append("turned upright")
        return image.transpose(turns[turn])
    return image


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """RGB in the colours of sRGB, which is what models take RGB for."""
    if not profile:
        return image.convert("RGB")
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower():
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("unreadable colour profile ignored")
        return image.convert("RGB")
    notes.append("colours converted to sRGB")
    assert converted is not None
    return converted
