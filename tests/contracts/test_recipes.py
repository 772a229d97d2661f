"""What every recipe of conf/recipe keeps. A new YAML is tested without editing this file.

Recipes that generate are given a base that paints and a reader of its colours in place of their models; everything else
is as the YAML says, with fewer images.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.paths import conf_folder
from evenhand.recipes.certificate import certify
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.self_generated import SelfGenerated
from tests.painted import PaintedBase, PaintedReader

RECIPES = sorted(path.stem for path in (conf_folder() / "recipe").glob("*.yaml"))
CPU = torch.device("cpu")
FEW = ("suite.concepts.train=[mechanic,nurse,judge]", "recipe.plan.images_per_concept=6", "recipe.preserve.empty=1")


def recipe(name: str, *, seed: int = 0) -> Any:
    maker = build(compose_config("build", [f"recipe={name}", f"seed={seed}", *FEW]).plain["recipe"])
    if isinstance(maker, SelfGenerated):
        maker.base, maker.reader = PaintedBase(disobeys={("nurse", "man"): 0.5}), PaintedReader()
    return maker


def bytes_of(folder: Path, maker: Any) -> dict[str, bytes]:
    write_metadata(folder, list(maker.build(folder, device=CPU)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", RECIPES)
def test_quotas_are_met_nothing_leaks_and_the_number_of_images_is_told_beforehand(name: str, tmp_path: Path) -> None:
    maker = recipe(name)
    rows = list(maker.build(tmp_path, device=CPU))
    write_metadata(tmp_path, rows)
    assert len(rows) == maker.num_images
    assert all((tmp_path / row.file_name).is_file() for row in rows)
    certificate = certify(tmp_path, maker.plan, maker.origin)
    assert certificate["passed"]
    counts = Counter((row.concept, *row.labels.values()) for row in rows if row.file_name.startswith("train/"))
    assert set(counts.values()) == {3}  # six images of each of two values


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name: str, tmp_path: Path) -> None:
    first = bytes_of(tmp_path / "a", recipe(name))
    assert bytes_of(tmp_path / "b", recipe(name)) == first
    other = bytes_of(tmp_path / "c", recipe(name, seed=1))
    assert other["train/metadata.jsonl"] != first["train/metadata.jsonl"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_build_that_stopped_anywhere_goes_on_and_ends_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    whole = bytes_of(tmp_path / "whole", recipe(name))
    for number in (1, 9, 25):
        images = recipe(name).build(tmp_path / str(number), device=CPU)
        for _ in range(number):
            next(images)
        images.close()
        assert bytes_of(tmp_path / str(number), recipe(name)) == whole
