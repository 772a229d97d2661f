"""The plain classifier reader on a real tiny ResNet whose logits the tests set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evenhand.readers.image_classification import ImageClassification, LoadedImageClassification
from evenhand.readers.subjects import Subject
from tests.tiny_readers import save_classifier

LABELS = ("Boy", "dog", "Woman", "Man", "Girl")
PICTURE = Image.new("RGB", (40, 50), (9, 9, 9))


class EachHalf:
    """A finder whose subjects are the halves of a picture, the right one too dark to read where it is black."""

    def load(self, *, device: torch.device) -> EachHalf:
        return self

    def subjects(self, image: Image.Image) -> list[Subject]:
        halves = [image.crop((0, 0, image.width // 2, image.height)), image.crop((image.width // 2, 0, *image.size))]
        return [
            Subject(picture=None, unread="too dark") if not half.getbbox() else Subject(picture=half, unread=None)
            for half in halves
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"), LABELS)


def choice(folder: Path, **changes: Any) -> ImageClassification:
    given: dict[str, Any] = {
        "name": "tiny",
        "model": str(folder),
        "revision": None,
        "license": "none",
        "validated_on": "nothing",
        "subjects": None,
        "attribute": "presentation",
        "values": {"woman": ["Woman", "Girl"], "man": ["Man", "Boy"]},
        "min_lead": 0.2,
    }
    return ImageClassification(**{**given, **changes})


def seeing(folder: Path, logits: dict[str, float], **changes: Any) -> LoadedImageClassification:
    """A reader that sees these logits in every picture, and zero for every other label."""
    reader = choice(folder, **changes).load(device=torch.device("cpu"))
    with torch.no_grad():
        reader._network.classifier[1].bias.copy_(torch.tensor([logits.get(label, 0.0) for label in LABELS]))
    return reader


def test_labels_of_one_value_are_added_and_others_left_out(folder: Path) -> None:
    """Woman and girl are e^2 + 1 of e^2 + 3 (the dog's 1 is in neither value)."""
    (reading,) = seeing(folder, {"Woman": 2.0}).read([PICTURE])[0]
    woman = torch.e**2 + 1
    assert reading.value == "woman"
    assert reading.probs == pytest.approx((woman / (woman + 2), 2 / (woman + 2)))


def test_a_label_that_means_no_value_makes_unread(folder: Path) -> None:
    (reading,) = seeing(folder, {"dog": 3.0, "Woman": 1.0}).read([PICTURE])[0]
    assert reading.value is None
    assert str(reading.unread).startswith("none of the values (dog 0.")


def test_a_small_lead_is_undecided(folder: Path) -> None:
    (reading,) = seeing(folder, {"Woman": 0.1}).read([PICTURE])[0]
    assert str(reading.unread).startswith("undecided (woman 0.5")


def test_each_found_subject_is_read_and_one_that_cannot_be_is_not(folder: Path) -> None:
    half_black = Image.new("RGB", (40, 50))
    half_black.paste((200, 200, 200), (0, 0, 20, 50))
    reader = seeing(folder, {"Man": 4.0}, subjects=EachHalf())
    both, one = reader.read([PICTURE, half_black])
    assert [(reading.subject, reading.value) for reading in both] == [(0, "man"), (1, "man")]
    assert [(reading.subject, reading.value, reading.unread) for reading in one] == [
        (0, "man", None),
        (1, None, "too dark"),
    ]


def test_a_label_that_the_model_does_not_have_is_refused_at_load(folder: Path) -> None:
    wrong = choice(folder, values={"woman": ["Female"], "man": ["Man"]})
    with pytest.raises(ValueError, match="has no label 'Female' .* its labels are Boy, Girl, Man, Woman, dog"):
        wrong.load(device=torch.device("cpu"))


@pytest.mark.parametrize(
    "values", [{"woman": ["Woman"]}, {"woman": ["Woman"], "man": []}, {"woman": ["Woman"], "man": ["Woman"]}]
)
def test_values_that_are_no_partition_of_labels_are_refused(folder: Path, values: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="values must map two values or more"):
        choice(folder, values=values)
