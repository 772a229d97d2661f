"""Pairs of images from the same noise: the unmodified base's, and that with the adapters at their weights; both read.

Every image is a batch of its own, so that it depends on its prompt, its seed and the weights alone, and not on what was
looked at before. With all weights at 0 nothing is attached, and the pair's images are the same bit for bit.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.adapters import lora
from evenhand.adapters.card import adapter_name
from evenhand.adapters.file import AdapterFile, find_file
from evenhand.adapters.foreign import for_any_base, read_any
from evenhand.adapters.merge import summed
from evenhand.interfaces import Base, LoadedBase, LoadedReader, Reader, SamplingSettings
from evenhand.records import SubjectReading
from evenhand.seeds import MAX_SEED

if TYPE_CHECKING:
    from PIL import Image

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
NUM_KEPT = 128  # images that are not made again when a slider comes back: about 100 MB at 512 px


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An image and what each reader says of it, by the reader's name."""

    image: Image.Image
    noise_sha256: str
    readings: Mapping[str, tuple[SubjectReading, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two images from the same noise."""

    prompt: str
    seed: int
    base: Seen
    adapted: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is played with, by the names of conf/playground.yaml, which says what each means.

    ValueError for settings that are none, and for adapters that are not there, before a model is loaded.
    """

    base: Base
    sampling: SamplingSettings
    adapters: tuple[str, ...]
    check_base: bool
    readers: Mapping[str, Reader]
    device: str
    dtype: str
    num_threads: int

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {self.device!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.num_threads < 1:
            raise ValueError(f"num_threads must be >= 1, got {self.num_threads}")
        names = [reader.name for reader in self.readers.values() if reader is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"readers must have different names, got {', '.join(names)}")
        for path in self.adapters:
            find_file(Path(path))

    def load(self) -> Playground:
        """Base, readers and adapters in memory; ValueError where an adapter does not fit the base."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda, but torch sees no GPU; device=auto takes the CPU then")
        torch.set_num_threads(self.num_threads)
        name = "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        base = self.base.load(device=device, dtype=getattr(torch, self.dtype))
        paths = [Path(path) for path in self.adapters]
        contents = [_content(base, path, check_base=self.check_base) for path in paths]
        return Playground(
            base,
            sampling=self.sampling,
            adapters=dict(zip(_names(paths), contents, strict=True)),
            readers={reader.name: reader.load(device=device) for reader in self.readers.values() if reader is not None},
        )


class Playground:
    """A base with adapters beside it and readers that look at its images; safe to call from several threads."""

    def __init__(
        self,
        base: LoadedBase,
        *,
        sampling: SamplingSettings,
        adapters: Mapping[str, AdapterFile],
        readers: Mapping[str, LoadedReader],
    ) -> None:
        self.base_name = base.name
        self.adapter_names = tuple(adapters)
        self._base = base
        self._sampling = sampling
        self._contents = tuple(adapters.values())
        self._readers = readers
        self._kept: OrderedDict[tuple[str, int, tuple[float, ...]], Seen] = OrderedDict()
        self._lock = threading.Lock()

    def pairs(self, prompt: str, seeds: Sequence[int], weights: Sequence[float]) -> Iterator[Pair]:
        """A pair for each seed, as soon as it is made; ValueError for what cannot be asked, before the first image."""
        weights = tuple(float(weight) for weight in weights)
        if len(weights) != len(self._contents):
            raise ValueError(f"there are {len(self._contents)} adapters, got {len(weights)} weights")
        if not all(math.isfinite(weight) for weight in weights):
            raise ValueError(f"weights must be finite numbers, got {list(weights)}")
        for seed in seeds:
            if not 0 <= seed <= MAX_SEED:
                raise ValueError(f"a seed must be between 0 and {MAX_SEED}, got {seed}")
        return self._made(prompt, seeds, weights)

    def _made(self, prompt: str, seeds: Sequence[int], weights: tuple[float, ...]) -> Iterator[Pair]:
        off = tuple(0.0 for _ in weights)
        for seed in seeds:
            base, adapted = self._seen(prompt, seed, off), self._seen(prompt, seed, weights)
            assert base.noise_sha256 == adapted.noise_sha256, "both images of a pair start from the same noise"
            yield Pair(prompt=prompt, seed=seed, base=base, adapted=adapted)

    def _seen(self, prompt: str, seed: int, weights: tuple[float, ...]) -> Seen:
        key = prompt, seed, weights
        with self._lock:  # one model, one adapter on it at a time
            if key not in self._kept:
                self._kept[key] = self._look(prompt, seed, weights)
            self._kept.move_to_end(key)
            while len(self._kept) > NUM_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _look(self, prompt: str, seed: int, weights: tuple[float, ...]) -> Seen:
        with self._applied(weights):
            (made,) = self._base.generate([prompt], [seed], self._sampling)
        readings = {name: tuple(reader.read([made.image])[0]) for name, reader in self._readers.items()}
        return Seen(image=made.image, noise_sha256=made.noise_sha256, readings=readings)

    @contextmanager
    def _applied(self, weights: tuple[float, ...]) -> Iterator[None]:
        """Inside, the adapters of other weights than 0 are on the base: one as it is, several as their weighted sum."""
        active = [(content, weight) for content, weight in zip(self._contents, weights, strict=True) if weight != 0]
        if not active:
            yield
            return
        contents, active_weights = [content for content, _ in active], [weight for _, weight in active]
        one = len(active) == 1
        content = contents[0] if one else summed(contents, active_weights)
        lora.load_content(self._base, content, check_base=False)
        try:
            with lora.scaled(self._base, active_weights[0] if one else 1.0):
                yield
        finally:
            lora.detach(self._base)


def _content(base: LoadedBase, path: Path, *, check_base: bool) -> AdapterFile:
    """An adapter's file, tried on the base once; the base is as it was afterwards."""
    content = read_any(path, base)
    lora.load_content(base, content, check_base=check_base)
    lora.detach(base)
    return content if check_base else for_any_base(content)


def _names(paths: Sequence[Path]) -> list[str]:
    """What the cards call the adapters, else their files' names; numbered where two have the same."""
    names = [adapter_name(path) for path in paths]
    repeated = {name for name in names if names.count(name) > 1}
    return [f"{number}. {name}" if name in repeated else name for number, name in enumerate(names, start=1)]
