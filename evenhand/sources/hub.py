"""Pictures of a data set on the Hugging Face hub, streamed: nothing but the rows at hand is in memory or on disk.

No code of a data set is run, and its revision is pinned, so that the same name means the same pictures tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evenhand.hygiene.images import Refused
from evenhand.hygiene.paths import inside
from evenhand.hygiene.people import Depicts
from evenhand.sources.columns import Columns, check_use
from evenhand.sources.parquet import content_of, named_classes
from evenhand.sources.records import MAX_FILE_BYTES, Place, Skipped, SourceItem, Wanted, check_declared, stream

COMMIT = re.compile(r"[0-9a-f]{40}")


class HubDataset:
    """A split of a data set on the hub, or of a folder that is laid out like one.

    ``revision`` is a full commit hash (``git ls-remote https://huggingface.co/datasets/<repo>``, or "Files" on its
    page); a folder has none. ``config`` names one of its configurations, if it has several. Every process streams the
    whole split, and reads with its readers its own share of it.
    """

    def __init__(
        self,
        *,
        name: str,
        repo: str,
        revision: str | None,
        config: str | None,
        split: str,
        image_column: str,
        columns: Columns,
        concept: str | None,
        license: str,
        depicts: Depicts,
        consent: str | None,
    ) -> None:
        check_declared(name=name, license=license, depicts=depicts, consent=consent)
        check_use(columns, concept, name=name, depicts=depicts)
        self.name = name
        self.repo = repo
        self.revision = revision
        self.config = config
        self.split = split
        self.image_column = image_column
        self.columns = columns
        self.concept = concept
        self.license = license
        self.depicts = depicts
        self.consent = consent
        folder = Path(repo)
        self._folder = folder if folder.is_dir() else None
        self.inputs: Mapping[str, Path] = {name: folder} if self._folder else {}
        if self._folder is None and COMMIT.fullmatch(revision or "") is None:
            raise ValueError(
                f"source {name}: revision must be the full commit hash of {repo} (40 characters), got {revision!r}; "
                "a branch's pictures can change under the same name"
            )
        if self._folder is not None and revision is not None:
            raise ValueError(f"source {name}: {repo} is a folder, which has no revision; set source.revision=null")

    def check(self) -> None:
        """ValueError when it is not there, has no such split or column, or no column of pictures of that name."""
        import datasets

        features = self._open().features
        self.columns.check(list(features), where=f"{self.repo} ({self.split})", also=[self.image_column])
        found = features[self.image_column]
        is_bytes = isinstance(found, datasets.Value) and found.dtype in ("binary", "large_binary")
        if not isinstance(found, datasets.Image) and not is_bytes:
            raise ValueError(f"{self.repo}: column {self.image_column!r} holds no pictures but {found}")

    def items(
        self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Wanted | None = None
    ) -> Iterator[SourceItem | Skipped]:
        """The rows of the split in order."""
        return stream(self._places(), rank=rank, num_ranks=num_ranks, block=block, only=only)

    def _open(self) -> Any:  # Any: datasets ships no types
        """The split as a stream, its pictures left as the bytes that they are."""
        import datasets

        try:
            rows = datasets.load_dataset(
                self.repo, name=self.config, split=self.split, revision=self.revision, streaming=True
            )
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: it would need code of its own
            told = " ".join(str(error).split())
            raise ValueError(f"source {self.name}: {self.repo} cannot be streamed: {told}") from error
        if rows.features is None:
            raise ValueError(f"source {self.name}: {self.repo} is not of pictures: its files name no columns' kinds")
        for column, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        return rows

    def _places(self) -> Iterator[Place]:
        import datasets

        rows = self._open()
        needed = [self.image_column, *self.columns.names()]
        rows = rows.select_columns([column for column in rows.features if column in needed])
        names = {
            name: list(feature.names)
            for name, feature in rows.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        number = 0
        try:
            for row in rows:
                key = f"{self.split}:{number:09d}"
                yield Place(key, partial(self._item, key, named_classes(row, names)))
                number += 1
        except (OSError, ValueError) as error:
            told = " ".join(str(error).split())
            raise ValueError(f"source {self.name}: {self.repo} broke off after {number} rows: {told}") from error

    def _item(self, key: str, row: Mapping[str, object]) -> SourceItem | Skipped:
        cell = row[self.image_column]
        content = content_of(cell)
        if content is None:
            try:
                content = self._referred(cell)
            except Refused as refused:
                return Skipped(key=key, reason=refused.reason)
        return self.columns.item(row, key=key, content=content, concept=self.concept, name=self.name)

    def _referred(self, cell: object) -> bytes:
        """The bytes of a picture that its row only names: a file of the same data set, and no other."""
        import fsspec

        path = cell.get("path") if isinstance(cell, Mapping) else None
        if not isinstance(path, str):
            raise Refused("no bytes of a picture in its row")
        member, archive, place = path.rpartition("::")
        if archive and not re.fullmatch(r"zip://[^:]*", member):
            raise Refused("its picture lies outside of the data set")
        if self._folder is not None:
            root = self._folder.resolve().as_posix() + "/"
            place = inside(self._folder, place.removeprefix(root)).as_posix()
        elif not place.startswith(f"hf://datasets/{self.repo}@{self.revision}/") or ".." in place.split("/"):
            raise Refused("its picture lies outside of the data set")
        try:
            with fsspec.open(f"{member}{archive}{place}", "rb") as file:
                content: bytes = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            raise Refused(f"unreadable file ({' '.join(str(error).split())[:80]})") from error
        if len(content) > MAX_FILE_BYTES:
            raise Refused(f"file too large (more than {MAX_FILE_BYTES} bytes)")
        return content
