"""Evaluation folders with known truth: readings drawn from shares that the test chooses, with no image and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ATTRIBUTE = "presentation"
VALUES = ("woman", "man")
ARMS = ("base", "adapted")


def prompt_row(
    suite: str, concept: str, *, number: int = 0, expects: Mapping[str, str] | None = None
) -> dict[str, Any]:
    text = f"a portrait of a {concept}, wording {number}"
    return {
        "id": f"{suite}-{concept}-{number:02d}",
        "text": text,
        "concept": concept,
        "suite": suite,
        "expects": expects,
    }


def plan_row(prompts: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """A plan as another tool would write it: only the keys of the file format."""
    return {
        "version": 1,
        "alpha": 0.05,
        "paired": True,
        "arms": list(ARMS),
        "primary": {"attribute": ATTRIBUTE, "suite": prompts[0]["suite"]},
        "attributes": [{"name": ATTRIBUTE, "values": list(VALUES)}],
        "targets": [{"attribute": ATTRIBUTE, "concept": "*", "shares": [0.5, 0.5], "source": "uniform"}],
        "prompts": list(prompts),
        "margins": {"explicit": 0.05, "fixed": 0.02, "unrelated_similarity": 0.03, "target": 0.10},
        **changes,
    }


def reading_row(
    prompt_id: str,
    seed: int,
    arm: str,
    value: str | None,
    *,
    subject: int = 0,
    attribute: str = ATTRIBUTE,
    reader: str = "oracle",
) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id,
        "seed": seed,
        "arm": arm,
        "subject": subject,
        "reader": reader,
        "attribute": attribute,
        "value": value,
        "probs": None,
        "unread": None if value is not None else "no person found",
    }


def drawn_readings(
    prompts: Sequence[Mapping[str, Any]],
    shares: Mapping[str, Mapping[str, float]],
    *,
    num_seeds: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Readings of VALUES; ``shares[arm][prompt id]`` is the chance of the first. Both arms use the seed's own draw."""
    rows = []
    for prompt in prompts:
        draws = rng.random(num_seeds)
        for arm in ARMS:
            for seed, draw in enumerate(draws):
                value = VALUES[0] if draw < shares[arm][prompt["id"]] else VALUES[1]
                rows.append(reading_row(prompt["id"], seed, arm, value))
    return rows


def write_folder(folder: Path, plan: Mapping[str, Any], readings: Sequence[Mapping[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "readings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in readings))
    return folder
