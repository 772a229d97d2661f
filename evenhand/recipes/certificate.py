"""What a curated set really holds, counted from its files, against what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evenhand.captions.quotas import Cell
from evenhand.files import read_jsonl, sha256_file, sha256_json
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import METADATA, PRESERVE, TRAIN, Origin
from evenhand.recipes.self_generated import ATTEMPTS

CERTIFICATE = "certificate.json"
VERSION = 1

Json = dict[str, Any]  # Any: JSON


def certify(folder: Path, plan: CuratedPlan, origin: Origin) -> Json:
    """The certificate of a set: counts against quotas, leaks, exact duplicates, hashes, acceptance per cell.

    ``passed`` says that each cell is within one of its quota, per concept and overall, without leak or duplicate.
    """
    rows = read_jsonl(folder / TRAIN / METADATA)
    preserve = read_jsonl(folder / PRESERVE / METADATA)
    names = [attribute.name for attribute in plan.attributes]
    counts = Counter((row["concept"], tuple(row["labels"][name] for name in names)) for row in rows)
    cells: list[Json] = [
        {
            "concept": concept.name,
            "labels": dict(zip(names, cell, strict=True)),
            "wanted": round(float(plan.exact[concept.name][position]), 6),
            "quota": plan.quotas[concept.name][position],
            "count": counts.pop((concept.name, cell), 0),
        }
        for concept in plan.concepts
        for position, cell in enumerate(plan.cells)
    ]
    overall = [_overall(names, cell, cells) for cell in plan.cells]
    leaks = plan.leaks([row["text"] for row in rows], [row["text"] for row in preserve])
    files = _hashes(folder)
    duplicates = _duplicates(files)
    deviations = {
        "per_concept": max(abs(entry["count"] - entry["wanted"]) for entry in cells),
        "overall": max(abs(entry["count"] - entry["wanted"]) for entry in overall),
    }
    within = max(deviations.values()) < 1 and not counts
    return {
        "version": VERSION,
        "passed": within and not leaks and not duplicates,
        **asdict(origin),
        "seed": plan.seed,
        "num_images": len(rows),
        "num_preserve": len(preserve),
        "attributes": {attribute.name: list(attribute.values) for attribute in plan.attributes},
        "targets": [asdict(target) for target in plan.targets],
        "heldout": [concept.name for concept in plan.heldout],
        "largest_deviation": deviations,
        "not_asked_for": [{"concept": concept, "cell": list(cell)} for concept, cell in sorted(counts)],
        "cells": cells,
        "overall": overall,
        "leaks": [str(leak) for leak in leaks],
        "duplicates": duplicates,
        "acceptance": _acceptance(folder, plan),
        "sha256": sha256_json(sorted(files.items())),
        "files": files,
    }


def _overall(names: Sequence[str], cell: Cell, cells: Sequence[Json]) -> Json:
    labels = dict(zip(names, cell, strict=True))
    members = [entry for entry in cells if entry["labels"] == labels]
    sums = {key: round(sum(entry[key] for entry in members), 6) for key in ("wanted", "quota", "count")}
    return {"labels": labels, **sums}


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of the set's two parts, by its place in the set."""
    found = sorted(path for part in (TRAIN, PRESERVE) for path in (folder / part).glob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in found}


def _duplicates(files: dict[str, str]) -> list[list[str]]:
    """Training images with the same bytes, in groups."""
    by_hash: dict[str, list[str]] = {}
    for name, digest in files.items():
        if name.startswith(f"{TRAIN}/") and not name.endswith(METADATA):
            by_hash.setdefault(digest, []).append(name)
    return [names for names in by_hash.values() if len(names) > 1]


def _acceptance(folder: Path, plan: CuratedPlan) -> list[Json] | None:
    """Attempts, confirmed ones and reasons of refusal per cell; None where nothing was attempted (no reader)."""
    if not (folder / ATTEMPTS).is_file():
        return None
    outcomes: dict[tuple[str, Cell], list[str | None]] = {}
    for line in read_jsonl(folder / ATTEMPTS):
        for index, _, reason in line["attempts"]:
            slot = plan.slots[index]
            outcomes.setdefault((slot.concept, slot.cell), []).append(reason)
    names = [attribute.name for attribute in plan.attributes]
    return [
        {
            "concept": concept,
            "labels": dict(zip(names, cell, strict=True)),
            "attempts": len(reasons),
            "confirmed": reasons.count(None),
            "rate": round(reasons.count(None) / len(reasons), 4),
            "refused": dict(Counter(reason for reason in reasons if reason is not None).most_common()),
        }
        for (concept, cell), reasons in outcomes.items()
    ]
