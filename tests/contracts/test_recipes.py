"""What every recipe of conf/recipe keeps. A new YAML is tested without editing this file.

Recipes that generate are given a base that paints and a reader of its colours in place of their models; everything else
is as the YAML says, with fewer images. A recipe with a value for the user to choose is tested where its source is.
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
from evenhand.processes import OneProcess, Ranks
from evenhand.recipes.certificate import certify
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.self_generated import SelfGenerated
from tests.painted import PaintedBase, PaintedReader
from tests.rank_threads import on_ranks

TO_CHOOSE = "???"
CPU = torch.device("cpu")
ALONE = OneProcess()
FEW = ("suite.concepts.train=[mechanic,nurse,judge]", "recipe.plan.images_per_concept=6")
FEW_PRESERVED = ("recipe.preserve.empty=1",)


def node_of(name: str, *overrides: str) -> dict[str, Any]:
    return compose_config("build", [f"recipe={name}", *overrides]).plain["recipe"]


RECIPES = sorted(
    path.stem for path in (conf_folder() / "recipe").glob("*.yaml") if TO_CHOOSE not in str(node_of(path.stem))
)
WITH_IMAGES = [name for name in RECIPES if node_of(name)["preserve"] is not None]


def recipe(name: str, *, seed: int = 0) -> Any:
    preserved = FEW_PRESERVED if name in WITH_IMAGES else ()
    maker = build(node_of(name, f"seed={seed}", *FEW, *preserved))
    if isinstance(maker, SelfGenerated):
        maker.base, maker.readers = PaintedBase(disobeys={("nurse", "man"): 0.5}), (PaintedReader(),)
    return maker


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def bytes_of(folder: Path, maker: Any) -> dict[str, bytes]:
    write_metadata(folder, list(maker.build(folder, device=CPU, ranks=ALONE)))
    return contents(folder)


def test_there_is_something_to_test() -> None:
    assert {"sd_self", "tinytown_renders", "tinytown_self"} <= set(WITH_IMAGES)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_quotas_are_met_nothing_leaks_and_the_number_of_images_is_told_beforehand(name: str, tmp_path: Path) -> None:
    maker = recipe(name)
    maker.check(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    rows = list(maker.build(tmp_path, device=CPU, ranks=ALONE))
    write_metadata(tmp_path, rows)
    assert len(rows) == maker.num_images
    assert all((tmp_path / row.file_name).is_file() for row in rows)
    certificate = certify(tmp_path, maker.plan, maker.origin, maker.account(tmp_path))
    assert certificate["passed"]
    counts = Counter((row.concept, *row.labels.values()) for row in rows if row.file_name.startswith("train/"))
    assert set(counts.values()) == {3}  # six images of each of two values


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name: str, tmp_path: Path) -> None:
    first = bytes_of(tmp_path / "a", recipe(name))
    assert bytes_of(tmp_path / "b", recipe(name)) == first
    other = bytes_of(tmp_path / "c", recipe(name, seed=1))
    (rows,) = [file for file in first if file in ("train/metadata.jsonl", "train/captions.jsonl")]
    assert other[rows] != first[rows]


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_ranks_share_the_work_and_make_the_bytes_that_one_makes(name: str, num_ranks: int, tmp_path: Path) -> None:
    recipes = [recipe(name) for _ in range(num_ranks)]  # composed before: Hydra is one for all threads

    def share(ranks: Ranks) -> list[Any]:
        return list(recipes[ranks.rank].build(tmp_path / "shared", device=CPU, ranks=ranks))

    shares = on_ranks(num_ranks, share)
    write_metadata(tmp_path / "shared", [row for rows in shares for row in rows])
    assert contents(tmp_path / "shared") == bytes_of(tmp_path / "alone", recipe(name))
    if name in WITH_IMAGES:
        assert all(shares)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_a_build_that_stopped_anywhere_goes_on_and_ends_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    whole = bytes_of(tmp_path / "whole", recipe(name))
    for number in (1, 9, 25):
        images = recipe(name).build(tmp_path / str(number), device=CPU, ranks=ALONE)
        for _ in range(number):
            next(images)
        images.close()
        assert bytes_of(tmp_path / str(number), recipe(name)) == whole
