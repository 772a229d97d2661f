"""Every reader of conf/reader through one suite of behaviour; a new YAML is tested without editing this file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from evenhand.compose import build
from evenhand.interfaces import LoadedReader, Reader
from evenhand.paths import PACKAGED, conf_folder, model_path

CHOICES = sorted((conf_folder() / "reader").glob("*.yaml"))


def reader_of(path: Path) -> Reader:
    reader: Reader = build(yaml.safe_load(path.read_text()), key="reader")
    return reader


@pytest.fixture(scope="module", params=CHOICES, ids=lambda path: path.stem)
def both(request: pytest.FixtureRequest) -> tuple[Reader, LoadedReader]:
    node = yaml.safe_load(request.param.read_text())
    model = node.get("model", "")
    if model.startswith(PACKAGED):
        try:
            model_path(model)
        except ValueError:
            pytest.skip(f"{model} is not in this checkout: scripts/train_tinytown.py makes it")
    elif model and not Path(model).exists():
        pytest.skip(f"{model} is not on this machine")
    reader = reader_of(request.param)
    return reader, reader.load(device=torch.device("cpu"))


def pictures() -> list[Image.Image]:
    """What may come: a blank page, noise, a tall picture, a planted colour, a grey-scale one."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    plain = [Image.new("RGB", size, color) for size, color in (((64, 64), "white"), ((40, 90), (200, 60, 60)))]
    return [plain[0], noise, plain[1], Image.new("RGB", (64, 64), (60, 60, 200)), Image.new("L", (64, 64), 80)]


def test_every_image_has_every_attribute_for_every_subject_once(both: tuple[Reader, LoadedReader]) -> None:
    reader, loaded = both
    for readings in loaded.read(pictures()):
        subjects = sorted({reading.subject for reading in readings})
        assert subjects == list(range(len(subjects)))
        assert subjects
        assert [(reading.subject, reading.attribute) for reading in readings] == [
            (subject, name) for subject in subjects for name in reader.attributes
        ]


def test_values_are_declared_and_what_is_unread_has_a_reason(both: tuple[Reader, LoadedReader]) -> None:
    reader, loaded = both
    for reading in (reading for readings in loaded.read(pictures()) for reading in readings):
        if reading.value is None:
            assert reading.unread
        else:
            assert reading.value in reader.attributes[reading.attribute]
        if reading.probs is not None:
            assert len(reading.probs) == len(reader.attributes[reading.attribute])
            assert sum(reading.probs) == pytest.approx(1.0)


def test_order_and_batch_do_not_change_a_reading(both: tuple[Reader, LoadedReader]) -> None:
    _, loaded = both
    images = pictures()
    together = loaded.read(images)
    backwards = loaded.read(images[::-1])[::-1]
    alone = [loaded.read([image])[0] for image in images]
    for one, other, third in zip(together, backwards, alone, strict=True):
        assert [(reading.attribute, reading.value) for reading in one] == [
            (reading.attribute, reading.value) for reading in other
        ]
        for left, right in zip(one, third, strict=True):
            assert left.value == right.value
            assert (left.probs is None) == (right.probs is None)
            if left.probs is not None and right.probs is not None:
                assert left.probs == pytest.approx(right.probs, abs=1e-4)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_declared_attributes_have_two_values_or_more(path: Path) -> None:
    reader = reader_of(path)
    assert reader.name == path.stem
    assert all(len(set(values)) == len(values) >= 2 for values in reader.attributes.values())
