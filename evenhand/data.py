"""A curated set on disk to batches: rows, the cache of latents and text embeddings, and which row comes in which step.

Everything random is a function of (seed, step, place in the global batch), so the loader's whole state is the step, and
neither the number of processes nor a restart changes a batch. Letters: N rows, U different captions, B batch,
C channels, H height, W width, L tokens, D features.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.files import atomic_path, read_jsonl, sha256_file, sha256_json
from evenhand.interfaces import Batch, LoadedBase, TextEmbedding
from evenhand.records import Example
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)

METADATA_NAME = "metadata.jsonl"
EMPTY_CAPTION = ""
WAIT_SECONDS = 0.5
PIXEL_LEVELS = 255.0


def read_examples(folder: Path, split: str) -> tuple[Example, ...]:
    """The rows of ``<folder>/<split>/metadata.jsonl``; ValueError names the line that lacks a column or an image."""
    path = folder / split / METADATA_NAME
    if not path.is_file():
        raise ValueError(f"curated set {folder} has no {split}/{METADATA_NAME} (data=<folder that build.py wrote>)")
    columns = [field.name for field in dataclasses.fields(Example)]
    examples = []
    for number, row in enumerate(read_jsonl(path), start=1):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(f"{path} line {number} lacks {', '.join(missing)}")
        example = Example(**{column: row[column] for column in columns})
        if not (path.parent / example.file_name).is_file():
            raise ValueError(f"{path} line {number}: image {example.file_name} does not exist")
        examples.append(example)
    if not examples:
        raise ValueError(f"{path} holds no rows")
    return tuple(examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSet:
    """Latent posteriors of N images in the UNet's scale, their U captions embedded once, and which row has which."""

    mean_NCHW: torch.Tensor
    std_NCHW: torch.Tensor
    text_U: TextEmbedding
    caption_N: torch.Tensor
    empty_caption: int

    def __len__(self) -> int:
        return len(self.mean_NCHW)


def encode_set(
    base: LoadedBase,
    examples: Sequence[Example],
    folder: Path,
    *,
    resolution_px: int,
    batch_size: int,
    cache_folder: Path,
    is_main: bool,
) -> EncodedSet:
    """Encode the images and captions of one split, or read them from the cache when nothing has changed since.

    A cache file is named by what went into it: image bytes, captions, the base's encoders, precision and transform.
    The main rank writes it and the others wait for the file, so that no collective's time limit applies.
    """
    inputs = {
        "images": sha256_json([sha256_file(folder / example.file_name) for example in examples]),
        "captions": sha256_json([example.text for example in examples]),
        "base encoders": base.encoders_fingerprint,
        "precision": str(next(base.unet.parameters()).dtype),
        "transform": f"centre square, lanczos to {resolution_px} px",
    }
    name = f"{folder.parent.name}-{folder.name}"
    path = cache_folder / f"{name}-{sha256_json(inputs)[:16]}.safetensors"
    if is_main and not path.is_file():
        log.info("encoding %d images of %s once (%s)", len(examples), folder, _why(cache_folder, name, inputs))
        _write_cache(path, base, examples, folder, resolution_px=resolution_px, batch_size=batch_size, inputs=inputs)
    while not path.is_file():
        time.sleep(WAIT_SECONDS)
    return _read_cache(path, examples)


def _why(cache_folder: Path, name: str, inputs: Mapping[str, str]) -> str:
    """What changed since the cache file of this split that has most in common with the wanted one."""
    from safetensors import safe_open

    changes = []
    for path in sorted(cache_folder.glob(f"{name}-????????????????.safetensors")):
        with safe_open(path, framework="pt") as opened:
            known = opened.metadata() or {}
        changes.append([part for part in inputs if known.get(part) != inputs[part]])
    fewest = min(changes, key=lambda parts: len(parts), default=None)
    return f"no cache in {cache_folder}" if fewest is None else f"changed: {', '.join(fewest)}"


def _captions(examples: Sequence[Example]) -> list[str]:
    """The different captions, the empty one among them, in a fixed order."""
    return sorted({EMPTY_CAPTION, *(example.text for example in examples)})


def _write_cache(
    path: Path,
    base: LoadedBase,
    examples: Sequence[Example],
    folder: Path,
    *,
    resolution_px: int,
    batch_size: int,
    inputs: Mapping[str, str],
) -> None:
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm

    captions = _captions(examples)
    texts = [base.encode_text(captions[at : at + batch_size]) for at in range(0, len(captions), batch_size)]
    tensors = {"hidden_ULD": torch.cat([text.hidden_BLD.cpu() for text in texts]).contiguous()}
    pooled = [text.pooled_BD.cpu() for text in texts if text.pooled_BD is not None]
    if pooled:
        tensors["pooled_UD"] = torch.cat(pooled).contiguous()
    means, stds = [], []
    for at in tqdm(range(0, len(examples), batch_size), desc="encode", unit="batch"):
        files = [folder / example.file_name for example in examples[at : at + batch_size]]
        posterior = base.encode_images(torch.stack([load_pixels(file, resolution_px) for file in files]))
        finite_B = posterior.mean_BCHW.isfinite().flatten(1).all(dim=1) & posterior.std_BCHW.isfinite().flatten(1).all(
            1
        )
        if not bool(finite_B.all()):
            raise ValueError(f"the VAE gives NaN or infinity for {files[int(finite_B.logical_not().nonzero()[0])]}")
        means.append(posterior.mean_BCHW.cpu())
        stds.append(posterior.std_BCHW.cpu())
    tensors |= {"mean_NCHW": torch.cat(means).contiguous(), "std_NCHW": torch.cat(stds).contiguous()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=dict(inputs))


