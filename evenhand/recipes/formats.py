"""A curated set written again in another form, with the same certificate: see `evenhand.recipes.stored` for the forms.

The same set gives the same bytes, as long as pyarrow and datasets, which write Parquet, stay the same.
"""

from __future__ import annotations

import hashlib
import io
import math
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from evenhand.files import json_line
from evenhand.recipes.card import CARD, dataset_card
from evenhand.recipes.certificate import CERTIFICATE, read_certificate
from evenhand.recipes.stored import FILE_NAME, FORMS, IMAGE, StoredPart, StoredSet, open_set

if TYPE_CHECKING:
    from datasets import Features

MEGABYTE = 1_000_000
TAR_MODE = 0o644
# What the hub's viewer and streaming readers fetch at once: https://huggingface.co/docs/hub/datasets-image
ROWS_PER_GROUP = 100

Json = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: how many files, and their bytes."""

    folder: Path
    num_files: int
    num_bytes: int


def export_set(folder: Path, to: Path, *, form: str, shard_mb: float) -> Exported:
    """Write a set that has a certificate in another form into the new folder ``to``; a kill leaves no such folder.

    Shards hold at most ``shard_mb`` megabytes of images, and at least one. ValueError when ``to`` is there already,
    when the set's files are not those of its certificate, or when it cannot take the form.
    """
    writers = {"imagefolder": _write_folder, "parquet": _write_parquet, "webdataset": _write_webdataset}
    if form not in writers:
        raise ValueError(f"format must be one of {', '.join(FORMS)}, got {form!r}")
    if not 0 < shard_mb < math.inf:
        raise ValueError(f"shard_mb must be > 0, got {shard_mb}")
    if to.exists():
        raise ValueError(f"to={to} is there already; give a new name, or remove it")
    certificate, stored = read_certificate(folder), open_set(folder)
    temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}.tmp")
    try:
        for part in stored.parts.values():
            place = temporary / part.name
            place.mkdir(parents=True)
            writers[form](part, place, round(shard_mb * MEGABYTE), list(certificate["attributes"]))
        shutil.copyfile(folder / CERTIFICATE, temporary / CERTIFICATE)
        (temporary / CARD).write_text(dataset_card(certificate, form=form), encoding="utf-8")
        _check_files(open_set(temporary), certificate, folder=folder, form=form)
        temporary.replace(to)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ValueError(f"to={to} cannot be written: {error.strerror or error}{where}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = [path for path in to.rglob("*") if path.is_file()]
    return Exported(folder=to, num_files=len(files), num_bytes=sum(path.stat().st_size for path in files))


def _check_files(stored: StoredSet, certificate: Json, *, folder: Path, form: str) -> None:
    """Raise ValueError unless what was written holds, byte for byte, what the certificate says."""
    found: dict[str, str] = {}
    for part in stored.parts.values():
        found[f"{part.name}/{part.text_name}"] = part.text_sha256
        found |= {f"{part.name}/{name}": hashlib.sha256(read()).hexdigest() for name, read in part.files()}
    known = certificate["files"]
    if wrong := sorted(name for name in {*found, *known} if found.get(name) != known.get(name)):
        raise ValueError(
            f"{folder}: {wrong[0]} is not as its certificate says{_and_more(wrong)}, so it was not written as {form} "
            "(data_recipes/verify.py tells what changed)"
        )


def _and_more(names: Sequence[str]) -> str:
    return f" (nor are {len(names) - 1} more files)" if len(names) > 1 else ""


def _write_folder(part: StoredPart, place: Path, _shard_bytes: int, _attributes: Sequence[str]) -> None:
    (place / part.text_name).write_bytes(part.text)
    for name, read in part.files():
        if name != PurePosixPath(name).name or name in (".", "..", part.text_name) or "\\" in name:
            raise ValueError(f"{part.name}: {name!r} is no name for a file of the set")
        (place / name).write_bytes(read())


class _Shard(Protocol):
    """A file that rows are added to."""

    def add(self, row: Json, content: bytes) -> None: ...

    def close(self) -> None: ...


def _write_shards(
    items: Iterable[tuple[Json, bytes]], place: Path, suffix: str, *, limit: int, opened: Callable[[Path], _Shard]
) -> None:
    """Fill one shard after the other; they get their names when it is known how many there are."""
    paths: list[Path] = []
    shard: _Shard | None = None
    num_bytes = 0
    try:
        for row, content in items:
            size = len(content) or len(json_line(row))
            if shard is None or num_bytes + size > limit:
                if shard is not None:
                    shard.close()
                paths.append(place / f"{len(paths):05d}{suffix}")
                shard, num_bytes = opened(paths[-1]), 0
            shard.add(row, content)
            num_bytes += size
    finally:
        if shard is not None:
            shard.close()
    for number, path in enumerate(paths):
        path.rename(place / f"{number:05d}-of-{len(paths):05d}{suffix}")


def _items(part: StoredPart, wanted: Callable[[Json], bool] = lambda row: True) -> Iterator[tuple[Json, bytes]]:
    """The rows with the bytes of their images, in the order of the part's files."""
    if not part.has_images:
        yield from ((row, b"") for row in part.rows if wanted(row))
        return
    rows = {row[FILE_NAME]: row for row in part.rows}
    for name, read in part.files():
        if name not in rows:
            raise ValueError(f"{part.name}/{name} belongs to no row of {part.text_name}; remove it")
        if wanted(rows[name]):
            yield rows[name], read()


