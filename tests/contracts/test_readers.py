"""Every reader of conf/reader through one suite of behaviour; a new YAML is tested without editing this file.

What a YAML loads from the hub is replaced by a tiny random model of the same classes; its phrases, questions, labels
and settings are its own.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from evenhand.construct import build
from evenhand.interfaces import LoadedReader, Reader
from evenhand.paths import PACKAGED, conf_folder, model_path
from tests.tiny_readers import save_chat, save_classifier, save_clip, save_siglip

CHOICES = sorted((conf_folder() / "reader").glob("*.yaml"))
OPEN = "???"
COMMIT = re.compile(r"[0-9a-f]{40}")


def node_of(path: Path) -> dict[str, Any]:
    """A YAML with what the user must choose filled in."""
    node = yaml.safe_load(path.read_text())
    filled = {"model": "somebody/some-model", "values": {"woman": ["Female"], "man": ["Male"]}}
    return {key: filled.get(key, "made up") if value == OPEN else value for key, value in node.items()}


def reader_of(path: Path) -> Reader:
    reader: Reader = build(node_of(path), key="reader")
    return reader


def installed(node: object) -> bool:
    """Whether the packages are there whose files the node names."""
    names = re.findall(r"package:(\w+)/", str(node))
    needed = {*names, *(("onnx", "onnxruntime") if names else ())}
    return all(importlib.util.find_spec(name) is not None for name in needed)


def on_this_machine(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The node with a tiny model in place of one from the hub."""
    model = node.get("model", "")
    if not model or model.startswith(PACKAGED):
        return node
    part = node["_target_"].rsplit(".", 1)[1]
    if part == "ImageClassification":
        save_classifier(folder, tuple(label for labels in node["values"].values() for label in labels))
    elif part == "Vqa":
        save_chat(folder)
    else:
        assert part == "ZeroShot", f"say how a tiny model of {part} is made"
        (save_siglip if "siglip" in model else save_clip)(folder)
    return {**node, "model": str(folder), "revision": None}


@pytest.fixture(scope="module", params=CHOICES, ids=lambda path: path.stem)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, LoadedReader]:
    node = node_of(request.param)
    if not installed(node):
        pytest.skip("the files of the extra `faces` are not installed (conf/reader/faces.yaml says how)")
    if node.get("model", "").startswith(PACKAGED):
        try:
            model_path(node["model"])
        except ValueError:
            pytest.skip(f"{node['model']} is not in this checkout: scripts/train_tinytown.py makes it")
    reader = build(on_this_machine(node, tmp_path_factory.mktemp("model")), key="reader")
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


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_a_reader_says_its_licence_its_revision_and_what_it_was_validated_on(path: Path) -> None:
    """A hub id is pinned to a commit, unless the user must choose the model."""
    node, reader = yaml.safe_load(path.read_text()), reader_of(path)
    assert reader.license
    assert reader.validated_on
    model = node.get("model", PACKAGED)
    if model != OPEN and not model.startswith(PACKAGED):
        assert reader.revision is not None
        assert COMMIT.fullmatch(reader.revision)


def test_there_is_a_reader_of_every_kind() -> None:
    """Control: a kind whose last YAML is lost would else pass by not being tested."""
    kinds = {node_of(path)["_target_"].rsplit(".", 1)[1] for path in CHOICES}
    assert {"Classifier", "ImageClassification", "ZeroShot", "Vqa", "Faces", "Planted"} <= kinds
