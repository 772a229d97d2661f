"""An evaluation folder in which every part of a report has something to show: drawn readings, painted images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.folders import plan_row, prompt_row, reading_row, write_folder

SKIN = ("light", "medium", "dark")
KINDS = ("person", "group", "car", "cat")
DOSE_SCALES = (0.25, 0.5, 0.75, 1.25)
NUM_SEEDS, DOSE_SEEDS, IMAGE_PX = 8, 4, 24
HELDOUT = ("mechanic", "nurse", "pilot", "baker", "judge", "cook")
# The chance of the first value: the base by prompt, alternating; the adapter has an even share.
BASE_SHARES = (0.05, 0.95)
COLORS = {"base": (150, 100, 50), "adapted": (20, 110, 140)}


def full_prompts() -> list[dict[str, Any]]:
    prompts = [prompt_row(suite, name) for suite in ("heldout", "train") for name in HELDOUT]
    prompts += [
        prompt_row("explicit", f"{name} {value}", expects={"presentation": value})
        for name in HELDOUT[:3]
        for value in ("woman", "man")
    ]
    prompts += [prompt_row("fixed", "pyladies", expects={"presentation": "woman"})]
    prompts += [prompt_row("unrelated", kind, expects={"kind": kind}) for kind in ("car", "cat")]
    return prompts + [prompt_row("groups", name, expects={"kind": "group"}) for name in ("meetup", "choir", "team")]


def full_plan(prompts: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    attributes = {"presentation": ("woman", "man"), "skin": SKIN, "kind": KINDS}
    seeds = {prompt["id"]: [1000 + index for index in range(NUM_SEEDS)] for prompt in prompts}
    margins = {"explicit": 0.05, "fixed": 0.02, "readable": 0.03, "unread": 0.05, "unrelated_similarity": 0.03}
    generation = {
        "seeds": seeds,
        "batch_size": 4,
        "steps": 20,
        "guidance": 7.5,
        "height_px": IMAGE_PX,
        "width_px": IMAGE_PX,
        "dtype": "float32",
        "device": "cpu",
        "base": "somebody/some-base",
        "base_fingerprint": "a1" * 32,
        "encoders_fingerprint": "b2" * 32,
        "adapter_sha256": "c3" * 32,
        "adapter_scale": 1.0,
    }
    return plan_row(
        prompts,
        attributes=[{"name": name, "values": list(values)} for name, values in attributes.items()],
        margins={**margins, "target": 0.10},
        guard_attributes=["kind"],
        reader="oracle",
        second_readers=["second"],
        joints=[["presentation", "skin"]],
        dose={"scales": list(DOSE_SCALES), "num_seeds": DOSE_SEEDS},
        suite={"name": "some_suite", "version": "3"},
        excluded=[{"prompt": {"id": "x", "text": "a portrait of a painter"}, "seeds": 4, "split": "train"}],
        generation=generation,
        **changes,
    )


def full_readings(prompts: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    arms = {"base": 0.0, "adapted": 1.0, **{f"adapted@{scale:g}": scale for scale in DOSE_SCALES}}
    for number, prompt in enumerate(prompts):
        base_share = BASE_SHARES[number % 2]
        for arm, scale in arms.items():
            if arm not in ("base", "adapted") and prompt["suite"] != "heldout":
                continue
            share = base_share + (0.5 - base_share) * min(scale, 1.0)
            for index in range(NUM_SEEDS if arm in ("base", "adapted") else DOSE_SEEDS):
                rows += _image_rows(prompt, arm, 1000 + index, share, rng)
    return rows


def _image_rows(
    prompt: Mapping[str, Any], arm: str, seed: int, share: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    key = (prompt["id"], seed, arm)
    expects, suite = prompt["expects"] or {}, prompt["suite"]
    kind = expects.get("kind", "person")
    rows = [reading_row(*key, kind, attribute="kind")]
    for subject in range(3 if suite == "groups" else 0 if suite == "unrelated" else 1):
        value: str | None = "woman" if rng.random() < share else "man"
        if "presentation" in expects and rng.random() < 0.9:
            value = expects["presentation"]
        if rng.random() < 0.03:
            value = None
        rows.append(reading_row(*key, value, subject=subject))
        rows.append(reading_row(*key, SKIN[rng.integers(3)], subject=subject, attribute="skin"))
        other = value if value is not None and rng.random() < 0.95 else "man"
        rows.append(reading_row(*key, other, subject=subject, reader="second"))
    return rows


def add_images(folder: Path) -> None:
    """One small image for each seed of both arms, in the arm's colour, and similarities of the unrelated ones."""
    plan = json.loads((folder / "plan.json").read_text())
    images, similarities = [], []
    for prompt in plan["prompts"]:
        for seed in plan["generation"]["seeds"][prompt["id"]]:
            for arm in plan["arms"]:
                path = f"images/{arm}/{prompt['id']}/{seed}.png".replace(" ", "_")
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (IMAGE_PX, IMAGE_PX), COLORS[arm]).save(folder / path)
                images.append({"prompt_id": prompt["id"], "seed": seed, "arm": arm, "path": path})
            if prompt["suite"] == "unrelated":
                value = 0.9 + 0.01 * (seed - 1000)
                row = {"prompt_id": prompt["id"], "seed": seed, "measure": "pixels", "value": value, "yardstick": 0.7}
                similarities.append(row)
    lines = [json.dumps({**row, "sha256": "", "noise_sha256": ""}) + "\n" for row in images]
    (folder / "images.jsonl").write_text("".join(lines))
    (folder / "similarities.jsonl").write_text("".join(json.dumps(row) + "\n" for row in similarities))


def full_folder(folder: Path, **changes: Any) -> Path:
    prompts = full_prompts()
    plan = full_plan(prompts, **changes)
    write_folder(folder, plan, full_readings(prompts, np.random.default_rng(0)))
    add_images(folder)
    return folder
