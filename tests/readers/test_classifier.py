"""The classifier reader on a real tiny ResNet whose logits are a known function of the image's mean colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from evenhand.readers.classifier import Classifier, LoadedClassifier
from evenhand.records import SubjectReading

SIZE_PX = 32
ATTRIBUTES = {
    "kind": ["person", "group", "car"],
    "presentation": ["woman", "man"],
    "glasses": ["worn", "absent"],
    "subject": ["someone", "nobody"],
}
SHOWS = {
    "person": {"places": [""], "attributes": ["presentation", "glasses"]},
    "group": {"places": ["0.", "1."], "attributes": ["presentation", "subject"]},
}
# The logits of the model are shuffled against the declared order: only their names count.
LABELS = (
    "presentation=man",
    "kind=car",
    "kind=person",
    "1.presentation=woman",
    "glasses=worn",
    "glasses=absent",
    "kind=group",
    "presentation=woman",
    "0.presentation=woman",
    "0.presentation=man",
    "1.presentation=man",
    "0.subject=someone",
    "0.subject=nobody",
    "1.subject=nobody",
    "1.subject=someone",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose logits are its biases alone: tests set them."""
    where = tmp_path_factory.mktemp("reader")
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ResNetForImageClassification(config).save_pretrained(where)
    size = {"height": SIZE_PX, "width": SIZE_PX}
    ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(where)
    return where


def choice(folder: Path, **changes: Any) -> Classifier:
    settings: dict[str, Any] = {
        "name": "tiny",
        "model": str(folder),
        "revision": None,
        "license": "none",
        "validated_on": "nothing",
        "attributes": ATTRIBUTES,
        "gate": "kind",
        "shows": SHOWS,
        "missing": {
            "presentation": "no person found",
            "glasses": "no single person found",
            "subject": "nobody in this place",
        },
        "presence": {"subject": "nobody"},
        "min_energy": None,
        "min_lead": 0.2,
    }
    return Classifier(**{**settings, **changes})


def loaded(folder: Path, logits: dict[str, float], **changes: Any) -> LoadedClassifier:
    """A reader that sees ``logits`` in every image, somebody in each place, and zero for every other label."""
    logits = {"0.subject=someone": 5.0, "1.subject=someone": 5.0, **logits}
    reader = choice(folder, **changes).load(device=torch.device("cpu"))
    linear = reader._network.classifier[1]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([logits.get(label, 0.0) for label in LABELS]))
    return reader


def read(folder: Path, logits: dict[str, float], **changes: Any) -> list[SubjectReading]:
    return loaded(folder, logits, **changes).read([Image.new("RGB", (50, 40), (9, 9, 9))])[0]


def summary(readings: list[SubjectReading]) -> list[tuple[int, str, str | None]]:
    return [
        (reading.subject, reading.attribute, reading.value) for reading in readings if reading.attribute != "subject"
    ]


def test_one_person_is_read_in_the_heads_of_one_person(folder: Path) -> None:
    readings = read(folder, {"kind=person": 5, "presentation=man": 3, "glasses=worn": 2, "0.presentation=woman": 9})
    assert summary(readings) == [(0, "kind", "person"), (0, "presentation", "man"), (0, "glasses", "worn")]
    probability = torch.tensor([0.0, 3.0]).softmax(0)[1].item()
    assert readings[1].probs == pytest.approx((1 - probability, probability))


def test_a_group_has_a_subject_for_each_place(folder: Path) -> None:
    logits = {"kind=group": 5, "0.presentation=woman": 3, "1.presentation=man": 3, "presentation=woman": 9}
    readings = read(folder, logits)
    assert summary(readings) == [
        (0, "kind", "group"),
        (0, "presentation", "woman"),
        (0, "glasses", None),
        (1, "kind", "group"),
        (1, "presentation", "man"),
        (1, "glasses", None),
    ]
    assert readings[2].unread == "no single person found (kind: group)"


