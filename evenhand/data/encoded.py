"""Images and captions of a curated set, encoded once and kept on disk.

Latents are kept as the VAE's posterior, so that each step draws its own; captions are embedded once each. Encoded sets
need not fit into memory. Letters: N rows, U different captions, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from evenhand.data.buckets import Crop, make_buckets
from evenhand.data.coupling import siblings
from evenhand.data.images import ImageFile, ImageSettings, choose_crop, load_pixels
from evenhand.data.rows import Split
from evenhand.data.shards import ShardFolder, fill
from evenhand.files import json_line, sha256_json
from evenhand.interfaces import LatentPosterior, LoadedBase, TextEmbedding

if TYPE_CHECKING:
    import torch

EMPTY_CAPTION = ""
TEXTS_TOGETHER = 8  # in a batch of the text encoder, where none is asked for
ENCODERS = ("vae", "text_encoder", "tokenizer")
MEAN, STD, HIDDEN, POOLED = "mean_NCHW", "std_NCHW", "hidden_ULD", "pooled_UD"

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSet:
    """Latent posteriors of N rows in the UNet's scale, and their U captions, embedded.

    ``buckets`` hold the rows of each size of latents, ``place_N`` says where in ``posteriors`` a row is, ``place_U``
    where in ``texts`` a caption is: which file, and which entry in it. ``size_N6`` is what SDXL is told of the rows.
    ``explicit_N`` are the rows' explicit captions, where they were asked for, and ``siblings_N`` the rows of the same
    concept and size, in the order of their labels.
    """

    posteriors: Sequence[LatentPosterior]
    texts: Sequence[TextEmbedding]
    buckets: tuple[tuple[int, ...], ...]
    place_N: Sequence[tuple[int, int]]
    place_U: Mapping[str, tuple[int, int]]
    caption_N: Sequence[str]
    size_N6: torch.Tensor
    files: Sequence[str]
    explicit_N: Sequence[str] = ()
    siblings_N: Sequence[Sequence[int]] = ()
    concept_N: Sequence[str] = ()
    labels_N: Sequence[Mapping[str, str]] = ()

    def __len__(self) -> int:
        return len(self.place_N)

    def posterior(self, rows: Sequence[int]) -> LatentPosterior:
        """The posterior of rows of one bucket."""
        import torch

        places = [self.place_N[row] for row in rows]
        return LatentPosterior(
            mean_BCHW=torch.stack([self.posteriors[file].mean_BCHW[entry] for file, entry in places]),
            std_BCHW=torch.stack([self.posteriors[file].std_BCHW[entry] for file, entry in places]),
        )

    def text(self, captions: Sequence[str]) -> TextEmbedding:
        """The embedding of captions that the set has, the empty one among them."""
        import torch

        found = [(self.texts[file], entry) for file, entry in (self.place_U[caption] for caption in captions)]
        pooled = [text.pooled_BD[entry] for text, entry in found if text.pooled_BD is not None]
        return TextEmbedding(
            hidden_BLD=torch.stack([text.hidden_BLD[entry] for text, entry in found]),
            pooled_BD=torch.stack(pooled) if pooled else None,
        )


def encode_set(
    base: LoadedBase,
    split: Split,
    *,
    images: ImageSettings,
    cache_folder: Path,
    rank: int = 0,
    num_ranks: int = 1,
    explicit: bool = False,
    others: Sequence[str] = (),
) -> EncodedSet:
    """Encode the images and captions of a split, or read them from the cache when nothing has changed since.

    The cache is known by what went into it: image bytes, captions, the base's encoders, precision, crops and sizes.
    With ``explicit``, the rows' explicit captions are embedded too, and ``others``, which no row has: into files beside
    those, so that methods with and without them share the images.
    With several ranks each encodes its share. ValueError names an image that is damaged, too small, or whose latent is
    not finite.
    """
    resolution_px = images.resolution_px or base.resolution_px
    buckets = make_buckets(resolution_px, step_px=base.size_step_px, max_aspect=images.max_aspect)
    crops = [choose_crop(image, buckets, max_enlargement=images.max_enlargement) for image in split.images]
    plan = _Plan.of(split, crops, num_per_shard=images.shard_images)
    name_of_set, encoders = f"{split.folder.parent.name}-{split.name}", _encoders(base)
    folder = ShardFolder.of(
        cache_folder,
        name_of_set,
        {
            "images": sha256_json([image.sha256 for image in split.images]),
            "captions": sha256_json([example.text for example in split.examples]),
            **encoders,
            "transform": f"{resolution_px} px, aspect up to {images.max_aspect:g}, lanczos, centre crop",
            "files": f"{images.shard_images} images or captions each",
        },
    )

    def encode(name: str) -> dict[str, torch.Tensor]:
        if name in plan.captions:
            return _encode_captions(base, plan.captions[name], images.encode_batch_size or TEXTS_TOGETHER)
        rows = plan.rows[name]
        files, parts = [split.images[row] for row in rows], [crops[row] for row in rows]
        return _encode_images(base, files, parts, images.images_together(parts[0].bucket))

    what = f"{len(split)} images of {split.folder}"
    names = [*plan.captions, *plan.rows]
    encoded = plan.encoded(fill(folder, names, encode, what=what, rank=rank, num_ranks=num_ranks), split, crops)
    if not explicit:
        return encoded
    captions = sorted({*(example.explicit for example in split.examples), *others})
    pieces = dict(_pieces("text", captions, images.shard_images))
    inputs = {"captions": sha256_json(pieces), **encoders, "files": f"{images.shard_images} captions each"}
    beside = ShardFolder.of(cache_folder, f"{name_of_set}-explicit", inputs)

    def encode_explicit(name: str) -> dict[str, torch.Tensor]:
        return _encode_captions(base, pieces[name], images.encode_batch_size or TEXTS_TOGETHER)

    what = f"explicit captions of {split.folder}"
    texts = fill(beside, list(pieces), encode_explicit, what=what, rank=rank, num_ranks=num_ranks)
    return _with_explicit(encoded, split, pieces, texts)


def _with_explicit(
    encoded: EncodedSet,
    split: Split,
    pieces: Mapping[str, Sequence[str]],
    shards: Mapping[str, Mapping[str, torch.Tensor]],
) -> EncodedSet:
    """The set with the embeddings of its rows' explicit captions; a caption that it has already stays where it is."""
    first = len(encoded.texts)
    places = {
        caption: (first + file, entry)
        for file, captions in enumerate(pieces.values())
        for entry, caption in enumerate(captions)
    }
    return replace(
        encoded,
        texts=[*encoded.texts, *(_text_of(shards[name]) for name in pieces)],
        place_U={**places, **encoded.place_U},
        explicit_N=[example.explicit for example in split.examples],
    )


