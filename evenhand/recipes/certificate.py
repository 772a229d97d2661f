"""A set's certificate: what was asked for, what its files really hold, and how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evenhand.files import read_json
from evenhand.hygiene.people import people_record
from evenhand.recipes.claims import claims_of_plan
from evenhand.recipes.counts import counted
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import Origin
from evenhand.recipes.report import BuildAccount, CellAccount
from evenhand.recipes.stored import open_set

CERTIFICATE = "certificate.json"
VERSION = 2

Json = dict[str, Any]  # Any: JSON


def certify(folder: Path, plan: CuratedPlan, origin: Origin, account: BuildAccount | None = None) -> Json:
    """The certificate of a set that was built, counted from its files (`evenhand.recipes.counts.counted`).

    What cannot be counted from them, attempts and what was left out, is as the recipe's ``account`` tells it.
    """
    told = BuildAccount() if account is None else account
    claims = claims_of_plan(plan, license=origin.license, max_repeats=told.max_repeats)
    counts = counted(claims, open_set(folder))
    return {
        "version": VERSION,
        "passed": counts.pop("passed"),
        **asdict(origin),
        "sources": _sources(plan, origin, told),
        "people": people_record(told.depicts, told.consent),
        "seed": plan.seed,
        **claims.as_json(),
        "left_alone": [concept.name for concept in plan.left_alone],
        **{key: value for key, value in counts.items() if key not in ("sha256", "files")},
        "acceptance": None if told.acceptance is None else [_acceptance(cell) for cell in told.acceptance],
        "skipped": {
            reason: {"number": items.number, "keys": list(items.keys)} for reason, items in told.skipped.items()
        },
        "filters": dict(told.filters),
        "notes": list(told.notes),
        "sha256": counts["sha256"],
        "files": counts["files"],
    }


def _sources(plan: CuratedPlan, origin: Origin, told: BuildAccount) -> dict[str, str]:
    """The licence of everything that the set was made from, the list of its concepts included."""
    listed = plan.concept_list
    concepts = {} if listed is None else {f"concept list {listed.name}": listed.license}
    return {**(told.sources or {origin.source: origin.license}), **concepts}


def read_certificate(folder: Path) -> Json:
    """A set's certificate; ValueError when there is none, or none that this version can count again."""
    path = folder / CERTIFICATE
    certificate: Json = read_json(path)
    found = certificate.get("version") if isinstance(certificate, dict) else None
    if found != VERSION:
        raise ValueError(
            f"{path} has version {found!r}, and this evenhand reads version {VERSION}: build the set again, or use the "
            "evenhand that built it"
        )
    return certificate


def _acceptance(cell: CellAccount) -> Mapping[str, Any]:  # Any: JSON
    return {
        "concept": cell.concept,
        "labels": dict(cell.labels),
        "attempts": cell.attempts,
        "confirmed": cell.confirmed,
        "rate": round(cell.rate, 4),
        "disagreed": cell.disagreed,
        "refused": dict(cell.refused),
    }
