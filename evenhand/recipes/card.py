"""The dataset card of a curated set, from its certificate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

CARD = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
BIGGEST = "n>1M"

Json = Mapping[str, Any]  # Any: JSON


def dataset_card(certificate: Json) -> str:
    """README.md: front matter that the hub and ``datasets`` read, then what the set holds and what it cannot tell."""
    attributes = ", ".join(certificate["attributes"])
    return "\n".join(
        [
            *_front_matter(certificate),
            "",
            f"# Curated set: {attributes}",
            "",
            f"{certificate['num_images']} images with neutral captions, in which the shares of perceived {attributes} "
            "follow a target for each concept. Made by evenhand to train a debiasing adapter.",
            "",
            f"- Images: {certificate['source']}. Seed {certificate['seed']}.",
            f"- Labels: {_labels(certificate)}",
            f"- Licence: {certificate['license']}",
            f"- Certificate: {_verdict(certificate)} Every file's sha256 is in `certificate.json`; of all of them: "
            f"`{certificate['sha256']}`.",
            "",
            *_table(certificate),
            "",
            *_acceptance(certificate),
            "## Use",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            'train = load_dataset("imagefolder", data_dir="<this folder>", split="train")',
            "```",
            "",
            "`train/` holds neutral captions. "
            + (
                f"`preserve/` holds {certificate['num_preserve']} images under explicit, unrelated and empty captions, "
                "on which an adapter is held to its base."
                if certificate["num_preserve"]
                else "There is no `preserve/` part."
            ),
            "",
            "## What it cannot tell",
            "",
            "Labels say how a picture looks to the reader named above, never what a person is. The set is a curated "
            "view: its shares are a choice, not a measurement of the world.",
            "",
        ]
    )


def _front_matter(certificate: Json) -> list[str]:
    license_text = certificate["license"]
    simple = re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", license_text) is not None
    name = re.sub(r"[^a-z0-9]+", "-", license_text.lower()).strip("-")
    size = next((label for limit, label in SIZES if certificate["num_images"] < limit), BIGGEST)
    configs = [("default", "train")] + ([("preserve", "preserve")] if certificate["num_preserve"] else [])
    return [
        "---",
        f"license: {license_text if simple else 'other'}",
        *([] if simple else [f"license_name: {name}"]),
        "task_categories: [text-to-image]",
        "tags: [evenhand, debiasing, curated]",
        f"size_categories: [{size}]",
        "configs:",
        *(
            line
            for config, part in configs
            for line in (
                f"  - config_name: {config}",
                "    data_files:",
                "      - split: train",
                f'        path: "{part}/**"',
            )
        ),
        "---",
    ]


def _labels(certificate: Json) -> str:
    reader = certificate["confirmed_by"]
    if reader is None:
        return "true by construction."
    return f"asked for in the prompt and confirmed by the reader `{reader}`; its errors are in them."


def _verdict(certificate: Json) -> str:
    deviation = certificate["largest_deviation"]
    return (
        f"{'passed' if certificate['passed'] else 'FAILED'}; largest distance from the target's exact count: "
        f"{deviation['per_concept']:.2f} images in a concept, {deviation['overall']:.2f} overall; "
        f"{len(certificate['leaks'])} leaks, {len(certificate['duplicates'])} groups of equal images."
    )


def _table(certificate: Json) -> list[str]:
    columns = [", ".join(entry["labels"].values()) for entry in certificate["overall"]]
    rows: dict[str, list[int]] = {}
    for entry in certificate["cells"]:
        rows.setdefault(entry["concept"], []).append(entry["count"])
    rows["all"] = [entry["count"] for entry in certificate["overall"]]
    return [
        "## Images per cell",
        "",
        "| concept | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {concept} | " + " | ".join(map(str, counts)) + " |" for concept, counts in rows.items()),
    ]


def _acceptance(certificate: Json) -> list[str]:
    entries: Sequence[Json] | None = certificate["acceptance"]
    if not entries:
        return []
    attempts = sum(entry["attempts"] for entry in entries)
    confirmed = sum(entry["confirmed"] for entry in entries)
    worst = min(entries, key=lambda entry: entry["rate"])
    return [
        "## Acceptance",
        "",
        f"The reader confirmed {confirmed} of {attempts} generated images. Lowest: {worst['concept']}, "
        f"{', '.join(worst['labels'].values())}, with {worst['confirmed']} of {worst['attempts']}. "
        "All cells are in `certificate.json`.",
        "",
    ]