def _text_of(shard: Mapping[str, torch.Tensor]) -> TextEmbedding:
    return TextEmbedding(hidden_BLD=shard[HIDDEN], pooled_BD=shard.get(POOLED))


def _encoders(base: LoadedBase) -> dict[str, str]:
    """What a cached embedding or latent depends on in a base."""
    return {
        "base encoders": sha256_json([base.encoders_fingerprint, *_encoder_facts(base)]),
        "precision": str(next(base.unet.parameters()).dtype),
    }


def _encoder_facts(base: LoadedBase) -> list[str]:
    """Kind and settings of the parts that encode: weights alone do not tell the scale of latents, say."""
    return [f"{part}: {fact}" for part, fact in sorted(base.sampler().items()) if part.startswith(ENCODERS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Which file holds which captions, and which the rows of which bucket: the same on every rank."""

    captions: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[int]]
    buckets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, split: Split, crops: Sequence[Crop], *, num_per_shard: int) -> _Plan:
        captions = sorted({EMPTY_CAPTION, *(example.text for example in split.examples)})
        by_bucket: dict[str, list[int]] = {}
        for row, crop in sorted(enumerate(crops), key=lambda numbered: (numbered[1].bucket, numbered[0])):
            by_bucket.setdefault(str(crop.bucket), []).append(row)
        return cls(
            captions=dict(_pieces("text", captions, num_per_shard)),
            rows={
                name: piece
                for bucket, rows in by_bucket.items()
                for name, piece in _pieces(f"images-{bucket}", rows, num_per_shard)
            },
            buckets=tuple(tuple(rows) for rows in by_bucket.values()),
        )

    def encoded(
        self, shards: Mapping[str, Mapping[str, torch.Tensor]], split: Split, crops: Sequence[Crop]
    ) -> EncodedSet:
        """The set that lies in these shards."""
        import torch

        places = {row: (file, entry) for file, rows in enumerate(self.rows.values()) for entry, row in enumerate(rows)}
        return EncodedSet(
            posteriors=[
                LatentPosterior(mean_BCHW=shards[name][MEAN], std_BCHW=shards[name][STD]) for name in self.rows
            ],
            texts=[_text_of(shards[name]) for name in self.captions],
            buckets=self.buckets,
            place_N=[places[row] for row in range(len(split))],
            place_U={
                caption: (file, entry)
                for file, captions in enumerate(self.captions.values())
                for entry, caption in enumerate(captions)
            },
            caption_N=[example.text for example in split.examples],
            size_N6=torch.tensor(
                [
                    crop.size_6(height_px=image.height_px, width_px=image.width_px)
                    for crop, image in zip(crops, split.images, strict=True)
                ],
                dtype=torch.float32,
            ),
            files=[f"{split.name}/{example.file_name}" for example in split.examples],
            concept_N=[example.concept for example in split.examples],
            labels_N=[example.labels for example in split.examples],
            siblings_N=siblings(
                [sha256_json([row.concept, crop.bucket]) for row, crop in zip(split.examples, crops, strict=True)],
                [json_line(sorted(row.labels.items())) for row in split.examples],
            ),
        )


def _pieces(name: str, entries: Sequence[_Entry], num_per_piece: int) -> Iterator[tuple[str, Sequence[_Entry]]]:
    for number, at in enumerate(range(0, len(entries), num_per_piece)):
        yield f"{name}-{number:05d}", entries[at : at + num_per_piece]


def _encode_captions(base: LoadedBase, captions: Sequence[str], batch_size: int) -> dict[str, torch.Tensor]:
    import torch

    texts = [base.encode_text(captions[at : at + batch_size]) for at in range(0, len(captions), batch_size)]
    pooled = [text.pooled_BD.cpu() for text in texts if text.pooled_BD is not None]
    hidden_ULD = torch.cat([text.hidden_BLD.cpu() for text in texts])
    return {HIDDEN: hidden_ULD, POOLED: torch.cat(pooled)} if pooled else {HIDDEN: hidden_ULD}


def _encode_images(
    base: LoadedBase, files: Sequence[ImageFile], crops: Sequence[Crop], batch_size: int
) -> dict[str, torch.Tensor]:
    """The posteriors of images of one bucket; the next batch is read while the VAE works on this one."""
    import torch

    paths = [file.path for file in files]
    means, stds = [], []
    with ThreadPoolExecutor() as pool:

        def start(at: int) -> Iterator[torch.Tensor]:
            return pool.map(load_pixels, paths[at : at + batch_size], crops[at : at + batch_size])

        loading = start(0)
        for at in range(0, len(paths), batch_size):
            pixels_BCHW = torch.stack(list(loading))
            loading = start(at + batch_size)
            posterior = base.encode_images(pixels_BCHW)
            mean_BCHW, std_BCHW = posterior.mean_BCHW.cpu(), posterior.std_BCHW.cpu()
            finite_B = (mean_BCHW.isfinite() & std_BCHW.isfinite()).flatten(1).all(dim=1)
            if not bool(finite_B.all()):
                bad = paths[at + int(finite_B.logical_not().nonzero()[0])]
                raise ValueError(f"the VAE gives NaN or infinity for {bad} (train.mixed_precision=no, or remove it)")
            means.append(mean_BCHW)
            stds.append(std_BCHW)
    return {MEAN: torch.cat(means), STD: torch.cat(stds)}
