"""The guards over image scores with the shipped CLIP on pictures of tinytown's world, whose truth is its own scenes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from evenhand.analysis.quality import Quality, quality_estimates
from evenhand.compose import compose_config
from evenhand.evaluation.folder import ImageKey
from evenhand.evaluation.plan import load_plan
from evenhand.evaluation.scoring import curated_images, score_images
from evenhand.files import sha256_file
from evenhand.tinytown.world import tinytown
from tests.folders import ARMS, plan_row, prompt_row
from tests.planted_scores import MARGINS

CONCEPTS = ("mechanic", "nurse", "judge", "librarian", "soldier", "florist", "ceo", "artist")
NUM_SEEDS, NUM_TRAINING = 8, 24
BASE_WOMEN, ADAPTED_WOMEN = 2, 4

# concept, arm, values -> pictures
Painter = Callable[[str, str, Sequence[str]], Sequence[Image.Image]]


def person(concept: str, value: str, seed: int) -> Image.Image:
    world = tinytown()
    return world.render(world.draw(concept, seed, fixed={"presentation": value}))


def fresh(concept: str, arm: str, values: Sequence[str]) -> list[Image.Image]:
    """New people in every arm."""
    first = 50_000_000 + 1_000 * CONCEPTS.index(concept) + 100 * ARMS.index(arm)
    return [person(concept, value, first + number) for number, value in enumerate(values)]


def one_each(concept: str, arm: str, values: Sequence[str]) -> Sequence[Image.Image]:
    """One woman and one man, again and again."""
    pictures = fresh(concept, arm, values)
    return pictures if arm == "base" else [pictures[values.index(value)] for value in values]


def training(number: int) -> Image.Image:
    """A training picture: of women and men of these occupations by turns."""
    return person(CONCEPTS[number % len(CONCEPTS)], ("woman", "man")[number % 2], 60_000_000 + number)


def copycat(concept: str, arm: str, values: Sequence[str]) -> Sequence[Image.Image]:
    """Training pictures of the occupation, whatever is asked for."""
    if arm == "base":
        return fresh(concept, arm, values)
    mine = range(CONCEPTS.index(concept), NUM_TRAINING, len(CONCEPTS))
    return [training(mine[number % len(mine)]) for number in range(len(values))]


def other_occupation(concept: str, arm: str, values: Sequence[str]) -> Sequence[Image.Image]:
    """Every other picture shows somebody of the next occupation."""
    wrong = CONCEPTS[(CONCEPTS.index(concept) + 1) % len(CONCEPTS)]
    pairs = zip(fresh(concept, arm, values), fresh(wrong, arm, values), strict=True)
    return [pair[number % 2 if arm == "adapted" else 0] for number, pair in enumerate(pairs)]


def mixed(num_women: int) -> list[str]:
    return ["woman"] * num_women + ["man"] * (NUM_SEEDS - num_women)


def judged(folder: Path, painter: Painter) -> Quality:
    """Paint, score with the shipped CLIP, judge."""
    prompts = [prompt_row("heldout", concept) for concept in CONCEPTS]
    for prompt in prompts:
        prompt["text"] = f"a portrait of a {prompt['concept']}"
    (folder / "set").mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan_row(prompts, margins=MARGINS)))
    for number in range(NUM_TRAINING):
        training(number).save(folder / "set" / f"{number:02d}.png")
    rows: list[Mapping[str, object]] = []
    values: dict[ImageKey, str | None] = {}
    for arm, women in zip(ARMS, (BASE_WOMEN, ADAPTED_WOMEN), strict=True):
        for prompt in prompts:
            for seed, picture in enumerate(painter(prompt["concept"], arm, mixed(women))):
                path = f"images/{arm}/{prompt['id']}-{seed}.png"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                picture.save(folder / path)
                key = {"prompt_id": prompt["id"], "seed": seed, "arm": arm}
                rows.append({**key, "path": path, "sha256": sha256_file(folder / path), "noise_sha256": "0" * 64})
                values[arm, prompt["id"], seed] = mixed(women)[seed]
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = compose_config("program", ["+scorer=tinytown_clip"]).build("scorer").load(device=torch.device("cpu"))
    plan = load_plan(folder)
    score_images(
        plan, folder, scorer, scorer_name="clip", batch_size=32, training_images=curated_images(folder / "set")
    )
    return quality_estimates(plan, folder, values)


@pytest.mark.parametrize(
    ("painter", "failing"),
    [
        (fresh, set()),
        (one_each, {"diversity", "near_duplicates"}),
        (copycat, {"copies", "near_duplicates"}),
        (other_occupation, {"image_text"}),
    ],
    ids=["other people in another mix", "one of each", "copycat", "another occupation"],
)
def test_each_harm_fails_its_guards_and_no_others(tmp_path: Path, painter: Painter, failing: set[str]) -> None:
    found = judged(tmp_path, painter)
    assert {guard.name for guard in found.guards} == {"image_text", "diversity", "near_duplicates", "copies"}
    failed = {guard.name for guard in found.guards if not guard.passed}
    # Whoever shows three training pictures again and again may well fail diversity too.
    assert failed - {"diversity"} == failing - {"diversity"}
    if painter is not copycat:
        assert failed == failing