def test_an_empty_place_of_a_group_is_a_subject_that_is_not_read(folder: Path) -> None:
    logits = {"kind=group": 5, "0.presentation=woman": 3, "1.presentation=man": 3}
    readings = read(folder, {**logits, "1.subject=nobody": 9})
    values = {(reading.subject, reading.attribute): reading.value for reading in readings}
    assert (values[0, "presentation"], values[1, "presentation"]) == ("woman", None)
    reasons = {reading.unread for reading in readings if reading.subject == 1 and reading.attribute != "kind"}
    assert reasons == {"nobody in this place (subject: nobody)"}
    # Control: with somebody there, the same head is read.
    assert (1, "presentation", "man") in summary(read(folder, logits))


def test_nobody_is_read_from_a_car_however_sure_the_head_is(folder: Path) -> None:
    readings = read(folder, {"kind=car": 5, "presentation=woman": 20, "glasses=worn": 20})
    assert summary(readings) == [(0, "kind", "car"), (0, "presentation", None), (0, "glasses", None)]
    assert readings[1].unread == "no person found (kind: car)"


def test_a_small_lead_is_undecided_and_a_larger_one_is_read(folder: Path) -> None:
    """Logits 0.3 and 0 are probabilities 0.57 and 0.43, a lead of 0.15; 0.5 and 0 lead by 0.24."""
    undecided = read(folder, {"kind=person": 5, "presentation=woman": 0.3})[1]
    assert undecided.value is None
    assert undecided.unread == "undecided (woman 0.57, man 0.43)"
    assert read(folder, {"kind=person": 5, "presentation=woman": 0.5})[1].value == "woman"


def test_an_unclear_kind_shows_nobody(folder: Path) -> None:
    readings = read(folder, {"presentation=woman": 9})
    assert {reading.value for reading in readings} == {None}
    assert readings[1].unread is not None
    assert "undecided" in readings[1].unread


def test_a_picture_unlike_all_that_was_learnt_is_nobody_however_sure_the_softmax_is(folder: Path) -> None:
    """Logits 8, 0, 0 and 0, -8, -8 have the same softmax; log sum exp of them is 8.0007 and 0.0007, by hand."""
    high = {"kind=person": 8.0, "presentation=man": 9.0}
    low = {"kind=group": -8.0, "kind=car": -8.0, "presentation=man": 9.0}
    assert summary(read(folder, high, min_energy=6.5))[:2] == [(0, "kind", "person"), (0, "presentation", "man")]
    readings = read(folder, low, min_energy=6.5)
    assert {reading.value for reading in readings} == {None}
    assert readings[0].unread == "unlike what the reader has learnt (energy 0.0)"
    assert readings[0].probs == read(folder, low)[0].probs
    assert readings[1].unread == f"no person found (kind: {readings[0].unread})"
    # Control: without a bound, or with one that they reach, the same logits are read.
    for least in (None, 0.0):
        assert summary(read(folder, low, min_energy=least))[:2] == [(0, "kind", "person"), (0, "presentation", "man")]


def test_readings_do_not_depend_on_the_batch(folder: Path) -> None:
    reader = choice(folder).load(device=torch.device("cpu"))
    images = [Image.radial_gradient("L").resize((60 + index, 50)).convert("RGB") for index in range(5)]
    together = reader.head_probs(images)
    alone = [reader.head_probs([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys()
        assert all(one[head] == pytest.approx(other[head], abs=1e-5) for head in one)
    assert reader.read([]) == []


def test_values_that_the_model_does_not_have_are_refused_at_load(folder: Path) -> None:
    wrong = choice(folder, attributes={**ATTRIBUTES, "glasses": ["worn", "absent", "sun"]})
    with pytest.raises(ValueError, match=r"head 'glasses' .* declares \['worn', 'absent', 'sun'\]"):
        wrong.load(device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "sort"}, "gate 'sort' is no attribute"),
        ({"min_lead": 1.0}, "min_lead must be"),
        ({"missing": {"presentation": "no"}}, "missing must have a reason for each"),
        ({"shows": {"dog": SHOWS["person"]}}, "shows.dog must be a value of kind"),
        ({"shows": {"person": {"places": [""], "attributes": ["age"]}}}, "unknown attributes: .'age'."),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_loading(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        choice(folder, **changes)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reader tiny: cannot load"):
        choice(tmp_path / "nothing").load(device=torch.device("cpu"))
