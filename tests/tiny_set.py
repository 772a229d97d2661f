"""A tiny curated set on disk: coloured squares with captions, in the format that every training reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evenhand.data.batches import Batches, VirtualConcepts
from evenhand.data.encoded import encode_set
from evenhand.data.images import ImageSettings
from evenhand.data.noise_coupling import NoiseCoupling
from evenhand.data.rows import read_split
from evenhand.data.timesteps import UNIFORM, Timesteps
from evenhand.interfaces import LoadedBase, TextEmbedding
from tests.tiny import IMAGE_PX

CONCEPTS = ("mechanic", "nurse", "doctor")
VALUES = ("woman", "man")
FORMS = {"woman": "female", "man": "male"}


def tiny_set(folder: Path, *, num_per_value: int = 2, seed: int = 0, preserve: bool = True) -> Path:
    """Write ``train`` (neutral captions) and ``preserve`` (explicit, unrelated and empty captions)."""
    random = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {"train": [], "preserve": []}
    for concept in CONCEPTS:
        for value in VALUES * num_per_value:
            labels = {"presentation": value}
            explicit = f"a portrait of a {FORMS[value]} {concept}"
            _add(folder, rows, "train", f"a portrait of a {concept}", concept, labels, random, explicit=explicit)
            _add(folder, rows, "preserve", explicit, concept, labels, random)
    for caption in ("a tree", ""):
        _add(folder, rows, "preserve", caption, "", {}, random)
    for split, members in rows.items():
        if split == "train" or preserve:
            text = "".join(json.dumps(row) + "\n" for row in members)
            (folder / split / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def _add(
    folder: Path,
    rows: dict[str, list[dict[str, object]]],
    split: str,
    text: str,
    concept: str,
    labels: dict[str, str],
    random: np.random.Generator,
    *,
    explicit: str = "",
) -> None:
    number = len(rows[split])
    path = folder / split / f"{number:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = random.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.NEAREST).save(path)
    rows[split].append(
        {
            "file_name": path.name,
            "text": text,
            "concept": concept,
            "labels": labels,
            "template": "a portrait of a {}",
            "source": "random squares",
            "seed": number,
            "license": "CC0-1.0",
            **({"explicit": explicit} if explicit else {}),
        }
    )


IMAGES = ImageSettings(resolution_px=None, max_aspect=1.0, max_enlargement=2.0, encode_batch_size=8, shard_images=8)


def tiny_batches(
    base: LoadedBase,
    data: Path,
    cache_folder: Path,
    *,
    batch_size: int = 4,
    preserve_batch_size: int = 0,
    caption_dropout: float = 0.0,
    images: ImageSettings = IMAGES,
    embed_text: Callable[[Sequence[str]], TextEmbedding] | None = None,
    explicit: bool = False,
    rows_per_noise: int = 1,
    coupled_noise: bool = False,
    virtual_concepts: float = 0.0,
    timesteps: Timesteps = UNIFORM,
) -> Batches:
    """Batches of such a set, with preserve rows unless ``preserve_batch_size`` is 0."""
    train, preserve = (
        encode_set(
            base,
            read_split(data, split),
            images=images,
            cache_folder=cache_folder,
            explicit=explicit and split == "train",
        )
        for split in ("train", "preserve")
    )
    return Batches(
        train=train,
        preserve=preserve if preserve_batch_size else None,
        batch_size=batch_size,
        preserve_batch_size=preserve_batch_size,
        caption_dropout=caption_dropout,
        noise_offset=0.0,
        num_train_timesteps=base.num_train_timesteps,
        seed=0,
        device=torch.device("cpu"),
        embed_text=embed_text,
        rows_per_noise=rows_per_noise,
        coupling=NoiseCoupling.of(train) if coupled_noise else None,
        virtual=VirtualConcepts(words=base.virtual_words(CONCEPTS), share=virtual_concepts)
        if virtual_concepts
        else None,
        timesteps=timesteps,
    )
