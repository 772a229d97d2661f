"""Bytes of pictures that are wrong in a known way, made by hand where Pillow would make none of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_RGB = 2  # the colour type of a PNG's head


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def picture(side_px: int = 64, seed: int = 0, *, height_px: int | None = None) -> Image.Image:
    """A smooth picture with a few shapes, another for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side_px, height_px or side_px), Image.Resampling.BICUBIC)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_head(width_px: int, height_px: int, *, bits: int = 8) -> bytes:
    """The beginning of a PNG: its signature and its size."""
    return PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, bits, PNG_RGB, 0, 0, 0))


def png_without_pixels(width_px: int, height_px: int) -> bytes:
    """A PNG that ends where its pixels would begin."""
    return png_head(width_px, height_px) + png_chunk(b"IDAT", b"")


def png_16_bits(levels_HWC: np.ndarray) -> bytes:
    """A PNG of 16 bits in each of three channels, which Pillow does not write."""
    height, width, _ = levels_HWC.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels_HWC)
    head = png_head(width, height, bits=16)
    return head + png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")


def bomb(side_px: int = 10_000) -> bytes:
    """A whole PNG of one colour, of 100 megapixels in 12 kB or so: 300 MB when it is decoded."""
    packer = zlib.compressobj(9)
    line = b"\0" + bytes(3 * side_px)
    packed = b"".join(packer.compress(line) for _ in range(side_px)) + packer.flush()
    return png_head(side_px, side_px) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def animated_gif(first: Image.Image, *others: Image.Image) -> bytes:
    return encode(first, "GIF", save_all=True, append_images=list(others), duration=100)


def with_location(image: Image.Image, *, orientation: int = 1) -> bytes:
    """A JPEG as a telephone writes it: turned, with the place where it was taken."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A telephone"
    exif.get_ifd(0x8825).update({1: "N", 2: (59.0, 19.0, 46.0), 3: "E", 4: (18.0, 4.0, 7.0)})
    return encode(image, "JPEG", quality=95, exif=exif.tobytes())
