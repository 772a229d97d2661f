"""Pictures in WebDataset shards: tar files in which ``0001.png``, ``0001.txt`` and ``0001.json`` are one sample.

Nothing is ever unpacked: members are read as bytes, and only plain files are members.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from evenhand.hygiene.people import Depicts
from evenhand.sources.columns import Columns, check_use
from evenhand.sources.records import MAX_FILE_BYTES, Place, Skipped, SourceItem, Wanted, check_declared, stream

PATTERN = "*.tar"
PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "jfif", "ppm", "img")
TEXTS = ("txt", "text", "caption", "cls")
JSON = "json"
MAX_TEXT_BYTES = 1 << 20
SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")  # the name up to the first dot, and all that follows


class WebDataset:
    """The ``*.tar`` files of a folder in the order of their names, or one file.

    ``columns`` name the keys of a sample's ``.json``, and its text files by their ending: ``text: txt``. ``concept`` is
    that of all pictures, where no column tells it.
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
        """ValueError when there is no shard, or one is no uncompressed tar; columns differ from sample to sample."""
        files = self._files()
        if not files:
            raise ValueError(f"source {self.name}: no {PATTERN} in {self.folder}")
        for file in files:
            try:
                with tarfile.open(file, "r:") as shard:
                    shard.next()
            except (OSError, tarfile.TarError) as error:
                raise ValueError(f"{file} cannot be read as an uncompressed tar file: {error}") from error

    def items(
        self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Wanted | None = None
    ) -> Iterator[SourceItem | Skipped]:
        """The samples of each shard in order; of one that is passed over only the heads of its members are read."""
        return stream(self._places(), rank=rank, num_ranks=num_ranks, block=block, only=only)

    def _files(self) -> list[Path]:
        if self.folder.is_file():
            return [self.folder]
        return sorted(path for path in self.folder.rglob(PATTERN) if path.is_file())

    def _places(self) -> Iterator[Place]:
        for file in self._files():
            shown = file.name if file == self.folder else file.relative_to(self.folder).as_posix()
            number = 0
            try:
                with tarfile.open(file, "r:") as shard:
                    for place in self._shard_places(shard, shown):
                        yield place
                        number += 1
            except (OSError, tarfile.TarError) as error:
                key = f"{shown}:after {number}"
                yield Place(key, partial(Skipped, key=key, reason=f"shard cannot be read on from here ({error})"))

    def _shard_places(self, shard: tarfile.TarFile, shown: str) -> Iterator[Place]:
        seen: set[str] = set()
        for sample, members in _samples(shard):
            key = f"{shown}:{sample}"
            if key in seen:
                again = f"{key} at byte {members[0][1].offset}"
                yield Place(again, partial(Skipped, key=again, reason="sample name used twice"))
                continue
            seen.add(key)
            yield Place(key, partial(self._item, key, shard, members))

    def _item(
        self, key: str, shard: tarfile.TarFile, members: Sequence[tuple[str, tarfile.TarInfo]]
    ) -> SourceItem | Skipped:
        plain = [(ending, member) for ending, member in members if member.isreg()]
        if len(plain) < len(members):
            return Skipped(key=key, reason="member that is no plain file (link or device)")
        pictures = [member for ending, member in plain if ending.rpartition(".")[2] in PICTURES]
        if len(pictures) != 1:
            reason = f"several pictures in one sample ({len(pictures)})" if pictures else "no picture in the sample"
            return Skipped(key=key, reason=reason)
        if pictures[0].size > MAX_FILE_BYTES:
            return Skipped(key=key, reason=f"file too large ({pictures[0].size} bytes, more than {MAX_FILE_BYTES})")
        row: dict[str, object] = {}
        try:
            for ending, member in plain:
                if ending in (*TEXTS, JSON) and member.size > MAX_TEXT_BYTES:
                    return Skipped(key=key, reason=f"text too large ({member.size} bytes)")
                if ending == JSON:
                    row.update(_mapping(_bytes(shard, member)))
                elif ending in TEXTS:
                    row[ending] = _bytes(shard, member).decode("utf-8", errors="replace").strip()
            content = _bytes(shard, pictures[0])
        except (tarfile.TarError, OSError):
            return Skipped(key=key, reason="truncated")
        except (ValueError, RecursionError):
            return Skipped(key=key, reason="its json cannot be read")
        return self.columns.item(row, key=key, content=content, concept=self.concept, name=self.name)


def _samples(shard: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[str, tarfile.TarInfo]]]]:
    """Each sample's name and members with their endings: neighbours in the shard that share the name."""
    name, members = "", list[tuple[str, tarfile.TarInfo]]()
    while (member := shard.next()) is not None:
        # tarfile keeps every head that it has read, and a shard may hold millions. Its types do not tell of the list.
        shard.members.clear()  # type: ignore[attr-defined]
        match = SAMPLE.fullmatch(member.name)
        if match is None or member.isdir():
            continue
        if members and match[1] != name:
            yield name, members
            members = []
        name = match[1]
        members.append((match[2].lower(), member))
    if members:
        yield name, members


def _bytes(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None, "only plain files come here"
    content = file.read()
    if len(content) < member.size:
        raise tarfile.ReadError("cut short")
    return content


def _mapping(content: bytes) -> Mapping[str, object]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    return found
