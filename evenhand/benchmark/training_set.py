"""A training set of noise: as large to read, encode and train on as any other, and nothing to build."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from evenhand.data.rows import METADATA_NAME, TRAIN
from evenhand.files import write_jsonl_atomic
from evenhand.records import Example

CAPTIONS = ("a portrait of a mechanic", "a portrait of a nurse", "a portrait of a doctor", "a portrait of a baker")


def write_noise_set(folder: Path, *, num_images: int, px: int, seed: int) -> Path:
    """Write the ``train`` part of a curated set with pictures of ``px`` by ``px``; gives its folder."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    part = folder / TRAIN
    part.mkdir(parents=True)
    rows = []
    for number in range(num_images):
        name = f"{number:06d}.png"
        Image.fromarray(random.integers(0, 256, (px, px, 3), dtype=np.uint8)).save(part / name)
        caption = CAPTIONS[number % len(CAPTIONS)]
        example = Example(
            file_name=name,
            text=caption,
            concept=caption.split()[-1],
            labels={},
            template="a portrait of a {concept}",
            source="noise",
            seed=number,
            license="CC0-1.0",
        )
        rows.append(dataclasses.asdict(example))
    write_jsonl_atomic(part / METADATA_NAME, rows)
    return folder
