"""One picture of both arms: the first concepts of the headline, same seeds, the base above and the adapted below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from evenhand.evaluation.folder import load_images
from evenhand.evaluation.plan import Plan
from evenhand.records import ImageRecord, Prompt
from evenhand.report.content import visible_text
from evenhand.report.pictures import open_image, paired_seeds

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

SHEET_FILE = "before_after.png"
NUM_CONCEPTS, NUM_SEEDS = 8, 4
CELL_PX, GAP_PX, HEADER_PX, MARGIN_PX, FONT_PX = 96, 10, 22, 70, 11
INK, PAPER = (32, 36, 43), (255, 255, 255)


def contact_sheet(plan: Plan, folder: Path) -> Image.Image | None:
    """The sheet of an evaluation folder; None where it has no images.

    Concepts and seeds are the plan's first ones, and seeds are hashes: nobody picked them.
    """
    records = load_images(folder)
    seeds = paired_seeds(plan, records, plan.arms)
    prompts = plan.in_suite(plan.primary.suite)[:NUM_CONCEPTS]
    blocks = [
        [[records[arm, prompt.id, seed] for seed in seeds[prompt.id][:NUM_SEEDS]] for prompt in prompts]
        for arm in plan.arms
    ]
    if not any(record for block in blocks for column in block for record in column):
        return None
    return _draw(plan.arms, prompts, blocks, folder)


def _draw(
    arms: Sequence[str],
    prompts: Sequence[Prompt],
    blocks: Sequence[Sequence[Sequence[ImageRecord]]],
    folder: Path,
) -> Image.Image:
    num_rows = max(len(column) for block in blocks for column in block)
    block_px = num_rows * CELL_PX + GAP_PX
    size = (MARGIN_PX + len(prompts) * CELL_PX, HEADER_PX + len(arms) * block_px - GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    for column, prompt in enumerate(prompts):
        middle = MARGIN_PX + column * CELL_PX + CELL_PX // 2
        draw.text(
            (middle, HEADER_PX // 2), _fitting(visible_text(prompt.concept), font), fill=INK, font=font, anchor="mm"
        )
    for number, (arm, block) in enumerate(zip(arms, blocks, strict=True)):
        top = HEADER_PX + number * block_px
        draw.text((MARGIN_PX // 2, top + num_rows * CELL_PX // 2), arm, fill=INK, font=font, anchor="mm")
        for column, records in enumerate(block):
            for row, record in enumerate(records):
                image = open_image(folder, record.path)
                if image is not None:
                    cell = image.resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
                    sheet.paste(cell, (MARGIN_PX + column * CELL_PX, top + row * CELL_PX))
    return sheet


def _fitting(text: str, font: FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened to a cell's width."""
    while font.getlength(text) > CELL_PX and len(text) > 1:
        text = text.rstrip("…")[:-1] + "…"
    return text
