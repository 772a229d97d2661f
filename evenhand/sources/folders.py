"""Pictures in a folder: with metadata files beside them, or without, as any tool that makes pictures leaves them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path

from evenhand.hygiene.images import Refused
from evenhand.hygiene.paths import inside
from evenhand.hygiene.people import Depicts
from evenhand.sources.columns import Columns, check_use
from evenhand.sources.records import (
    MAX_FILE_BYTES,
    Place,
    Skipped,
    SourceItem,
    Wanted,
    check_declared,
    stream,
)

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
CAPTION_SUFFIX = ".txt"
MAX_CAPTION_BYTES = 1 << 20
# What lies beside pictures without being one. Everything else is looked at: a suffix does not make a picture.
OTHER_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".md", ".yaml", ".yml", ".html", ".parquet", ".tar", ".log")
UNNAMED_ROW = "row"


class ImageFolder:
    """A folder with ``metadata.jsonl`` or ``metadata.csv``, in it or in folders below: Hugging Face's ``imagefolder``.

    A row names its picture in ``file_name``, relative to its metadata file. ``concept`` is that of all pictures, where
    no column tells it. Pictures without a row are skipped by name, after all rows.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        columns: Columns,
        concept: str | None,
        license: str,
        depicts: Depicts,
        consent: str | None,
    ) -> None:
        check_declared(name=name, license=license, depicts=depicts, consent=consent)
        check_use(columns, concept, name=name, depicts=depicts)
        self.name = name
        self.folder = folder
        self.columns = columns
        self.concept = concept
        self.license = license
        self.depicts = depicts
        self.consent = consent
        self.inputs: Mapping[str, Path] = {name: folder}

    def check(self) -> None:
        """ValueError when there is no folder, no metadata file, no row, or no such column."""
        _check_folder(self.folder, self.name)
        files = self._metadata_files()
        if not files:
            raise ValueError(
                f"{self.folder} has no {' or '.join(METADATA_NAMES)} (for pictures without metadata: "
                "source=generated_folder)"
            )
        for file in files:
            first = next((row for _, row in _rows(file) if row is not None), None)
            if first is None:
                raise ValueError(f"{file} holds no rows")
            self.columns.check(list(first), where=str(file), also=[FILE_NAME])

    def items(
        self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Wanted | None = None
    ) -> Iterator[SourceItem | Skipped]:
        """The rows of the metadata files in order, then the files that no row names."""
        return stream(self._places(), rank=rank, num_ranks=num_ranks, block=block, only=only)

    def _metadata_files(self) -> list[Path]:
        return [path for path in _files(self.folder) if path.name in METADATA_NAMES and path.is_file()]

    def _places(self) -> Iterator[Place]:
        named: set[str] = set()
        for file in self._metadata_files():
            for number, row in _rows(file):
                yield self._place(file, number, row, named)
        for path in _files(self.folder):
            key = path.relative_to(self.folder).as_posix()
            if key not in named and _may_be_picture(path):
                closed = path.is_dir() and not path.is_symlink()
                reason = "unreadable folder" if closed else "no row in the metadata"
                yield Place(key, partial(Skipped, key=key, reason=reason))

    def _place(self, file: Path, number: int, row: Mapping[str, object] | None, named: set[str]) -> Place:
        row_key = f"{file.relative_to(self.folder).as_posix()}:{UNNAMED_ROW} {number}"
        if row is None:
            return Place(row_key, partial(Skipped, key=row_key, reason="not a row of metadata"))
        found = row.get(FILE_NAME)
        try:
            path = inside(file.parent, found)
        except Refused as refused:
            named.add((file.parent.relative_to(self.folder) / str(found)).as_posix())
            key = f"{row_key}: {found!r:.80}"
            return Place(key, partial(Skipped, key=key, reason=refused.reason))
        try:
            key = path.relative_to(self.folder.resolve()).as_posix()
        except ValueError:  # the metadata file's own folder is a link out of the source's
            return Place(row_key, partial(Skipped, key=row_key, reason="link leaves the folder"))
        if key in named:
            return Place(row_key, partial(Skipped, key=row_key, reason="file named by an earlier row"))
        named.add(key)
        return Place(key, partial(self._item, key, path, row))

    def _item(self, key: str, path: Path, row: Mapping[str, object]) -> SourceItem | Skipped:
        content = _content(path)
        if not isinstance(content, bytes):
            return Skipped(key=key, reason=content.reason)
        return self.columns.item(row, key=key, content=content, concept=self.concept, name=self.name)


