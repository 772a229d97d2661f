"""The pictures of a source, checked and read as they stream by: what is kept of each is a few hundred bytes.

Checking a picture (decoding, hashing) runs in threads beside the reader, and the order stays the source's.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from evenhand.hygiene.images import CheckedImage, Refused, check_image
from evenhand.hygiene.texts import check_caption
from evenhand.interfaces import LoadedReader
from evenhand.records import Attribute, SubjectReading
from evenhand.set_audit.settings import AuditSettings
from evenhand.sources.records import Skipped, Source, SourceItem

LABELS = "labels"  # the source's own labels, as a reader beside the others
BATCHES_AHEAD = 4
THUMBNAIL_PX, JPEG_QUALITY = 96, 82
MOST_THUMBNAILS = 20_000  # about 40 MB in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the audit keeps of a picture. ``readings`` are by reader, the source's own labels among them.

    ``text`` is None where there is no caption, or none that can be used: ``text_problem`` then says why.
    ``thumbnail`` is a JPEG; None where none is kept.
    """

    key: str
    concept: str | None
    text: str | None
    text_problem: str | None
    license: str | None
    source: str
    sha256: str
    phash: int
    format: str
    side_px: int
    notes: tuple[str, ...]
    readings: Mapping[str, tuple[SubjectReading, ...]]
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True)
class _Checked:
    item: SourceItem
    image: CheckedImage
    text: str | None
    text_problem: str | None


def look(
    source: Source,
    readers: Mapping[str, LoadedReader],
    attributes: Sequence[Attribute],
    settings: AuditSettings,
    *,
    batch_size: int,
    num_threads: int,
) -> Iterator[Picture | Skipped]:
    """Every picture of a source, read by every reader; what cannot be used is given with its reason.

    Of pictures of real people no thumbnail is kept.
    """
    waiting: list[_Checked] = []
    num_thumbnails = 0 if source.depicts == "people" else MOST_THUMBNAILS
    with ThreadPoolExecutor(num_threads) as pool:
        for found in _checked(source, pool, settings, ahead=BATCHES_AHEAD * batch_size):
            if isinstance(found, Skipped):
                yield found
                continue
            waiting.append(found)
            if len(waiting) == batch_size:
                yield from _read(waiting, readers, attributes, num_thumbnails)
                num_thumbnails = max(0, num_thumbnails - batch_size)
                waiting = []
        yield from _read(waiting, readers, attributes, num_thumbnails)


def _checked(
    source: Source, pool: ThreadPoolExecutor, settings: AuditSettings, *, ahead: int
) -> Iterator[_Checked | Skipped]:
    """The items in the source's order, while the next ``ahead`` are being checked."""
    running: deque[Future[_Checked | Skipped] | Skipped] = deque()
    for item in source.items():
        running.append(item if isinstance(item, Skipped) else pool.submit(_check, item, settings))
        if len(running) > ahead:
            yield _done(running.popleft())
    while running:
        yield _done(running.popleft())


def _done(entry: Future[_Checked | Skipped] | Skipped) -> _Checked | Skipped:
    return entry if isinstance(entry, Skipped) else entry.result()


def _check(item: SourceItem, settings: AuditSettings) -> _Checked | Skipped:
    """A picture with its caption; a picture is not lost for its caption."""
    try:
        image = check_image(item.content, settings.limits, name=item.key)
    except Refused as error:
        return Skipped(key=item.key, reason=error.reason)
    if item.text is None:
        return _Checked(item, image, None, None)
    try:
        text = check_caption(item.text, max_characters=settings.max_caption_characters)
    except Refused as error:
        return _Checked(item, image, None, error.reason)
    return _Checked(item, image, text, None)


def _read(
    batch: Sequence[_Checked],
    readers: Mapping[str, LoadedReader],
    attributes: Sequence[Attribute],
    num_thumbnails: int,
) -> Iterator[Picture]:
    images = [entry.image.image for entry in batch]
    wanted = {attribute.name for attribute in attributes}
    said = {name: reader.read(images) for name, reader in readers.items()} if images else {}
    for place, entry in enumerate(batch):
        readings = {
            name: tuple(each for each in of_images[place] if each.attribute in wanted)
            for name, of_images in said.items()
        }
        item, image = entry.item, entry.image
        yield Picture(
            key=item.key,
            concept=item.concept or None,
            text=entry.text,
            text_problem=entry.text_problem,
            license=item.license or None,
            source=item.source,
            sha256=image.sha256,
            phash=image.phash,
            format=image.format,
            side_px=min(image.image.size),
            notes=tuple(image.notes),
            readings={**readings, LABELS: _own_labels(item, attributes)},
            thumbnail=_thumbnail(image.image) if place < num_thumbnails else None,
        )


def _own_labels(item: SourceItem, attributes: Sequence[Attribute]) -> tuple[SubjectReading, ...]:
    """What the source itself says of the attributes; a value that is not declared is no value."""
    found = []
    for attribute in attributes:
        value = item.labels.get(attribute.name)
        known = value in attribute.values
        reason = None if known else "no label" if value is None else f"unknown value {value!r}"
        found.append(
            SubjectReading(
                subject=0, attribute=attribute.name, value=value if known else None, probs=None, unread=reason
            )
        )
    return tuple(found)


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
