"""Images of unmodified bases, kept from one adapter's evaluation for that of the next, a batch at a time.

A batch is found by the sha256 of all that can change one of its pixels. It lies in ``base_arms/<key>/`` of the cache
folder: its pictures, and ``batch.json`` with their hashes, which are checked whenever it is served.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evenhand.evaluation.plan import Plan
from evenhand.files import atomic_path, read_json, sha256_file, sha256_json, write_json_atomic
from evenhand.records import Prompt

log = logging.getLogger(__name__)

FOLDER = "base_arms"
BATCH_FILE = "batch.json"
KEY_VERSION = 1
# All other fields of the plan of generation are in the key, those that are added later included.
NOT_OF_THE_BASE = ("seeds", "base", "adapter_sha256", "adapter_scale", "arm")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedImage:
    """A picture of a batch: the sha256 of its file, and that of the noise that it started from."""

    sha256: str
    noise_sha256: str


def key_facts(plan: Plan, images: Sequence[tuple[Prompt, int]]) -> dict[str, Any]:  # Any: JSON
    """All that can change a pixel of a batch of the base's images; the prompts' names and the adapter cannot."""
    assert plan.generation is not None
    generation = {key: value for key, value in asdict(plan.generation).items() if key not in NOT_OF_THE_BASE}
    return {
        "version": KEY_VERSION,
        "generation": generation,
        "texts": [prompt.text for prompt, _ in images],
        "seeds": [seed for _, seed in images],
    }


def batch_key(plan: Plan, images: Sequence[tuple[Prompt, int]]) -> str:
    """What a batch of the base's images is found by."""
    return sha256_json(key_facts(plan, images))


def is_cached(cache: Path, key: str) -> bool:
    """Whether a batch is there; whether it is sound is seen when it is fetched."""
    return (cache / FOLDER / key / BATCH_FILE).is_file()


def fetch(cache: Path, key: str, targets: Sequence[Path]) -> list[CachedImage] | None:
    """Copy a batch's pictures to ``targets``; None, and no cached batch any more, when it is not there or not sound."""
    folder = cache / FOLDER / key
    if not is_cached(cache, key):
        return None
    try:
        images = [CachedImage(**row) for row in read_json(folder / BATCH_FILE)["images"]]
        whole = len(images) == len(targets) and all(
            sha256_file(folder / _picture(index)) == image.sha256 for index, image in enumerate(images)
        )
    except (OSError, TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        log.warning("a batch in the cache is damaged and is made again: %s", folder)
        shutil.rmtree(folder)
        return None
    for index, target in enumerate(targets):
        # A copy: a link would let a change in one evaluation folder reach the cache, and from there the others.
        with atomic_path(target) as temporary:
            shutil.copyfile(folder / _picture(index), temporary)
    return images


def store(cache: Path, key: str, pictures: Sequence[tuple[Path, str]]) -> None:
    """Keep a batch: its pictures in order, each with the sha256 of its noise. It appears whole or not at all."""
    folder = cache / FOLDER / key
    if is_cached(cache, key):
        return
    temporary = folder.with_name(f".{key}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        images = []
        for index, (path, noise_sha256) in enumerate(pictures):
            with atomic_path(temporary / _picture(index)) as copy:
                shutil.copyfile(path, copy)
            images.append(CachedImage(sha256=sha256_file(temporary / _picture(index)), noise_sha256=noise_sha256))
        write_json_atomic(temporary / BATCH_FILE, {"images": images})
        temporary.rename(folder)
    except OSError as error:
        # Another process may have stored the same batch meanwhile; a full disk costs the next run time, not this one.
        if not is_cached(cache, key):
            log.warning("the cache folder %s keeps no more images (%s)", cache, error.strerror)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _picture(index: int) -> str:
    return f"{index:04d}.png"
