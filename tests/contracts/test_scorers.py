"""Every scorer of conf/scorer through one suite of behaviour; a new YAML is tested without editing this file.

What a YAML loads from the hub is replaced by a tiny random model of the same class. What evenhand ships is tested as it
is, on pictures of its own world.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from evenhand.construct import build
from evenhand.interfaces import LoadedScorer, Scorer
from evenhand.paths import PACKAGED, conf_folder
from evenhand.tinytown.world import tinytown
from tests.tiny_readers import save_clip

CHOICES = sorted((conf_folder() / "scorer").glob("*.yaml"))
COMMIT = re.compile(r"[0-9a-f]{40}")
OWN = [path for path in CHOICES if PACKAGED in path.read_text()]
CONCEPTS = ("mechanic", "nurse", "judge", "ballet dancer", "car", "tree")
FIRST_SEED = 40_000_000


def nodes() -> list[Any]:
    """The nodes that make a scorer; one makes none."""
    found = [(path.stem, yaml.safe_load(path.read_text())) for path in CHOICES]
    return [pytest.param(node, id=name) for name, node in found if name != "none"]


def load(node: dict[str, Any], folder: Path) -> LoadedScorer:
    if not node["model"].startswith(PACKAGED):
        node = {**node, "model": str(save_clip(folder)), "revision": None}
    scorer: Scorer = build(node, key="scorer")
    return scorer.load(device=torch.device("cpu"))


def test_there_is_something_to_test() -> None:
    assert OWN
    assert len(nodes()) > len(OWN)


@pytest.mark.parametrize("node", nodes())
def test_a_scorer_names_its_licence_and_pins_what_it_loads(node: dict[str, Any]) -> None:
    scorer: Scorer = build(node, key="scorer")
    assert scorer.license
    assert node["model"].startswith(PACKAGED) or COMMIT.fullmatch(str(scorer.revision))


@pytest.mark.parametrize("node", nodes())
def test_images_and_texts_end_in_one_space_at_length_one(node: dict[str, Any], tmp_path: Path) -> None:
    scorer = load(node, tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, size=(3, 64, 64, 3), dtype=np.uint8)
    images_ND = scorer.image_features([Image.fromarray(pixels) for pixels in noise])
    texts_PD = scorer.text_features(["a tree", "a portrait of a nurse"])
    assert images_ND.dtype == texts_PD.dtype == np.float32
    assert images_ND.shape == (3, texts_PD.shape[1])
    for features in (images_ND, texts_PD):
        assert np.allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-6)
    assert re.fullmatch(r"[0-9a-f]{64}", scorer.fingerprint)
    assert scorer.num_cut(["a tree"]) == 0


def test_the_choice_of_none_makes_none() -> None:
    assert build(yaml.safe_load((conf_folder() / "scorer" / "none.yaml").read_text()), key="scorer") is None


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_the_own_scorer_finds_the_caption_of_a_new_picture(path: Path, tmp_path: Path) -> None:
    """Chance is 1 of 6; the pictures have seeds that no training saw."""
    world, scorer = tinytown(), load(yaml.safe_load(path.read_text()), tmp_path)
    template = {concept: world.templates(concept)[0] for concept in CONCEPTS}
    texts = [world.caption(concept, {}, template=template[concept]) for concept in CONCEPTS]
    images = [world.render(world.draw(concept, FIRST_SEED + seed)) for concept in CONCEPTS for seed in range(4)]
    picked = (scorer.image_features(images) @ scorer.text_features(texts).T).argmax(axis=1)
    assert (picked == np.repeat(np.arange(len(CONCEPTS)), 4)).mean() >= 0.9
