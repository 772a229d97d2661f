"""The batches of a training run: each split encoded once, then dealt out by the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.data.augmentation import Alternatives, CaptionAugmentation
from evenhand.data.batches import Batches, VirtualConcepts
from evenhand.data.encoded import encode_set
from evenhand.data.images import ImageSettings
from evenhand.data.noise_coupling import NoiseCoupling
from evenhand.data.rows import TRAIN, Split
from evenhand.data.timesteps import Timesteps
from evenhand.interfaces import LoadedBase, Method, TextEmbedding
from evenhand.records import Example
from evenhand.training.settings import TrainSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

# The part of a training that has virtual concepts: they teach what holds for all, and then the known ones are fitted.
VIRTUAL_PART = 0.8


def make_batches(
    base: LoadedBase,
    splits: Mapping[str, Split],
    *,
    settings: TrainSettings,
    images: ImageSettings,
    cache_folder: Path,
    seed: int,
    accelerator: Accelerator,
    timesteps: Timesteps,
    method: Method,
    augmentation: CaptionAugmentation | None = None,
    embed_text: Callable[[Sequence[str]], TextEmbedding] | None = None,
) -> Batches:
    """Batches of the ``train`` rows, and of the ``preserve`` rows where ``splits`` has them.

    For a method that uses them, the train rows have their explicit captions too, and with ``augmentation`` other pairs
    of both. From here on the VAE is not needed, and the text encoders only where ``embed_text`` trains them or concepts
    are virtual.
    """
    alternatives = None if augmentation is None else augmentation.alternatives(splits[TRAIN].examples)
    others = [] if alternatives is None else [caption for pair in alternatives.pairs() for caption in pair[:2]]
    virtual = _virtual(
        base, splits[TRAIN].examples, method, alternatives, num_steps=settings.steps
    )  # refused before anything is encoded
    encoded = {
        name: encode_set(
            base,
            split,
            images=images,
            cache_folder=cache_folder,
            rank=accelerator.process_index,
            num_ranks=accelerator.num_processes,
            explicit=method.uses_explicit and name == TRAIN,
            others=others if name == TRAIN else (),
        )
        for name, split in splits.items()
    }
    return Batches(
        train=encoded["train"],
        preserve=encoded.get("preserve"),
        batch_size=settings.batch_size,
        preserve_batch_size=settings.preserve_batch_size,
        caption_dropout=settings.caption_dropout,
        rows_per_noise=method.rows_per_noise,
        coupling=NoiseCoupling.of(encoded[TRAIN]) if method.coupled_noise else None,
        virtual=virtual,
        alternatives=alternatives,
        timesteps=timesteps,
        noise_offset=settings.noise_offset,
        num_train_timesteps=base.num_train_timesteps,
        seed=seed,
        device=accelerator.device,
        embed_text=embed_text,
    )


def _virtual(
    base: LoadedBase,
    examples: Sequence[Example],
    method: Method,
    alternatives: Alternatives | None,
    *,
    num_steps: int,
) -> VirtualConcepts | None:
    """The virtual concepts of a method that has any, drawn between all that it trains on."""
    if not method.virtual_concepts:
        return None
    known = {example.concept for example in examples}
    if alternatives is not None:
        known |= {pair.concept for pair in alternatives.pairs()}
    if len(known) == 1:
        raise ValueError(
            f"every row is about {known.pop()!r}, and with method.virtual_concepts={method.virtual_concepts} what is "
            "learned of it would hold for any other: for a single thing set method.virtual_concepts=0"
        )
    words = base.virtual_words(sorted(known))
    if not any(
        words.stands_in(row.concept, row.text) and words.stands_in(row.concept, row.explicit) for row in examples
    ):
        raise ValueError(
            f"method.virtual_concepts={method.virtual_concepts} puts words in the place of concepts, but no row's two "
            f"captions have its concept word for word (the first: {examples[0].concept!r} in {examples[0].text!r}): "
            "set method.virtual_concepts=0"
        )
    return VirtualConcepts(words=words, share=method.virtual_concepts, until=ceil(VIRTUAL_PART * num_steps))
