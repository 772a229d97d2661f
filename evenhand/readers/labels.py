"""Labels in a CSV file as readings: of people who looked at the pictures, or of another tool.

A row names its picture in one of two ways: by ``prompt_id, seed, arm`` (and ``subject``, 0 where it is left out), or by
``sheet, picture`` of a blinded audit, whose key says which pictures those are. ``attribute`` and ``value`` follow. A
value is a declared one, or one of two answers that are none: the row is then a reading without a value, never dropped.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenhand.records import Reading

CANNOT_TELL = "cannot tell"
NOBODY = "nobody"
# What a reading says for the answers that are no value.
REASONS = {CANNOT_TELL: "cannot tell (by eye)", NOBODY: "nobody there (by eye)"}
OPEN_COLUMNS = ("prompt_id", "seed", "arm", "attribute", "value")
BLIND_COLUMNS = ("sheet", "picture", "attribute", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKey:
    """What a blinded sheet does not show: ``pictures`` maps a picture's number on it to prompt id, seed and arm."""

    sheet: str
    attribute: str
    values: tuple[str, ...]
    pictures: Mapping[str, tuple[str, int, str]]


def read_labels(
    path: Path, *, reader: str, attributes: Mapping[str, Sequence[str]], keys: Sequence[AuditKey]
) -> list[Reading]:
    """The rows of a CSV file as readings of ``reader``; ValueError names the line of one that is not right.

    ``attributes`` maps each attribute to its declared values; ``keys`` are of the audits that the file may be of.
    """
    if not path.is_file():
        raise ValueError(f"labels not found: {path}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = set(table.fieldnames or ())
        blind = set(BLIND_COLUMNS) <= columns
        if not blind and not set(OPEN_COLUMNS) <= columns:
            raise ValueError(
                f"{path}: needs the columns {', '.join(OPEN_COLUMNS)}, or those of an audit sheet "
                f"({', '.join(BLIND_COLUMNS)}), got {', '.join(table.fieldnames or ['none'])}"
            )
        readings = list(_readings(table, path, blind, reader, attributes, {key.sheet: key for key in keys}))
    if not readings:
        raise ValueError(f"{path}: no labels in it")
    return readings


def _readings(
    table: csv.DictReader[str],
    path: Path,
    blind: bool,
    reader: str,
    attributes: Mapping[str, Sequence[str]],
    keys: Mapping[str, AuditKey],
) -> Iterator[Reading]:
    seen: dict[tuple[object, ...], int] = {}
    for row in table:
        where = f"{path} line {table.line_num}"
        (prompt_id, seed, arm), subject = _blind_picture(row, keys, where) if blind else _open_picture(row, where)
        attribute, value = (row["attribute"] or "").strip(), (row["value"] or "").strip()
        if attribute not in attributes:
            raise ValueError(f"{where}: unknown attribute {attribute!r}; there are {', '.join(attributes)}")
        declared = attributes[attribute]
        if value not in declared and value not in REASONS:
            raise ValueError(f"{where}: unknown value {value!r}; choose one of {', '.join([*declared, *REASONS])}")
        place = (prompt_id, seed, arm, subject, attribute)
        if place in seen:
            raise ValueError(f"{where}: the same picture, subject and attribute stand in line {seen[place]}")
        seen[place] = table.line_num
        yield Reading(
            prompt_id=prompt_id,
            seed=seed,
            arm=arm,
            subject=subject,
            reader=reader,
            attribute=attribute,
            value=value if value in declared else None,
            probs=None,
            unread=None if value in declared else REASONS[value],
        )


def _open_picture(row: Mapping[str, str | None], where: str) -> tuple[tuple[str, int, str], int]:
    try:
        return (row["prompt_id"] or "", int(row["seed"] or ""), row["arm"] or ""), int(row.get("subject") or 0)
    except ValueError as error:
        raise ValueError(f"{where}: seed and subject must be whole numbers: {error}") from error


def _blind_picture(
    row: Mapping[str, str | None], keys: Mapping[str, AuditKey], where: str
) -> tuple[tuple[str, int, str], int]:
    sheet, picture = row["sheet"] or "", row["picture"] or ""
    if sheet not in keys:
        raise ValueError(f"{where}: sheet {sheet!r} is not of this run; its sheets are {', '.join(keys) or 'none'}")
    if picture not in keys[sheet].pictures:
        raise ValueError(f"{where}: sheet {sheet} has no picture {picture!r}")
    return keys[sheet].pictures[picture], 0
