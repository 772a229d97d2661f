"""A set's certificate counted again, from the files alone, by anyone who has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from evenhand.captions.quotas import cell_shares
from evenhand.recipes.certificate import CERTIFICATE, read_certificate
from evenhand.recipes.claims import Claims, WantedCell, claims_of
from evenhand.recipes.counts import counted
from evenhand.recipes.stored import Form, open_set

NUM_SHOWN = 3
ROUNDING = 1e-4  # exact numbers are written with six decimals, shares as the nearest float
NOT_COUNTED = (
    "acceptance, skipped, filters, sources, consent and notes are of the build, not of the files; targets, word lists "
    "and held-out concepts are as the certificate states them"
)

Json = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a certificate says and that was counted again; ``text`` tells what was found."""

    name: str
    same: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """``confirmed``: every count is as the certificate says. ``passed``: counted again, the set keeps its promise."""

    form: Form
    findings: tuple[Finding, ...]
    confirmed: bool
    passed: bool


def verify(folder: Path) -> Verification:
    """Count a set again, in whichever form it lies in ``folder``, and compare with its certificate.

    The targets, word lists and held-out concepts are those that the certificate states; its quotas must follow from the
    targets. ValueError when there is no set or no certificate.
    """
    certificate = read_certificate(folder)
    stored = open_set(folder)
    claims = claims_of(certificate, where=folder / CERTIFICATE)
    counts = counted(claims, stored)
    missing = [key for key in counts if key not in certificate]
    if missing:
        raise ValueError(f"{folder / CERTIFICATE} lacks {', '.join(missing)}")
    findings = (
        _files(certificate["files"], counts["files"]),
        _targets(claims),
        *(
            Finding(name=name.replace("_", " "), same=certificate[name] == counts[name], text=told(certificate, counts))
            for name, told in _TOLD.items()
        ),
    )
    return Verification(
        form=stored.form,
        findings=findings,
        confirmed=all(finding.same for finding in findings),
        passed=counts["passed"],
    )


def _files(known: Mapping[str, str], found: Mapping[str, str]) -> Finding:
    """Every file's sha256, one by one, so that the one that changed is named."""
    wrong = [
        f"{name} {'is gone' if name not in found else 'is new' if name not in known else 'has other bytes'}"
        for name in sorted({*known, *found})
        if known.get(name) != found.get(name)
    ]
    same = len(known.keys() & found.keys()) - sum("other bytes" in line for line in wrong)
    more = f" and {len(wrong) - NUM_SHOWN} more" if len(wrong) > NUM_SHOWN else ""
    text = f"{same} of {len(known)} files have the sha256 of the certificate"
    return Finding(name="files", same=not wrong, text="; ".join([text, *wrong[:NUM_SHOWN]]) + more)


def _targets(claims: Claims) -> Finding:
    """Whether every cell's exact number and quota are what the targets make of the concept's number of images."""
    concepts: dict[str, list[WantedCell]] = {}
    for cell in claims.cells:
        concepts.setdefault(cell.concept, []).append(cell)
    shares = cell_shares(claims.attributes, claims.targets, list(concepts))
    wrong = [
        f"{cell.concept}, {', '.join(cell.labels.values())}: the targets give {float(share * number):.6g}, not "
        f"{cell.wanted:.6g} (quota {cell.quota})"
        for concept, cells in concepts.items()
        for number in [sum(cell.quota for cell in cells)]
        for cell, share in zip(cells, shares.get(concept, [Fraction(0)] * len(cells)), strict=True)
        if abs(cell.wanted - share * number) > ROUNDING or abs(cell.quota - share * number) >= 1
    ]
    text = f"{len(claims.cells) - len(wrong)} of {len(claims.cells)} quotas follow from the targets"
    return Finding(name="targets", same=not wrong, text="; ".join([text, *wrong[:NUM_SHOWN]]))


def _number(name: str) -> Callable[[Json, Json], str]:
    """Tells a number, and the certificate's where it is another one."""

    def tell(certificate: Json, counts: Json) -> str:
        said = "" if certificate[name] == counts[name] else f", the certificate says {certificate[name]}"
        return f"{counts[name]}{said}"

    return tell


def _list(name: str) -> Callable[[Json, Json], str]:
    """Tells how long a list is, its first entries that the certificate does not have, and how many that one has."""

    def tell(certificate: Json, counts: Json) -> str:
        known, found = certificate[name], counts[name]
        if known == found:
            return f"{len(found)}"
        new = islice((str(entry) for entry in found if entry not in known), NUM_SHOWN)
        return "; ".join([f"{len(found)}, the certificate says {len(known)}", *new])

    return tell


def _cells(certificate: Json, counts: Json) -> str:
    within = sum(abs(entry["count"] - entry["wanted"]) < 1 for entry in counts["cells"])
    text = f"{within} of {len(counts['cells'])} cells within one of their exact number"
    known = {_cell(entry): entry["count"] for entry in certificate["cells"]}
    other = [
        f"{', '.join(_cell(entry))}: {entry['count']}, the certificate says {known[_cell(entry)]}"
        for entry in counts["cells"]
        if known[_cell(entry)] != entry["count"]
    ]
    return "; ".join([text, *other[:NUM_SHOWN]])


def _cell(entry: Json) -> tuple[str, ...]:
    return (entry["concept"], *entry["labels"].values())


def _overall(_: Json, counts: Json) -> str:
    deviation = counts["largest_deviation"]["overall"]
    return f"largest distance from the exact number {deviation:.2f}, over {len(counts['overall'])} cells"


def _licenses(_: Json, counts: Json) -> str:
    return "; ".join(f"{name}: {number} rows" for name, number in counts["licenses"].items())


_TOLD: Mapping[str, Callable[[Json, Json], str]] = {
    "num_images": _number("num_images"),
    "num_preserve": _number("num_preserve"),
    "cells": _cells,
    "overall": _overall,
    "not_asked_for": _list("not_asked_for"),
    "leaks": _list("leaks"),
    "grammar": _list("grammar"),
    "duplicates": _list("duplicates"),
    "unreadable": _list("unreadable"),
    "licenses": _licenses,
    "passed": _number("passed"),
}
