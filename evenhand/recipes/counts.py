"""What the files of a curated set really hold: counts per cell, leaks, grammar, duplicates, licences, hashes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from evenhand.captions.check import grammar_problems
from evenhand.captions.leaks import attribute_leaks, heldout_leaks
from evenhand.files import sha256_json
from evenhand.hygiene.duplicates import duplicate_groups, near_duplicate_groups
from evenhand.hygiene.images import ImageLimits, Refused, check_image
from evenhand.recipes.claims import Claims
from evenhand.recipes.curated_set import PRESERVE, TRAIN
from evenhand.recipes.stored import FILE_NAME, StoredPart, StoredSet

# Of 64 bits: a picture made smaller, brighter or stored again as JPEG differs in a few, another one in about 32.
NEAR_DISTANCE = 4
NUM_GROUPS_LISTED = 20
FILES_AT_ONCE, NUM_THREADS = 64, 8  # bound what is in memory, whatever the number of cores
# What a set of ours may hold at most; its own limits were kept when it was built.
LIMITS = ImageLimits(min_side_px=1, max_pixels=100_000_000, max_aspect=1000.0, max_bytes=1 << 30)

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """A file of a set: sha256 of its bytes, and the perceptual hash of its picture or why there is none."""

    name: str
    sha256: str
    phash: int | None
    problem: str | None


def counted(claims: Claims, stored: StoredSet) -> Json:
    """Everything of a certificate that can be counted from a set's files, of whatever form, against its claims.

    ``passed`` says that each cell is within one of its quota, per concept and overall, that no caption leaks or has a
    mistake of grammar, that no picture is in ``train/`` more often than it may be, and that every picture is there and
    can be read. Near duplicates are listed and fail nothing: whether they are too near, only a person can say.
    """
    rows = stored.rows(TRAIN)
    captions = [row["text"] for row in rows]
    everything = list(dict.fromkeys([*captions, *(row["text"] for row in stored.rows(PRESERVE))]))
    cells, not_asked_for = _cells(claims, rows)
    overall = _overall(cells)
    deviations = {
        "per_concept": max((abs(entry["count"] - entry["wanted"]) for entry in cells), default=0.0),
        "overall": max((abs(entry["count"] - entry["wanted"]) for entry in overall), default=0.0),
    }
    leaks = [
        *attribute_leaks(list(dict.fromkeys(captions)), claims.attributes),
        *heldout_leaks(everything, claims.heldout),
    ]
    grammar = grammar_problems(filter(None, everything), concepts=claims.concepts, english=claims.english)
    read = {name: _read_files(part) for name, part in stored.parts.items()}
    problems = [problem for name, part in stored.parts.items() for problem in _problems(part, read[name])]
    images = {f"{TRAIN}/{file.name}": file for file in read.get(TRAIN, [])}
    duplicates = [
        group
        for group in duplicate_groups({name: file.sha256 for name, file in images.items()})
        if len(group) > claims.max_repeats
    ]
    files = _files(stored, read)
    within = max(deviations.values()) < 1 and not not_asked_for
    return {
        "passed": within and not leaks and not grammar and not duplicates and not problems and bool(rows),
        "holds": "images" if all(part.has_images for part in stored.parts.values()) else "captions",
        "num_images": len(rows),
        "num_preserve": len(stored.rows(PRESERVE)),
        "largest_deviation": deviations,
        "not_asked_for": not_asked_for,
        "cells": cells,
        "overall": overall,
        "leaks": [str(leak) for leak in leaks],
        "grammar": [str(problem) for problem in grammar],
        "duplicates": duplicates,
        "near_duplicates": _near_duplicates(images),
        "unreadable": problems,
        "licenses": _licenses(claims, stored),
        "sha256": sha256_json(sorted(files.items())),
        "files": files,
    }


def _cells(claims: Claims, rows: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """The wanted cells with their counts, and the cells that nobody asked for."""
    names = [attribute.name for attribute in claims.attributes]
    counts = Counter((row["concept"], *(row["labels"].get(name) for name in names)) for row in rows)
    cells = [
        {
            "concept": cell.concept,
            "labels": dict(cell.labels),
            "wanted": cell.wanted,
            "quota": cell.quota,
            "count": counts.pop((cell.concept, *(cell.labels[name] for name in names)), 0),
        }
        for cell in claims.cells
    ]
    others = [{"concept": concept, "cell": list(cell)} for concept, *cell in sorted(counts, key=str)]
    return cells, others


def _overall(cells: Sequence[Json]) -> list[Json]:
    """The cells over all concepts, in the order in which they come first."""
    sums: dict[tuple[str, ...], Json] = {}
    for entry in cells:
        total = sums.setdefault(
            tuple(entry["labels"].values()), {"labels": entry["labels"], "wanted": 0.0, "quota": 0, "count": 0}
        )
        for key in ("wanted", "quota", "count"):
            total[key] += entry[key]
    return [{**total, "wanted": round(total["wanted"], 6)} for total in sums.values()]


def _read_files(part: StoredPart) -> list[ReadFile]:
    """Every file of a part but its text, read once; only a few are in memory at a time."""
    images = {row[FILE_NAME] for row in part.rows} if part.has_images else set()
    read: list[ReadFile] = []
    files = part.files()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        while some := list(islice(files, FILES_AT_ONCE)):
            read += pool.map(lambda file: _read_file(*file, is_image=file[0] in images), some)
    return read


def _read_file(name: str, read: Callable[[], bytes], *, is_image: bool) -> ReadFile:
    content = read()
    sha256 = hashlib.sha256(content).hexdigest()
    if not is_image:
        return ReadFile(name=name, sha256=sha256, phash=None, problem="no row names it")
    try:
        phash = check_image(content, LIMITS, name=name).phash
    except Refused as refused:
        return ReadFile(name=name, sha256=sha256, phash=None, problem=refused.reason)
    return ReadFile(name=name, sha256=sha256, phash=phash, problem=None)


def _problems(part: StoredPart, read: Sequence[ReadFile]) -> Iterator[str]:
    """What is wrong with a part's files: not there, twice, not to be read, of no row."""
    if not part.has_images:
        return
    there = {file.name for file in read}
    named = Counter(row[FILE_NAME] for row in part.rows)
    for name, times in named.items():
        if name not in there:
            yield f"{part.name}/{name}: not there"
        if times > 1:
            yield f"{part.name}/{name}: {times} rows name it"
    yield from (f"{part.name}/{file.name}: {file.problem}" for file in read if file.problem is not None)


