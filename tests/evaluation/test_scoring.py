"""Scores, features and nearest training images on disk. Expected values: the planted features themselves, in NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evenhand.evaluation.scoring import (
    COPIES_FILE,
    FEATURES_FILE,
    PARTIAL_FOLDER,
    SCORES_FILE,
    curated_images,
    load_copies,
    load_features,
    score_images,
)
from evenhand.files import read_jsonl, sha256_file
from tests.folders import ARMS
from tests.planted_scores import DIMENSIONS, SCORER, PlantedFolder, pictures, portraits, unit, write_image
from tests.tiny_set import tiny_set

NUM_PROMPTS, NUM_SEEDS = 3, 5


def planted_folder(folder: Path) -> PlantedFolder:
    rng = np.random.default_rng(0)
    planted = PlantedFolder(folder, portraits(NUM_PROMPTS))
    for arm in ARMS:
        for prompt in planted.prompts:
            scores_N = rng.uniform(0.1, 0.9, NUM_SEEDS)
            look_ND = rng.normal(size=(NUM_SEEDS, DIMENSIONS))
            planted.add(
                arm, prompt["id"], pictures(planted.text(prompt["id"]), scores_N, look_ND), ["woman"] * NUM_SEEDS
            )
    return planted


def written(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in (SCORES_FILE, FEATURES_FILE) if (folder / name).is_file()}


def test_scores_are_the_cosines_that_were_planted(tmp_path: Path) -> None:
    planted = PlantedFolder(tmp_path, portraits(2))
    look_ND = np.random.default_rng(1).normal(size=(2, DIMENSIONS))
    for arm, scores in (("base", [0.25, 0.5]), ("adapted", [0.125, 0.75])):
        for prompt in planted.prompts:
            features_ND = pictures(planted.text(prompt["id"]), np.array(scores), look_ND)
            planted.add(arm, prompt["id"], features_ND, ["woman", "man"])
    assert planted.score() == 8
    found = [(row["arm"], row["image_text"]) for row in read_jsonl(tmp_path / SCORES_FILE)]
    assert found == [("base", 0.25), ("base", 0.5)] * 2 + [("adapted", 0.125), ("adapted", 0.75)] * 2
    assert {row["scorer"] for row in read_jsonl(tmp_path / SCORES_FILE)} == {SCORER}


def test_features_come_back_with_their_keys_in_the_order_of_the_plan(tmp_path: Path) -> None:
    planted = planted_folder(tmp_path)
    planted.score()
    rows = (tmp_path / "images.jsonl").read_text().splitlines()
    table = load_features(tmp_path)
    assert table is not None
    assert table.keys["base"] == tuple((prompt["id"], seed) for prompt in planted.prompts for seed in range(NUM_SEEDS))
    assert np.allclose(np.linalg.norm(table.images_ND["adapted"], axis=1), 1.0, atol=1e-6)
    before = written(tmp_path)
    # The order of the rows of images.jsonl, which several processes write, decides nothing.
    for name in (SCORES_FILE, FEATURES_FILE):
        (tmp_path / name).unlink()
    scorer = planted.scorer()
    (tmp_path / "images.jsonl").write_text("".join(row + "\n" for row in reversed(rows)))
    score_images(planted.plan, tmp_path, scorer, scorer_name=SCORER, batch_size=16)
    assert written(tmp_path) == before


def test_a_finished_scoring_is_not_done_again_and_a_changed_image_is(tmp_path: Path) -> None:
    planted = planted_folder(tmp_path)
    planted.score()
    assert planted.score() == 0
    planted.add(
        "base",
        planted.prompts[0]["id"],
        pictures(planted.text(planted.prompts[0]["id"]), np.array([0.5]), np.ones((1, DIMENSIONS))),
        ["man"],
    )
    assert planted.score() > 0
    assert read_jsonl(tmp_path / SCORES_FILE)[0]["image_text"] == 0.5  # the later row of seed 0


def test_a_killed_scoring_goes_on_and_writes_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = planted_folder(tmp_path / "whole"), planted_folder(tmp_path / "killed")
    whole.score(batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        score_images(killed.plan, killed.folder, killed.scorer(stop_after=13), scorer_name=SCORER, batch_size=4)
    assert load_features(killed.folder) is None
    assert killed.score(batch_size=4) == 2 * NUM_PROMPTS * NUM_SEEDS - 12
    assert written(killed.folder) == written(whole.folder)
    assert not (killed.folder / PARTIAL_FOLDER).exists()


def test_the_size_of_a_batch_changes_no_score(tmp_path: Path) -> None:
    one, many = planted_folder(tmp_path / "one"), planted_folder(tmp_path / "many")
    one.score(batch_size=1)
    many.score(batch_size=7)
    assert sha256_file(one.folder / SCORES_FILE) == sha256_file(many.folder / SCORES_FILE)


def test_a_missing_image_and_an_exchanged_one_are_refused(tmp_path: Path) -> None:
    planted = planted_folder(tmp_path)
    path = tmp_path / "images/base" / planted.prompts[0]["id"] / "0.png"
    write_image(path, 999)
    with pytest.raises(ValueError, match="0.png is not the image that was generated"):
        planted.score()
    path.unlink()
    with pytest.raises(ValueError, match="0.png is not the image that was generated"):
        planted.score()


def test_an_image_of_an_unknown_prompt_is_refused(tmp_path: Path) -> None:
    planted = planted_folder(tmp_path)
    planted.add("base", "nobody-00", np.eye(DIMENSIONS)[:1], ["man"])
    with pytest.raises(ValueError, match="the plan has no prompt nobody-00"):
        planted.score()


def test_the_nearest_training_image_and_its_relative_distance_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    planted = planted_folder(tmp_path)
    training_TD = unit(rng.normal(size=(6, DIMENSIONS)) + 1.0)
    planted.add_training(training_TD)
    planted.score()
    rows, table = load_copies(tmp_path), load_features(tmp_path)
    assert table is not None
    assert len(rows) == 2 * NUM_PROMPTS * NUM_SEEDS
    cosines_NT = np.concatenate([table.images_ND["base"], table.images_ND["adapted"]]) @ training_TD.T
    for row, cosines_T in zip(rows, cosines_NT, strict=True):
        distances_T = np.sort(1 - cosines_T)
        assert row.similarity == pytest.approx(cosines_T.max(), abs=2e-6)
        assert row.nearest == f"{cosines_T.argmax():04d}.png"
        assert row.relative_distance == pytest.approx(distances_T[0] / distances_T[1:].mean(), abs=2e-6)


def test_without_training_images_there_are_no_copies_and_old_ones_go(tmp_path: Path) -> None:
    planted = planted_folder(tmp_path)
    planted.add_training(np.eye(DIMENSIONS)[:2])
    planted.score()
    assert (tmp_path / COPIES_FILE).is_file()
    score_images(planted.plan, tmp_path, planted.scorer(), scorer_name=SCORER, batch_size=16)
    assert not (tmp_path / COPIES_FILE).exists()
    assert load_copies(tmp_path) == []


def test_a_picture_that_a_set_holds_twice_is_one_training_image(tmp_path: Path) -> None:
    """Else every image of a set that repeats its rows would have a next nearest one at distance zero."""
    planted = planted_folder(tmp_path)
    planted.add_training(np.eye(DIMENSIONS)[:3])
    (tmp_path / "set" / "0002.png").write_bytes((tmp_path / "set" / "0000.png").read_bytes())
    planted.score()
    assert {row.nearest for row in load_copies(tmp_path)} <= {"0000.png", "0001.png"}


def test_the_images_of_a_curated_set_are_those_of_its_training_rows(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "set")
    rows = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    assert curated_images(folder) == [folder / "train" / row["file_name"] for row in rows]
    assert curated_images(folder / "preserve") == sorted((folder / "preserve").glob("*.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no image in it"):
        curated_images(tmp_path / "empty")
    curated_images(folder)[0].unlink()
    with pytest.raises(ValueError, match="000000.png does not exist"):
        curated_images(folder)


def test_a_features_file_of_another_tool_is_refused_by_name(tmp_path: Path) -> None:
    planted = planted_folder(tmp_path)
    planted.score()
    from safetensors.numpy import save_file

    save_file({"base": np.zeros((1, 2), dtype=np.float32)}, tmp_path / FEATURES_FILE)
    with pytest.raises(ValueError, match="features.safetensors: not a features file"):
        load_features(tmp_path)
