"""A curated set as it lies on disk, in any of its three forms, read back as the rows and bytes that it was made of.

* ``imagefolder``: a part holds ``metadata.jsonl`` and its images; of a set of captions alone, ``captions.jsonl``.
* ``parquet``: shards ``00000-of-00003.parquet``; the column ``image`` holds an image's name and its bytes as they were.
* ``webdataset``: shards ``00000-of-00003.tar`` of ``000007.png``, its bytes as they were, and ``000007.json``, its row.

A part is ``train`` or ``preserve``. Whatever the form, the rows give back the bytes of ``metadata.jsonl``, so that one
certificate holds for all three.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from evenhand.files import json_line, read_jsonl
from evenhand.recipes.curated_set import METADATA, PRESERVE, TRAIN

Form = Literal["imagefolder", "parquet", "webdataset"]
FORMS: tuple[Form, ...] = get_args(Form)
PARTS = (TRAIN, PRESERVE)
CAPTIONS = "captions.jsonl"  # of a set without images
FILE_NAME, IMAGE = "file_name", "image"
BATCH_ROWS = 100  # of a Parquet shard in memory at a time

Json = dict[str, Any]  # Any: JSON
NamedBytes = tuple[str, Callable[[], bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part of a set: its rows in order, the name and the bytes of their text file, and its other files.

    ``files`` streams those by name, in order, each with what reads its bytes.
    """

    name: str
    rows: tuple[Json, ...]
    text_name: str
    text: bytes
    files: Callable[[], Iterator[NamedBytes]]

    @property
    def text_sha256(self) -> str:
        """sha256 in hex of the text file."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def has_images(self) -> bool:
        """Whether the rows are of images, not of captions alone."""
        return self.text_name == METADATA


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSet:
    """A set on disk, by its parts."""

    folder: Path
    form: Form
    parts: Mapping[str, StoredPart]

    def rows(self, part: str) -> tuple[Json, ...]:
        """The rows of a part; none where the set has no such part."""
        return self.parts[part].rows if part in self.parts else ()


def open_set(folder: Path) -> StoredSet:
    """Find out a set's form and read its rows; ValueError where there is none, or a broken file."""
    readers: dict[Form, Callable[[Path], StoredPart | None]] = {
        "imagefolder": _image_folder,
        "parquet": _parquet,
        "webdataset": _webdataset,
    }
    for form, read in readers.items():
        found = {name: read(folder / name) for name in PARTS}
        if parts := {name: part for name, part in found.items() if part is not None}:
            for part in parts.values():
                _check_rows(part, folder)
            return StoredSet(folder=folder, form=form, parts=parts)
    raise ValueError(
        f"{folder} holds no curated set: no {TRAIN}/{METADATA}, {TRAIN}/{CAPTIONS}, {TRAIN}/*.parquet or "
        f"{TRAIN}/*.tar (give the folder that data_recipes/build.py or scripts/export_set.py wrote)"
    )


def text_of(rows: Iterable[Json]) -> bytes:
    """The bytes of the text file that holds these rows."""
    return "".join(json_line(row) + "\n" for row in rows).encode()


def _image_folder(folder: Path) -> StoredPart | None:
    text = next((folder / name for name in (METADATA, CAPTIONS) if (folder / name).is_file()), None)
    if text is None:
        return None

    def files() -> Iterator[NamedBytes]:
        for path in sorted(folder.glob("*")):
            # like `datasets`, without hidden files: what a kill left half written, what a desktop or git put there
            if path.is_file() and path != text and not path.name.startswith("."):
                yield path.name, path.read_bytes

    rows = tuple(read_jsonl(text))
    return StoredPart(name=folder.name, rows=rows, text_name=text.name, text=text.read_bytes(), files=files)


def _parquet(folder: Path) -> StoredPart | None:
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        return None
    tables = [_table(shard) for shard in shards]
    rows = tuple(_row(row) for table in tables for row in table)
    has_images = any(FILE_NAME in row for row in rows)

    def files() -> Iterator[NamedBytes]:
        import pyarrow.parquet as pq

        for shard in shards if has_images else []:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[IMAGE]):
                    for entry in batch.column(IMAGE).to_pylist():
                        content = entry["bytes"] or b""
                        yield entry["path"], lambda content=content: content  # type: ignore[misc]  # a default binds it

    name = METADATA if has_images else CAPTIONS
    return StoredPart(name=folder.name, rows=rows, text_name=name, text=text_of(rows), files=files)


def _table(shard: Path) -> list[Json]:
    """The rows of a Parquet shard, of its images only the names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as file:
            names = [f"{IMAGE}.path" if name == IMAGE else name for name in file.schema_arrow.names]
            rows: list[Json] = file.read(columns=names).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{shard} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return rows


def _row(stored: Mapping[str, Any]) -> Json:  # Any: JSON
    """A row as ``metadata.jsonl`` has it: columns of names and values hold what was given alone."""
    row: Json = {}
    for name, value in stored.items():
        if name == IMAGE:
            row[FILE_NAME] = value["path"]
        elif isinstance(value, Mapping):
            row[name] = {key: entry for key, entry in value.items() if entry is not None}
        else:
            row[name] = value
    return row


def _webdataset(folder: Path) -> StoredPart | None:
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        return None
    names: dict[str, str] = {}
    rows: dict[str, Json] = {}
    for shard in shards:
        for name, read in _members(shard):
            stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
            if suffix != ".json":
                names[stem] = name
                continue
            try:
                rows[stem] = json.loads(read())
            except ValueError as error:
                raise ValueError(f"{shard}: {name} is not JSON: {error}") from error
    if without := sorted(set(rows) ^ set(names)):
        raise ValueError(f"{folder}: the sample {without[0]} lacks its image or its .json")
    ordered = tuple(_row({FILE_NAME: names[stem], **rows[stem]}) for stem in sorted(rows, key=names.__getitem__))

    def files() -> Iterator[NamedBytes]:
        for shard in shards:
            for name, read in _members(shard):
                if not name.endswith(".json"):
                    content = read()
                    yield name, lambda content=content: content  # type: ignore[misc]  # a default binds it

    return StoredPart(name=folder.name, rows=ordered, text_name=METADATA, text=text_of(ordered), files=files)


def _members(shard: Path) -> Iterator[NamedBytes]:
    """The files of a tar in order, to be read before the next one is asked for; nothing is unpacked."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                opened = archive.extractfile(member) if member.isreg() else None
                if opened is not None:
                    yield member.name, opened.read
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{shard} cannot be read as a tar: {error}") from error


def _check_rows(part: StoredPart, folder: Path) -> None:
    wanted: Sequence[tuple[str, type]] = (("text", str), ("concept", str), ("labels", Mapping))
    if part.has_images:
        wanted = [*wanted, (FILE_NAME, str)]
    for number, row in enumerate(part.rows, start=1):
        for column, kind in wanted:
            if not isinstance(row.get(column), kind):
                what = "names and values" if kind is Mapping else "text"
                raise ValueError(
                    f"{folder / part.name}: row {number} needs {what} as its {column}, got {row.get(column)!r}"
                )