def _near_duplicates(images: Mapping[str, ReadFile]) -> Json:
    """Pictures in ``train/`` that look alike, those that are equal aside."""
    different = {file.sha256: name for name, file in reversed(list(images.items()))}
    phashes = {name: file.phash for name, file in images.items() if different[file.sha256] == name}
    groups = near_duplicate_groups(
        {name: phash for name, phash in phashes.items() if phash is not None}, max_distance=NEAR_DISTANCE
    )
    return {
        "max_distance": NEAR_DISTANCE,
        "num_groups": len(groups),
        "num_images": sum(len(group) for group in groups),
        "groups": groups[:NUM_GROUPS_LISTED],
    }


def _licenses(claims: Claims, stored: StoredSet) -> dict[str, int]:
    """How many rows are under each licence, the most frequent first."""
    rows = [row for part in stored.parts for row in stored.rows(part)]
    found = Counter(row.get("license", claims.license) for row in rows)
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], str(entry[0]))))


def _files(stored: StoredSet, read: Mapping[str, Sequence[ReadFile]]) -> dict[str, str]:
    """sha256 of every file of the set's parts by its place in an image folder, whatever the set's form."""
    found: dict[str, str] = {}
    for name, part in stored.parts.items():
        found[f"{name}/{part.text_name}"] = part.text_sha256
        found.update({f"{name}/{file.name}": file.sha256 for file in read[name]})
    return dict(sorted(found.items()))