class GeneratedFolder:
    """A folder of pictures from any tool, without metadata.

    With ``concept`` null a picture's concept is the name of the first folder below ``folder`` that it lies in, read
    with underscores as spaces, or what ``concepts`` says for that name; a picture that lies in none has no concept. A
    text file of the same name (``0001.txt`` beside ``0001.png``) is its caption.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        concept: str | None,
        concepts: Mapping[str, str],
        license: str,
        depicts: Depicts,
        consent: str | None,
    ) -> None:
        check_declared(name=name, license=license, depicts=depicts, consent=consent)
        if concept is not None and concepts:
            raise ValueError(f"source {name}: concept={concept} is for all pictures, so concepts must be empty")
        self.name = name
        self.folder = folder
        self.concept = concept
        self.concepts = {str(found): value for found, value in concepts.items()}
        self.license = license
        self.depicts = depicts
        self.consent = consent
        self.inputs: Mapping[str, Path] = {name: folder}

    def check(self) -> None:
        """ValueError when there is no folder, or nothing in it that may be a picture."""
        _check_folder(self.folder, self.name)
        if next(self._pictures(), None) is None:
            raise ValueError(f"{self.folder} holds no pictures (source.folder)")

    def items(
        self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Wanted | None = None
    ) -> Iterator[SourceItem | Skipped]:
        """The files in the order of their names."""
        places = (self._place(path) for path in self._pictures())
        return stream(places, rank=rank, num_ranks=num_ranks, block=block, only=only)

    def _pictures(self) -> Iterator[Path]:
        return (path for path in _files(self.folder) if _may_be_picture(path))

    def _place(self, path: Path) -> Place:
        key = path.relative_to(self.folder).as_posix()
        return Place(key, partial(self._item, key, path))

    def _item(self, key: str, path: Path) -> SourceItem | Skipped:
        content = _content(path)
        if not isinstance(content, bytes):
            return Skipped(key=key, reason=content.reason)
        text = _caption(path.with_suffix(CAPTION_SUFFIX))
        return SourceItem(key=key, content=content, text=text, concept=self._concept(key), source=self.name)

    def _concept(self, key: str) -> str | None:
        below, slash, _ = key.partition("/")
        if self.concept is not None or not slash:
            return self.concept
        return self.concepts.get(below, below.replace("_", " "))


def _check_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise ValueError(f"source {name}: {'not a folder' if folder.exists() else 'no such folder'}: {folder}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(f"source {name}: folder {folder} may not be read; give this user the right to")


def _files(folder: Path) -> Iterator[Path]:
    """What lies below a folder in a stable order: files, and links and unreadable folders, which give no picture.

    Links are not followed. What is hidden is left out.
    """
    unreadable: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in sorted([*files, *links]) if not name.startswith("."))
    yield from sorted(Path(error.filename) for error in unreadable)


def _may_be_picture(path: Path) -> bool:
    return path.suffix.lower() not in OTHER_SUFFIXES


def _content(path: Path) -> bytes | Refused:
    """A file's bytes, or why they cannot be had."""
    try:
        if path.is_symlink():
            return Refused("a link, not a file")
        if not path.is_file():
            return Refused("unreadable folder" if path.is_dir() else "not a plain file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            return Refused(f"file too large ({size} bytes, more than {MAX_FILE_BYTES})")
        return path.read_bytes()
    except OSError as error:
        return Refused(f"unreadable file ({error.strerror or error})")


def _caption(path: Path) -> str | None:
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size > MAX_CAPTION_BYTES:
            return None
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:  # a picture without a caption that can be read is one without caption
        return None


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, object] | None]]:
    """The rows of a metadata file with their numbers, one at a time; None for a line that is no row."""
    if file.suffix == ".csv":
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            yield from _csv_rows(csv.DictReader(line.replace("\0", "\ufffd") for line in lines))
        return
    with file.open("rb") as lines_of_bytes:
        for number, line in enumerate(lines_of_bytes, start=1):
            if line.strip():
                yield number, _json_row(line)


def _csv_rows(reader: csv.DictReader[str]) -> Iterator[tuple[int, Mapping[str, object] | None]]:
    for number in count(1):
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a field beyond all measure
            yield number, None
        else:
            yield number, row


def _json_row(line: bytes) -> Mapping[str, object] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
