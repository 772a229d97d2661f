"""Pictures on their way to the disk: threads write them while the next ones are being made."""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from evenhand.recipes.curated_set import save_image
from evenhand.run import MEGABYTE, check_place

if TYPE_CHECKING:
    from PIL import Image

Item = TypeVar("Item")

NUM_THREADS = 4  # a PNG of 512 px takes about a tenth of a second, and does not hold the interpreter's lock
MOST_WAITING = 1  # batches that are being written while the next one is made
BYTES_OF_A_PIXEL = 3
PNG_SHARE = 0.6  # of these bytes a PNG takes; more for photographs than for drawings
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(Generic[Item]):
    """What a batch gave, the images to write by their places in the folder, and what to do when all are on the disk."""

    item: Item
    images: Mapping[str, Image.Image]
    then: Callable[[], None]


class PictureWriter:
    """Writes the pictures of a folder, batch after batch; a context manager that leaves when none is on its way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._pictures = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="picture")

    def behind(self, made: Iterable[Made[Item]]) -> Iterator[Item]:
        """The item of each batch when it is written, while the next one is being made."""
        waiting: deque[tuple[Item, Future[None]]] = deque()
        for batch in made:
            waiting.append((batch.item, self._batches.submit(self._write, batch.images, batch.then)))
            if len(waiting) > MOST_WAITING:
                yield _settled(*waiting.popleft())
        while waiting:
            yield _settled(*waiting.popleft())

    def _write(self, images: Mapping[str, Image.Image], then: Callable[[], None]) -> None:
        for _ in self._pictures.map(save_image, images.values(), [self._folder / name for name in images]):
            pass  # an error is raised here
        then()

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._batches.shutdown(wait=True, cancel_futures=kind is not None)
        self._pictures.shutdown(wait=True)


def _settled(item: Item, written: Future[None]) -> Item:
    written.result()
    return item


def check_room(folder: Path, *, num_images: int, num_pixels: int) -> None:
    """Raise ValueError when a set's folder cannot be written to, or its disk has no room for the images to come."""
    image_bytes = num_pixels * BYTES_OF_A_PIXEL * PNG_SHARE
    num_missing = max(0, num_images - sum(1 for _ in folder.glob("*/*.png")))
    check_place(
        folder,
        needed_bytes=math.ceil(num_missing * image_bytes),
        what=f"{num_missing} images of about {image_bytes / MEGABYTE:.3f} MB",
        cure="ask for fewer images (recipe.plan.images_per_concept)",
    )


@contextmanager
def full_disk_said(folder: Path) -> Iterator[None]:
    """Inside, a disk that is full ends in a ValueError with the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise ValueError(f"{folder}: {error.strerror}; make room, and the same command goes on") from error
