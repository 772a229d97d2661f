"""The dataset card of a curated set, from its certificate.

Format of the card's YAML head: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from evenhand.captions.quotas import JOINT

CARD = "README.md"
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
BIGGEST = "10M<n<100M"
# Licences of data that the hub knows by name; what it does not know it refuses, so any other is `other` with a name.
# https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENSE = re.compile(
    r"apache-2\.0|mit|openrail(\+\+)?|creativeml-openrail-m|bigscience-openrail-m|cc|cc0-1\.0|cc-by-(2\.0|2\.5|3\.0|4\.0)"
    r"|cc-by-sa-[34]\.0|cc-by-nc-[234]\.0|cc-by(-nc)?-nd-4\.0|cc-by-nc-sa-4\.0|cdla-permissive-2\.0|odbl|odc-by|pddl"
    r"|unlicense|unknown"
)
MOST_CONCEPTS = 50
MOST_LISTED = 5
DATA_FILES = {"imagefolder": "**", "parquet": "*.parquet", "webdataset": "*.tar"}
# Control characters, and those that turn the direction of what follows; the joiners of emoji and scripts are kept.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MARKUP = re.compile(r"([\\`*_\[\]|~#])")

Json = Mapping[str, Any]  # Any: JSON


def dataset_card(certificate: Json, *, form: str = "imagefolder") -> str:
    """README.md: front matter that the hub and ``datasets`` read, then what the set holds and what it cannot tell.

    ``form`` is that of the files beside it (`evenhand.recipes.stored`). Names that users gave are shown as they are
    and never as markup.
    """
    import yaml

    head = yaml.safe_dump(_head(certificate, form), sort_keys=False, allow_unicode=True, width=100)
    sections = {
        "Certificate": _certificate(certificate),
        f"{_what(certificate).capitalize()} per cell": _table(certificate),
        "Left alone": _left_alone(certificate),
        "Targets": _targets(certificate),
        "Acceptance": _acceptance(certificate),
        "Left out": _left_out(certificate),
        "Licence": _license(certificate),
        "People": _people(certificate),
        "Use": _use(certificate, form),
        "What it cannot tell": _limits(certificate),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"---\n{head}---\n\n# {_title(certificate)}\n\n{_summary(certificate)}\n\n{body}\n"


def plain(text: object) -> str:
    """A name or sentence as Markdown shows it, on one line, with nothing in it taken for markup or HTML."""
    line = " ".join(UNSEEN.sub(" ", str(text)).split())
    return MARKUP.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _head(certificate: Json, form: str) -> dict[str, Any]:  # Any: YAML
    licenses = list(certificate["licenses"]) or [certificate["license"]]
    name = licenses[0] if len(licenses) == 1 else "several, see below"
    head: dict[str, Any] = {"pretty_name": _title(certificate)}  # Any: YAML
    if HUB_LICENSE.fullmatch(name):
        head["license"] = name
    else:
        head |= {"license": "other", "license_name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "other"}
    size = next((label for limit, label in SIZES if certificate["num_images"] < limit), BIGGEST)
    head |= {
        "annotations_creators": ["machine-generated"],
        "task_categories": ["text-to-image"],
        "tags": ["evenhand", "debiasing", "curated"],
        "size_categories": [size],
    }
    if set(certificate["vocabulary"]["languages"]) == {"english"}:
        head["language"] = ["en"]
    parts = [("default", "train")] + ([("preserve", "preserve")] if certificate["num_preserve"] else [])
    pattern = DATA_FILES[form]
    if form == "imagefolder" and certificate["holds"] == "captions":
        pattern = "captions.jsonl"
    head["configs"] = [
        {"config_name": config, "data_files": [{"split": "train", "path": f"{part}/{pattern}"}]}
        for config, part in parts
    ]
    return head


def _what(certificate: Json) -> str:
    return str(certificate["holds"])


def _title(certificate: Json) -> str:
    return f"Curated set: {', '.join(plain(name) for name in certificate['attributes'])}"


def _summary(certificate: Json) -> str:
    attributes = ", ".join(plain(name) for name in certificate["attributes"])
    held = "images with neutral captions" if certificate["holds"] == "images" else "neutral captions without images"
    return (
        f"{certificate['num_images']} {held}, in which the shares of perceived {attributes} follow a target for each "
        "concept. Made by evenhand to train a debiasing adapter.\n\n"
        f"- {_what(certificate).capitalize()}: {_sources(certificate)}. Seed {certificate['seed']}.\n"
        f"- Labels: {_labels(certificate)}"
    )


def _sources(certificate: Json) -> str:
    return "; ".join(f"{plain(name)} ({plain(license)})" for name, license in certificate["sources"].items())


def _labels(certificate: Json) -> str:
    reader = certificate["confirmed_by"]
    if reader is None:
        return "true by construction, or as the source gives them; no reader confirmed them."
    return f"confirmed by the reader {plain(reader)}; its errors are in them."


def _certificate(certificate: Json) -> str:
    deviation, near = certificate["largest_deviation"], certificate["near_duplicates"]
    rows = {
        "verdict": "passed" if certificate["passed"] else "**FAILED**",
        "largest distance from the exact count": f"{deviation['per_concept']:.2f} in a concept, "
        f"{deviation['overall']:.2f} overall (within one is exact)",
        "cells that nobody asked for": len(certificate["not_asked_for"]),
        "captions that leak": _listed(certificate["leaks"]),
        "captions with mistakes of grammar": _listed(certificate["grammar"]),
        "pictures that are in it too often": _groups(len(certificate["duplicates"]), certificate),
        "pictures that look alike": f"{near['num_images']} in {near['num_groups']} groups "
        f"(perceptual hashes within {near['max_distance']} of 64 bits)",
        "files that are missing or cannot be read": _listed(certificate["unreadable"]),
        "sha256 of all files' sha256": f"`{certificate['sha256']}`",
    }
    if certificate["holds"] == "captions":
        rows = {name: value for name, value in rows.items() if "pictures" not in name}
    return (
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
        + "\n\nCounted from the files; all cells and every file's sha256 are in `certificate.json`. "
        "`evenhand data_recipes/verify set=<this folder>` counts again."
    )


def _groups(number: int, certificate: Json) -> str:
    most = certificate["max_repeats"]
    return f"{number}" + (f" (each may be in it {most} times)" if most > 1 else "")


def _listed(problems: Sequence[str]) -> str:
    shown = "; ".join(plain(problem) for problem in problems[:MOST_LISTED])
    return f"{len(problems)}" + (f": {shown}" + ("; ..." if len(problems) > MOST_LISTED else "") if problems else "")


def _table(certificate: Json) -> str:
    columns = [", ".join(plain(value) for value in entry["labels"].values()) for entry in certificate["overall"]]
    rows: dict[str, list[str]] = {}
    for entry in certificate["cells"]:
        rows.setdefault(plain(entry["concept"]), []).append(str(entry["count"]))
    shown = list(rows.items())[:MOST_CONCEPTS]
    if len(rows) > len(shown):
        shown.append((f"{len(rows) - len(shown)} more in certificate.json", [""] * len(columns)))
    shown.append(("all", [str(entry["count"]) for entry in certificate["overall"]]))
    return _markdown_table(["concept", *columns], [[concept, *counts] for concept, counts in shown])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _left_alone(certificate: Json) -> str:
    names = certificate["left_alone"]
    if not names:
        return ""
    return (
        f"To stay as the base has them: {', '.join(plain(name) for name in names)}. They have no quota, and nothing is "
        "certified of them."
    )


def _targets(certificate: Json) -> str:
    shown = certificate["targets"][:MOST_CONCEPTS]
    every = "every other concept" if len(certificate["targets"]) > 1 else "every concept"
    lines = [
        f"- {plain(target['attribute'])}, {every if target['concept'] == '*' else plain(target['concept'])}: "
        f"{_shares(target, certificate['attributes'])} ({'; '.join(_origin(target))})"
        for target in shown
    ]
    if len(certificate["targets"]) > len(shown):
        lines.append(f"- {len(certificate['targets']) - len(shown)} more in `certificate.json`")
    return "\n".join(lines)


def _shares(target: Json, attributes: Mapping[str, Sequence[str]]) -> str:
    """A share with the values that it is for: of a joint target, one of each attribute."""
    if not target["shares"]:
        return "as the base has it"
    names = target["attribute"].split(JOINT)
    cells = product(*(attributes[name] for name in names))
    return ", ".join(
        f"{plain(' '.join(cell))} {share:.3g}" for cell, share in zip(cells, target["shares"], strict=True)
    )


def _origin(target: Json) -> Iterator[str]:
    yield plain(target["source"])
    yield from (plain(target[key]) for key in ("year", "population") if target.get(key) is not None)


def _acceptance(certificate: Json) -> str:
    entries: Sequence[Json] | None = certificate["acceptance"]
    if not entries:
        return ""
    attempts = sum(entry["attempts"] for entry in entries)
    confirmed = sum(entry["confirmed"] for entry in entries)
    disagreed = sum(entry["disagreed"] for entry in entries)
    worst = min(entries, key=lambda entry: entry["rate"])
    return (
        f"{confirmed} of {attempts} generated images were confirmed. Lowest: {plain(worst['concept'])}, "
        f"{', '.join(plain(value) for value in worst['labels'].values())}, with {worst['confirmed']} of "
        f"{worst['attempts']}."
        + (f" The readers disagreed in {disagreed} of {attempts} attempts." if disagreed else "")
        + " All cells are in `certificate.json`."
    )


def _left_out(certificate: Json) -> str:
    skipped = [f"- {plain(reason)}: {entry['number']}" for reason, entry in certificate["skipped"].items()]
    filters = [f"- by the filter {plain(name)}: {number}" for name, number in certificate["filters"].items()]
    notes = [f"- {plain(note)}" for note in certificate["notes"]]
    return "\n".join(skipped + filters + notes)


def _license(certificate: Json) -> str:
    rows = [[plain(license), str(number)] for license, number in certificate["licenses"].items()]
    return "Each row names its own, in the column `license`.\n\n" + _markdown_table(["licence", "rows"], rows)


def _people(certificate: Json) -> str:
    if certificate["holds"] == "captions":
        return ""
    people = certificate["people"]
    consent = f" Used by this consent: {plain(people['consent'])}." if people["consent"] else ""
    return f"{plain(people['note'])}{consent}\n\n{plain(people['readers_limits'])}"


def _use(certificate: Json, form: str) -> str:
    place = '"<this folder or repository>"'
    if form == "imagefolder" and certificate["holds"] == "images":
        place = '"imagefolder", data_dir="<this folder>"'
    preserve = (
        f"`preserve/` holds {certificate['num_preserve']} {_what(certificate)} under explicit, unrelated and empty "
        "captions, on which an adapter is held to its base."
        if certificate["num_preserve"]
        else "There is no `preserve/` part."
    )
    code = f'from datasets import load_dataset\n\ntrain = load_dataset({place}, split="train")'
    return f"```python\n{code}\n```\n\n`train/` holds neutral captions. {preserve}"


def _limits(certificate: Json) -> str:
    return (
        "Labels say how a picture looks to whoever or whatever labelled it, never what a person is. The set is a "
        "curated view: its shares are a choice, not a measurement of the world. The certificate counts the set's own "
        "labels; whether another reader sees the same, `evenhand data_recipes/audit` measures."
    )
