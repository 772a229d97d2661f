"""The batches of a training run: each split encoded once, then dealt out by the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.data import Batches, encode_set
from evenhand.interfaces import LoadedBase
from evenhand.records import Example
from evenhand.training.settings import TrainSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_batches(
    base: LoadedBase,
    examples: Mapping[str, Sequence[Example]],
    data: Path,
    *,
    settings: TrainSettings,
    cache_folder: Path,
    seed: int,
    accelerator: Accelerator,
) -> Batches:
    """Batches of the ``train`` rows, and of the ``preserve`` rows where ``examples`` has them."""
    encoded = {
        split: encode_set(
            base,
            rows,
            data / split,
            resolution_px=settings.resolution_px or base.resolution_px,
            batch_size=settings.encode_batch_size,
            cache_folder=cache_folder,
            is_main=accelerator.is_main_process,
        )
        for split, rows in examples.items()
    }
    return Batches(
        train=encoded["train"],
        preserve=encoded.get("preserve"),
        batch_size=settings.batch_size,
        preserve_batch_size=settings.preserve_batch_size,
        caption_dropout=settings.caption_dropout,
        num_train_timesteps=base.num_train_timesteps,
        seed=seed,
        device=accelerator.device,
    )
