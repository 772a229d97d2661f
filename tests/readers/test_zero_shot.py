"""The zero-shot reader on tiny CLIP and SigLIP models, against the models' own forward pass; and tinytown's CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from evenhand.construct import build
from evenhand.paths import conf_folder, model_path
from evenhand.readers.zero_shot import LoadedZeroShot, Phrases, ZeroShot
from evenhand.tinytown.renders import HELDOUT_SEED
from evenhand.tinytown.world import tinytown
from tests.tiny_readers import save_classifier, save_clip, save_siglip

FAMILIES = {"clip": save_clip, "siglip": save_siglip}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def phrases(**changes: Any) -> Phrases:
    given: dict[str, Any] = {
        "templates": ("a photo of {}",),
        "nouns": (),
        "values": {"winter": ["snow"], "summer": ["a beach"]},
        "none_of_these": ("a person", "a cup"),
        "missing": "no place found",
    }
    return Phrases(**{**given, **changes})


def choice(folder: Path, season: Phrases, **changes: Any) -> ZeroShot:
    given: dict[str, Any] = {
        "name": "tiny",
        "model": str(folder),
        "revision": None,
        "license": "none",
        "validated_on": "nothing",
        "subjects": None,
        "phrases": {"season": season},
        "min_score": 0.0,
        "min_lead": 0.0,
    }
    return ZeroShot(**{**given, **changes})


def loaded(folder: Path, season: Phrases, **changes: Any) -> LoadedZeroShot:
    return choice(folder, season, **changes).load(device=torch.device("cpu"))


def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((50, 40)).convert("RGB")


def expected_scores(folder: Path, captions: list[str]) -> np.ndarray:
    """The scores of captions by the model's own forward pass: softmax for CLIP, sigmoid where there is a logit bias."""
    network = AutoModel.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=[picture()], return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(captions, padding="max_length", return_tensors="pt")
    is_siglip = hasattr(network, "logit_bias")
    mask = {} if is_siglip else {"attention_mask": tokens["attention_mask"]}
    with torch.no_grad():
        logits = network(input_ids=tokens["input_ids"], pixel_values=pixels["pixel_values"], **mask).logits_per_image
    return (logits.sigmoid() if is_siglip else logits.softmax(dim=1))[0].double().numpy()


def test_scores_are_those_of_the_models_own_forward_pass(folder: Path) -> None:
    (scores,) = loaded(folder, phrases()).scores([picture()])["season"]
    captions = ["a photo of snow", "a photo of a beach", "a photo of a person", "a photo of a cup"]
    assert [*scores.values, *scores.others] == pytest.approx(expected_scores(folder, captions), rel=1e-4, abs=1e-7)


def test_templates_are_averaged_as_features_of_length_one(folder: Path) -> None:
    """The expected score is computed from the encoded captions with numpy."""
    reader = loaded(folder, phrases(templates=("a photo of {}", "{} as seen by a child"), none_of_these=()))
    (scores,) = reader.scores([picture()])["season"]
    network = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    def unit(features: Any) -> np.ndarray:
        array = features.pooler_output.double().numpy()
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    is_siglip = hasattr(network, "logit_bias")
    logits = []
    with torch.no_grad():
        image = unit(network.get_image_features(**processor(images=[picture()], return_tensors="pt")))[0]
        for phrase in ("snow", "a beach"):
            captions = [f"a photo of {phrase}", f"{phrase} as seen by a child"]
            tokens = tokenizer(captions, padding="max_length", return_tensors="pt")
            mask = {} if is_siglip else {"attention_mask": tokens["attention_mask"]}
            mean = unit(network.get_text_features(input_ids=tokens["input_ids"], **mask)).mean(axis=0)
            logits.append(float(image @ mean / np.linalg.norm(mean) * np.exp(network.logit_scale.item())))
    if is_siglip:
        expected = 1 / (1 + np.exp(-(np.array(logits) + network.logit_bias.item())))
    else:
        expected = np.exp(logits) / np.exp(logits).sum()
    assert scores.values == pytest.approx(expected, rel=1e-3)


def test_where_another_phrase_fits_best_nothing_is_read(folder: Path) -> None:
    """The best phrase is found by the forward pass; as a phrase of none it makes unread, as a value it is read."""
    names = ["snow", "a beach", "a person", "a cup"]
    scores = expected_scores(folder, [f"a photo of {name}" for name in names])
    best, second, *rest = (names[index] for index in np.argsort(-scores))
    outside = loaded(folder, phrases(values={"one": [second], "two": [rest[0]]}, none_of_these=(best,)))
    (reading,) = outside.read([picture()])[0]
    assert reading.value is None
    assert reading.unread is not None
    assert reading.unread.startswith(f"no place found ({best} ")
    assert reading.probs is not None
    inside = loaded(folder, phrases(values={"one": [second], "two": [best]}, none_of_these=tuple(rest)))
    assert inside.read([picture()])[0][0].value == "two"


