"""The picture of a validation: a row for each prompt, a column for each seed, and under each image what was read.

Letters: N images, H and W pixels, 3 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evenhand.training.validation_prompts import PlannedImage

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

CELL_PX = 112  # side of an image in the grid
GAP_PX, LABEL_PX, TAG_PX, HEADER_PX, FONT_PX = 6, 150, 14, 30, 11
INK, PAPER = (32, 36, 43), (255, 255, 255)

Cells = NDArray[np.uint8]


def cell(image: Image.Image) -> Cells:
    """An image as it stands in the grid, (H, W, 3)."""
    return np.asarray(image.convert("RGB").resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS))


def draw_grid(title: str, images: Sequence[PlannedImage], cells_NHW3: Cells, tags: Sequence[str]) -> Image.Image:
    """The grid under a title; ``tags`` stand under the images."""
    num_rows = 1 + max(image.row for image in images)
    num_columns = 1 + max(image.column for image in images)
    font = ImageFont.load_default(FONT_PX)
    width = max(LABEL_PX + num_columns * (CELL_PX + GAP_PX), round(font.getlength(title)) + 2 * GAP_PX)
    row_px = CELL_PX + TAG_PX + GAP_PX
    grid = Image.new("RGB", (width, HEADER_PX + num_rows * row_px), PAPER)
    draw = ImageDraw.Draw(grid)
    draw.text((GAP_PX, HEADER_PX // 2), title, fill=INK, font=font, anchor="lm")
    for image, pixels, tag in zip(images, cells_NHW3, tags, strict=True):
        left, top = LABEL_PX + image.column * (CELL_PX + GAP_PX), HEADER_PX + image.row * row_px
        grid.paste(Image.fromarray(pixels), (left, top))
        draw.text((left + CELL_PX // 2, top + CELL_PX + TAG_PX // 2), tag, fill=INK, font=font, anchor="mm")
        if image.column == 0:
            label = _wrapped(image.text, font)
            draw.multiline_text((GAP_PX, top + CELL_PX // 2), label, fill=INK, font=font, anchor="lm")
    return grid


def _wrapped(text: str, font: FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in lines that fit beside a row."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > LABEL_PX - 2 * GAP_PX:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
