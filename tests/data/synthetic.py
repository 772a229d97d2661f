"""An encoded set without a model: means of rows are the rows' numbers, embeddings of captions the captions' numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evenhand.data.batches import Batches
from evenhand.data.encoded import EncodedSet
from evenhand.interfaces import LatentPosterior, TextEmbedding

CAPTIONS = ("", "one", "two")


def synthetic(num_rows: int = 12, *, std: float = 1e-6, bucket_sizes: Sequence[int] = ()) -> EncodedSet:
    """Rows whose captions take turns. ``bucket_sizes`` sum to the rows; bucket k's latents are 2 by 2 + k."""
    sizes = tuple(bucket_sizes) or (num_rows,)
    assert sum(sizes) == num_rows
    posteriors, buckets, places = [], [], []
    for index, size in enumerate(sizes):
        rows = tuple(range(len(places), len(places) + size))
        mean = torch.tensor(rows, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 2, 2 + index).contiguous()
        posteriors.append(LatentPosterior(mean_BCHW=mean, std_BCHW=torch.full_like(mean, std)))
        buckets.append(rows)
        places += [(index, entry) for entry in range(size)]
    numbers = torch.arange(float(len(CAPTIONS))).view(-1, 1, 1).expand(-1, 2, 3).contiguous()
    return EncodedSet(
        posteriors=posteriors,
        texts=[TextEmbedding(hidden_BLD=numbers)],
        buckets=tuple(buckets),
        place_N=places,
        place_U={caption: (0, entry) for entry, caption in enumerate(CAPTIONS)},
        caption_N=[CAPTIONS[row % 2 + 1] for row in range(num_rows)],
        size_N6=torch.arange(float(num_rows)).view(-1, 1).expand(-1, 6).contiguous(),
        files=[f"{row:06d}.png" for row in range(num_rows)],
    )


def dealer(
    train: EncodedSet | None = None,
    preserve: EncodedSet | None = None,
    *,
    batch_size: int = 8,
    preserve_batch_size: int = 4,
    dropout: float = 0.0,
    noise_offset: float = 0.0,
    seed: int = 0,
    embed_text=None,
) -> Batches:
    """Batches of such sets, on the CPU."""
    return Batches(
        train=train or synthetic(),
        preserve=preserve,
        batch_size=batch_size,
        preserve_batch_size=preserve_batch_size if preserve else 0,
        caption_dropout=dropout,
        noise_offset=noise_offset,
        num_train_timesteps=1000,
        seed=seed,
        device=torch.device("cpu"),
        embed_text=embed_text,
    )


def rows_of(latents_BCHW: torch.Tensor) -> list[int]:
    """Which rows these latents are of."""
    return latents_BCHW[:, 0, 0, 0].round().int().tolist()