def test_the_best_phrase_of_a_value_counts(folder: Path) -> None:
    """Expected: the largest of each value's scores by the forward pass, before the softmax or the sigmoid."""
    scores = expected_scores(folder, [f"a photo of {name}" for name in ("snow", "ice", "a beach", "the sun")])
    one, other = max(scores[:2]), max(scores[2:])
    reader = loaded(folder, phrases(values={"winter": ["snow", "ice"], "summer": ["a beach", "the sun"]}))
    (reading,) = reader.read([picture()])[0]
    assert reading.probs == pytest.approx((one / (one + other), other / (one + other)), rel=1e-3)


def test_nouns_are_put_into_every_phrase() -> None:
    season = phrases(nouns=("market", "park"), values={"winter": ["{} in snow"], "summer": ["{} in the Sun"]})
    assert [caption for group in season.captions() for caption in group] == [
        "a photo of market in snow",
        "a photo of park in snow",
        "a photo of market in the sun",
        "a photo of park in the sun",
        "a photo of a person",
        "a photo of a cup",
    ]


def test_a_low_score_and_a_small_lead_are_unread(folder: Path) -> None:
    season = phrases(none_of_these=())
    best = max(loaded(folder, season).scores([picture()])["season"][0].values)
    if best < 1 - 1e-6:
        strict = loaded(folder, season, min_score=best + 1e-7)
        assert strict.read([picture()])[0][0].unread == f"no place found (best score {best:.3f})"
    (reading,) = loaded(
        folder, phrases(values={"one": ["snow"], "two": ["snow"]}, none_of_these=()), min_lead=0.1
    ).read([picture()])[0]
    # Equal phrases score equally but for the last bit, which decides their order.
    assert reading.unread in ("undecided (one 0.50, two 0.50)", "undecided (two 0.50, one 0.50)")


def test_readings_do_not_depend_on_the_batch(folder: Path) -> None:
    reader = loaded(folder, phrases())
    images = [Image.radial_gradient("L").resize((40 + 9 * index, 50)).convert("RGB") for index in range(4)]
    together = reader.scores(images)["season"]
    for image, scores in zip(images, together, strict=True):
        (alone,) = reader.scores([image])["season"]
        assert alone.values == pytest.approx(scores.values, rel=1e-3, abs=1e-9)
    assert reader.read([]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {"winter": ["snow", "ice"], "summer": ["a beach"]}}, "equally many phrases"),
        ({"values": {"winter": ["snow"]}}, "needs two or more"),
        ({"templates": ("a photo",)}, "templates needs one or more with one {} each"),
        ({"nouns": ("market",)}, "needs 1 {}"),
        ({"values": {"winter": ["{}"], "summer": ["{}"]}}, "needs 0 {}"),
    ],
)
def test_phrases_that_are_not_even_handed_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phrases(**changes)


def test_a_caption_that_the_model_cannot_read_whole_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="reads 150 tokens, but a caption has"):
        loaded(folder, phrases(values={"winter": ["snow " * 40], "summer": ["a beach"]}))


def test_a_model_that_compares_no_text_is_refused(tmp_path: Path, folder: Path) -> None:
    save_classifier(tmp_path, ("one", "two"))
    with pytest.raises(ValueError, match="is a ResNetModel, which compares no picture with text"):
        loaded(tmp_path, phrases())
    with pytest.raises(ValueError, match="min_score must be"):
        choice(folder, phrases(), min_score=1.0)


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    """A pickle runs code when it is opened."""
    save_clip(tmp_path)
    weights = AutoModel.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="reader tiny: cannot load"):
        loaded(tmp_path, phrases())


@pytest.fixture(scope="module")
def town() -> list[tuple[dict[str, str], dict[str, str | None]]]:
    """What held-out renders show, by the world's own answer, and what conf/reader/tinytown_clip.yaml says."""
    node = yaml.safe_load((conf_folder() / "reader" / "tinytown_clip.yaml").read_text())
    try:
        model_path(node["model"])
    except ValueError:
        pytest.skip(f"{node['model']} is not in this checkout: scripts/train_tinytown.py makes it")
    reader: ZeroShot = build(node, key="reader")
    world = tinytown()
    scenes = [world.sample_balanced(HELDOUT_SEED + 50_000 + number).scene for number in range(100)]
    readings = reader.load(device=torch.device("cpu")).read([world.render(scene) for scene in scenes])
    read = [{reading.attribute: reading.value for reading in entries} for entries in readings]
    return [(world.head_labels(scene), values) for scene, values in zip(scenes, read, strict=True)]


@pytest.mark.parametrize("attribute", ["occupation", "skin", "glasses", "season", "sauce"])
def test_the_clip_of_tinytown_reads_held_out_renders(
    town: list[tuple[dict[str, str], dict[str, str | None]]], attribute: str
) -> None:
    """Pictures that do not show the attribute are the control: they are unread."""
    shown = [(labels[attribute], read[attribute]) for labels, read in town if attribute in labels]
    absent = [read[attribute] for labels, read in town if attribute not in labels]
    assert len(shown) >= 4
    assert np.mean([truth == value for truth, value in shown]) >= 0.9
    assert np.mean([value is None for value in absent]) >= 0.9
