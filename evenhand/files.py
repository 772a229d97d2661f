"""Files that survive a kill: written to a temporary name and renamed, or appended line by line and read tolerantly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def _plain(value: object) -> object:
    """What JSON cannot write itself, as what it can: records, paths and read-only mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r}")


def json_line(value: object) -> str:
    """A value, record or mapping as one line of strict JSON (no NaN), without the newline."""
    return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False)


def sha256_json(value: object) -> str:
    """sha256 in hex of a value's canonical JSON: the order of keys does not matter, that of lists does."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 in hex of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """sha256 in hex of a file, or of a folder's relative names and file hashes; ValueError when there is neither.

    A file in a folder that may not be read counts as unreadable: whether it can be used without is for others to say.
    """
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise ValueError(f"input not found: {path}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_json([[file.relative_to(path).as_posix(), _sha256_or_none(file)] for file in files])


def _sha256_or_none(file: Path) -> str | None:
    try:
        return sha256_file(file)
    except PermissionError:
        return None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` with the same suffix, which becomes ``path`` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id: on several machines that share a disk two processes may have the same
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the old file or the new one, never half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: object) -> None:
    """Write a value, record or mapping as indented strict JSON, atomically."""
    write_text_atomic(path, json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def read_json(path: Path) -> Any:  # Any: what a JSON file holds is known to its caller only
    """The content of a JSON file; ValueError names the file when it is missing or not JSON."""
    if not path.is_file():
        raise ValueError(f"file not found: {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:  # Any: rows are checked by the record that they become
    """The rows of a jsonl file, without a last line that a kill cut short; no file is no rows.

    Raises ValueError with file and line number for any other line that is not a JSON object.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    rows = [_row(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if torn.strip() and _is_object(torn):
        rows.append(_row(torn, f"{path} line {len(lines) + 1}"))
    return rows


def append_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Append rows (records or mappings) in one write, after removing a last line that a kill cut short."""
    text = "".join(json_line(row) + "\n" for row in rows)
    if not text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _end_last_line(file.fileno(), path)
        file.write(text.encode())


def write_jsonl_atomic(path: Path, rows: Iterable[object]) -> None:
    """Write all rows of a jsonl file, atomically."""
    write_text_atomic(path, "".join(json_line(row) + "\n" for row in rows))


def _is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object: no beginning of an object is one, so a torn line is not."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _row(line: bytes, where: str) -> dict[str, Any]:  # Any: JSON
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object: {line[:80].decode(errors='replace')!r}")
    return row


def _end_last_line(descriptor: int, path: Path) -> None:
    """Make an open file end in a newline: complete a whole last object, cut a torn one."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    content = path.read_bytes()
    start = content.rfind(b"\n") + 1
    if _is_object(content[start:]):
        os.write(descriptor, b"\n")
    else:
        os.ftruncate(descriptor, start)
