"""Pictures in Parquet files, as the hub keeps them: a column of bytes, or of ``{bytes, path}``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evenhand.hygiene.people import Depicts
from evenhand.sources.columns import Columns, check_use
from evenhand.sources.records import Place, Skipped, SourceItem, Wanted, check_declared, stream

ROWS_AT_ONCE = 64
PATTERN = "*.parquet"


class ParquetFiles:
    """The ``*.parquet`` files of a folder in the order of their names, or one file; read a few rows at a time.

    Only bytes in ``image_column`` are read: a path there is a name, never opened. ``concept`` is that of all pictures,
    where no column tells it. A column of class numbers that says what they mean is read as those names.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
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
        self.folder = folder
        self.image_column = image_column
        self.columns = columns
        self.concept = concept
        self.license = license
        self.depicts = depicts
        self.consent = consent
        self.inputs: Mapping[str, Path] = {name: folder}

    def check(self) -> None:
        """ValueError when there is no file, one is no Parquet, lacks a column, or all are empty."""
        files = self._files()
        if not files:
            raise ValueError(f"source {self.name}: no {PATTERN} in {self.folder}")
        num_rows = 0
        for file in files:
            schema, rows_here = _head(file)
            self.columns.check(schema.names, where=str(file), also=[self.image_column])
            num_rows += rows_here
        if num_rows == 0:
            raise ValueError(f"source {self.name}: {self.folder} holds no rows")

    def items(
        self, *, rank: int = 0, num_ranks: int = 1, block: int = 1, only: Wanted | None = None
    ) -> Iterator[SourceItem | Skipped]:
        """The rows of each file in order."""
        return stream(self._places(), rank=rank, num_ranks=num_ranks, block=block, only=only)

    def _files(self) -> list[Path]:
        if self.folder.is_file():
            return [self.folder]
        return sorted(path for path in self.folder.rglob(PATTERN) if path.is_file())

    def _places(self) -> Iterator[Place]:
        import pyarrow

        for file in self._files():
            shown = file.name if file == self.folder else file.relative_to(self.folder).as_posix()
            number = 0
            try:
                for row in self._rows(file):
                    key = f"{shown}:{number:09d}"
                    yield Place(key, partial(self._item, key, row))
                    number += 1
            except (OSError, pyarrow.ArrowException) as error:
                key = f"{shown}:{number:09d}"
                told = " ".join(str(error).split())[:80]
                yield Place(key, partial(Skipped, key=key, reason=f"file cannot be read on from here ({told})"))

    def _rows(self, file: Path) -> Iterator[Mapping[str, object]]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(file) as opened:
            names = class_names(opened.schema_arrow)
            columns = list(dict.fromkeys([self.image_column, *self.columns.names()]))
            for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    yield named_classes(row, names)

    def _item(self, key: str, row: Mapping[str, object]) -> SourceItem | Skipped:
        content = content_of(row[self.image_column])
        if content is None:
            return Skipped(key=key, reason="no bytes of a picture in its row")
        return self.columns.item(row, key=key, content=content, concept=self.concept, name=self.name)


def content_of(value: object) -> bytes | None:
    """The bytes in a cell of a picture column; a path beside them is left alone."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    return found if isinstance(found, bytes) and found else None


def class_names(schema: Any) -> dict[str, list[str]]:  # Any: pyarrow ships no types
    """The names of the classes of each column that `datasets` wrote as class numbers."""
    import json

    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(entry) for entry in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def named_classes(row: Mapping[str, object], names: Mapping[str, list[str]]) -> Mapping[str, object]:
    """The row with class numbers as names; -1, which stands for none, and a number without name as nothing."""
    changed = dict(row)
    for column, known in names.items():
        number = changed.get(column)
        if isinstance(number, int):
            changed[column] = known[number] if 0 <= number < len(known) else None
    return changed


def _head(file: Path) -> tuple[Any, int]:  # Any: pyarrow ships no types
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            return opened.schema_arrow, opened.metadata.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