def _read_cache(path: Path, examples: Sequence[Example]) -> EncodedSet:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    place = {caption: index for index, caption in enumerate(_captions(examples))}
    return EncodedSet(
        mean_NCHW=tensors["mean_NCHW"],
        std_NCHW=tensors["std_NCHW"],
        text_U=TextEmbedding(hidden_BLD=tensors["hidden_ULD"], pooled_BD=tensors.get("pooled_UD")),
        caption_N=torch.tensor([place[example.text] for example in examples]),
        empty_caption=place[EMPTY_CAPTION],
    )


def load_pixels(path: Path, resolution_px: int) -> torch.Tensor:
    """An image's centre square at ``resolution_px``, CHW in [-1, 1]; ValueError names a file that is no image."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    image = _centre_square(image)
    if image.width != resolution_px:
        image = image.resize((resolution_px, resolution_px), Image.Resampling.LANCZOS)
    levels_HWC = torch.from_numpy(np.asarray(image, dtype=np.float32))
    return (levels_HWC / PIXEL_LEVELS * 2.0 - 1.0).permute(2, 0, 1).contiguous()


def _centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@lru_cache(maxsize=8)  # two streams, and a batch may touch two epochs of each
def epoch_order(seed: int, stream: str, epoch: int, num_rows: int) -> tuple[int, ...]:
    """The order of the rows in one pass over a set."""
    import torch

    generator = torch.Generator().manual_seed(derive(seed, stream, "epoch", epoch))
    return tuple(torch.randperm(num_rows, generator=generator).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """One stream's part of a batch."""

    latents_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    text: TextEmbedding


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The batch of every step. ``batch_size`` and ``preserve_batch_size`` count the rows of all processes together.

    The timesteps of a batch are stratified: row i of B draws from the i-th of B equal parts of the schedule.
    """

    train: EncodedSet
    preserve: EncodedSet | None
    batch_size: int
    preserve_batch_size: int
    caption_dropout: float
    num_train_timesteps: int
    seed: int
    device: torch.device

    def at(self, step: int, *, part: int = 0, num_parts: int = 1) -> Batch:
        """Part ``part`` of the batch of a step: every ``num_parts``-th row, counted from ``part``."""
        main = self._rows(self.train, "train", step, self.batch_size, self.caption_dropout, part, num_parts)
        if self.preserve is None:
            return Batch(
                latents_BCHW=main.latents_BCHW, noise_BCHW=main.noise_BCHW, timesteps_B=main.timesteps_B, text=main.text
            )
        kept = self._rows(self.preserve, "preserve", step, self.preserve_batch_size, 0.0, part, num_parts)
        return Batch(
            latents_BCHW=main.latents_BCHW,
            noise_BCHW=main.noise_BCHW,
            timesteps_B=main.timesteps_B,
            text=main.text,
            preserve_latents_BCHW=kept.latents_BCHW,
            preserve_noise_BCHW=kept.noise_BCHW,
            preserve_timesteps_B=kept.timesteps_B,
            preserve_text=kept.text,
        )

    def _rows(
        self, rows: EncodedSet, stream: str, step: int, batch_size: int, dropout: float, part: int, num_parts: int
    ) -> _Rows:
        import torch

        indices, captions, timesteps, noises = [], [], [], []
        for place in range(part, batch_size, num_parts):
            number = step * batch_size + place
            epoch, position = divmod(number, len(rows))
            index = epoch_order(self.seed, stream, epoch, len(rows))[position]
            generator = torch.Generator().manual_seed(derive(self.seed, stream, "row", number))
            share, drop = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            indices.append(index)
            captions.append(rows.empty_caption if drop < dropout else int(rows.caption_N[index]))
            timesteps.append(int(self.num_train_timesteps * (place + share) / batch_size))
            noises.append(torch.randn((2, *rows.mean_NCHW.shape[1:]), generator=generator))
        posterior_noise_BCHW, noise_BCHW = torch.stack(noises, dim=1)
        pooled_UD = rows.text_U.pooled_BD
        return _Rows(
            latents_BCHW=(rows.mean_NCHW[indices] + rows.std_NCHW[indices] * posterior_noise_BCHW).to(self.device),
            noise_BCHW=noise_BCHW.to(self.device),
            timesteps_B=torch.tensor(timesteps, device=self.device),
            text=TextEmbedding(
                hidden_BLD=rows.text_U.hidden_BLD[captions].to(self.device),
                pooled_BD=None if pooled_UD is None else pooled_UD[captions].to(self.device),
            ),
        )