def _write_parquet(part: StoredPart, place: Path, shard_bytes: int, attributes: Sequence[str]) -> None:
    features = _features(part, attributes)
    _write_shards(_items(part), place, ".parquet", limit=shard_bytes, opened=lambda path: _ParquetShard(path, features))


def _features(part: StoredPart, attributes: Sequence[str]) -> Features:
    """The columns as `datasets` knows them, in the rows' order; it finds them again in the Parquet file's head."""
    from datasets import Features, Image

    columns = dict.fromkeys(name for row in part.rows for name in row if name != FILE_NAME)
    kinds = {name: _feature([row.get(name) for row in part.rows], attributes) for name in columns}
    return Features({IMAGE: Image(), **kinds} if part.has_images else kinds)


def _feature(values: Sequence[Any], names: Sequence[str]) -> Any:  # Any: JSON in, a feature or a dict of them out
    """The type of a column. A mapping without any entry gets ``names``, because Parquet has no empty struct."""
    from datasets import List, Value

    given = [value for value in values if value is not None]
    if any(isinstance(value, Mapping) for value in given):
        keys = dict.fromkeys(key for value in given for key in value) or dict.fromkeys(names)
        return {key: _feature([value.get(key) for value in given], names) for key in keys}
    if any(isinstance(value, Sequence) and not isinstance(value, str) for value in given):
        return List(_feature([entry for value in given for entry in value], names))
    for kind, name in ((bool, "bool"), (int, "int64"), (float, "float64")):
        if given and all(isinstance(value, kind) for value in given):
            return Value(name)
    return Value("string")


class _ParquetShard:
    """Rows gathered into groups of a hundred."""

    def __init__(self, path: Path, features: Features) -> None:
        import pyarrow.parquet as pq

        self._schema = features.arrow_schema
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[Json] = []

    def add(self, row: Json, content: bytes) -> None:
        columns = {name: value for name, value in row.items() if name != FILE_NAME}
        image = {IMAGE: {"bytes": content, "path": row[FILE_NAME]}} if FILE_NAME in row else {}
        self._rows.append({**image, **columns})
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def _write_webdataset(part: StoredPart, place: Path, shard_bytes: int, _attributes: Sequence[str]) -> None:
    if not part.has_images:
        raise ValueError(f"a set of captions alone cannot be a WebDataset ({part.text_name}); choose parquet")
    names = [PurePosixPath(row[FILE_NAME]) for row in part.rows]
    suffixes = sorted({name.suffix for name in names})
    if len(suffixes) > 1 or suffixes == [".json"] or any("." in name.stem for name in names):
        raise ValueError(
            f"{part.name}: a WebDataset takes images of one kind, named without dots, got {', '.join(suffixes)}; "
            "choose parquet"
        )
    known = _keys(part.rows)

    def complete(row: Json) -> bool:
        return all(set(row[name]) == set(keys) for name, keys in known.items())

    def items() -> Iterator[tuple[Json, bytes]]:
        # `datasets` takes the types of the columns from the first five samples: nothing may be missing in them
        for wanted in (complete, lambda row: not complete(row)):
            for row, content in _items(part, wanted):
                yield {**row, **{name: {**keys, **row[name]} for name, keys in known.items()}}, content

    _write_shards(items(), place, ".tar", limit=shard_bytes, opened=_TarShard)


def _keys(rows: Sequence[Json]) -> dict[str, dict[str, None]]:
    """The columns that hold mappings, each with every key that some row has in it."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Mapping):
                found.setdefault(name, {}).update(dict.fromkeys(value))
    return found


class _TarShard:
    """An image and its row beside each other under one name, without time, owner or mode of this machine."""

    def __init__(self, path: Path) -> None:
        self._archive = tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed by close

    def add(self, row: Json, content: bytes) -> None:
        name = PurePosixPath(row[FILE_NAME])
        text = json_line({key: value for key, value in row.items() if key != FILE_NAME})
        self._add(name.name, content)
        self._add(name.with_suffix(".json").name, text.encode())

    def close(self) -> None:
        self._archive.close()

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(content), TAR_MODE, 0
        self._archive.addfile(member, io.BytesIO(content))
