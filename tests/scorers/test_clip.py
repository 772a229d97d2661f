"""The CLIP scorer. Expected values: the model's own logits, and the pixels and tokens that its processor gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from evenhand.scorers.clip import ClipScorer, LoadedClipScorer
from tests.tiny_readers import save_classifier, save_clip, save_siglip

SAVERS = {"clip": save_clip, "siglip": save_siglip}
TEXTS = ["a portrait of a mechanic", "a tree", ""]


@pytest.fixture(scope="module", params=sorted(SAVERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of each kind, saved as the hub's are."""
    return SAVERS[request.param](tmp_path_factory.mktemp(request.param))


def load(folder: Path) -> LoadedClipScorer:
    scorer = ClipScorer(name="tiny", model=str(folder), revision=None, license="CC0-1.0")
    return scorer.load(device=torch.device("cpu"))


def squares(num: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, size=(48, 40, 3), dtype=np.uint8)) for _ in range(num)]


def test_cosines_are_those_of_the_models_own_logits(folder: Path) -> None:
    network = AutoModel.from_pretrained(folder).eval()
    images, scorer = squares(3), load(folder)
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=images, return_tensors="pt")
    max_length = network.config.text_config.max_position_embeddings
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=max_length, return_tensors="pt"
    )
    with torch.no_grad():
        logits = network(input_ids=tokens["input_ids"], **pixels).logits_per_image.double()
    bias = getattr(network, "logit_bias", torch.zeros(()))
    expected = ((logits - bias) / network.logit_scale.exp()).detach().numpy()
    cosines = scorer.image_features(images) @ scorer.text_features(TEXTS).T
    assert np.allclose(cosines, expected, atol=1e-5)


def test_features_have_length_one_and_do_not_depend_on_the_batch(folder: Path) -> None:
    images, scorer = squares(5), load(folder)
    whole = scorer.image_features(images)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1.0, atol=1e-6)
    assert np.allclose(whole, np.concatenate([scorer.image_features([image]) for image in images]), atol=1e-6)
    assert np.array_equal(whole, load(folder).image_features(images))
    assert np.allclose(
        scorer.text_features(TEXTS), np.concatenate([scorer.text_features([t]) for t in TEXTS]), atol=1e-6
    )


def test_grey_and_transparent_pictures_are_scored_as_they_look(folder: Path) -> None:
    scorer, image = load(folder), squares(1)[0]
    grey = image.convert("L")
    assert np.array_equal(scorer.image_features([grey]), scorer.image_features([grey.convert("RGB")]))


def test_a_text_that_is_too_long_is_counted_and_judged_by_its_beginning(folder: Path) -> None:
    scorer = load(folder)
    text = "a portrait of a mechanic " * 20
    assert scorer.num_cut([*TEXTS, text]) == 1
    assert scorer.text_features([text]).shape == scorer.text_features(TEXTS[:1]).shape


def test_the_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    same, other = save_clip(tmp_path / "same"), save_clip(tmp_path / "other")
    assert load(same).fingerprint == load(other).fingerprint
    network = AutoModel.from_pretrained(other)
    with torch.no_grad():
        network.visual_projection.weight[0, 0] += 1e-3
    network.save_pretrained(other)
    assert load(same).fingerprint != load(other).fingerprint


def test_a_model_that_is_no_clip_is_refused_with_what_would_be(tmp_path: Path) -> None:
    save_classifier(tmp_path, ("woman", "man"))
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    with pytest.raises(ValueError, match=f"is a {kind}, which has no features.*clip, siglip"):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scorer tiny: cannot load .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_scorer_without_a_licence_is_refused() -> None:
    with pytest.raises(ValueError, match="scorer tiny: license must name"):
        ClipScorer(name="tiny", model="somewhere", revision=None, license=" ")
