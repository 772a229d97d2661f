"""The batches of a training run: each split encoded once, then dealt out by the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.data.batches import Batches
from evenhand.data.encoded import encode_set
from evenhand.data.images import ImageSettings
from evenhand.data.rows import Split
from evenhand.interfaces import LoadedBase, TextEmbedding
from evenhand.training.settings import TrainSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_batches(
    base: LoadedBase,
    splits: Mapping[str, Split],
    *,
    settings: TrainSettings,
    images: ImageSettings,
    cache_folder: Path,
    seed: int,
    accelerator: Accelerator,
    embed_text: Callable[[Sequence[str]], TextEmbedding] | None = None,
) -> Batches:
    """Batches of the ``train`` rows, and of the ``preserve`` rows where ``splits`` has them.

    From here on the VAE is not needed, and the text encoders only where ``embed_text`` trains them.
    """
    encoded = {
        name: encode_set(
            base,
            split,
            images=images,
            cache_folder=cache_folder,
            rank=accelerator.process_index,
            num_ranks=accelerator.num_processes,
        )
        for name, split in splits.items()
    }
    return Batches(
        train=encoded["train"],
        preserve=encoded.get("preserve"),
        batch_size=settings.batch_size,
        preserve_batch_size=settings.preserve_batch_size,
        caption_dropout=settings.caption_dropout,
        noise_offset=settings.noise_offset,
        num_train_timesteps=base.num_train_timesteps,
        seed=seed,
        device=accelerator.device,
        embed_text=embed_text,
    )
