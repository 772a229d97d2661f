"""Small pictures for tests of sources and collected sets, each of its own noise, and folders of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.painted import OCCUPATIONS, PRESENTATIONS, SIZE_PX


def painted(occupation: str, presentation: str, number: int) -> Image.Image:
    """A picture that `tests.painted.PaintedReader` reads; its corner is the number's own noise."""
    pixels = np.full((SIZE_PX, SIZE_PX, 3), 90, dtype=np.uint8)
    pixels[: SIZE_PX // 2] = PRESENTATIONS[presentation]
    pixels[SIZE_PX // 2 :] = 20 + 50 * OCCUPATIONS.index(occupation)
    pixels[:8, :8] = np.random.default_rng(number).integers(0, 256, (8, 8, 3))
    return Image.fromarray(pixels)


def noise(number: int, *, size_px: int = 16) -> Image.Image:
    """A picture of the number's own noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a file."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def write_folder(folder: Path, rows: Iterable[tuple[Mapping[str, object], bytes]], *, metadata: bool = True) -> Path:
    """An image folder: each row names its file in ``file_name``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row, content in rows:
        path = folder / str(row["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        lines.append(json.dumps(row) + "\n")
    if metadata:
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
