"""What the face detector makes of CenterFace's maps, computed by hand; no model is needed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evenhand.readers.face_detector import (
    Face,
    FaceDetector,
    _candidates,
    _crop,
    _without_overlaps,
    looks_like_a_face,
)

# A face in a box of 100 x 120: eyes, nose, mouth.
CORNERS = np.array([[0.0, 0.0], [100.0, 120.0]])
LANDMARKS = np.array([[30.0, 45.0], [70.0, 45.0], [50.0, 70.0], [35.0, 95.0], [65.0, 95.0]])


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """The points turned around the middle of the box."""
    turn = np.exp(1j * np.deg2rad(degrees))
    moved = ((points - [50, 60]) @ [1, 1j]) * turn
    return np.stack([moved.real, moved.imag], axis=1) + np.array([50, 60])


def test_a_cell_of_the_maps_is_one_face_at_its_place() -> None:
    """Cell (row 5, column 3), 2 e^0 cells high and 3 cells wide at log sizes; offsets of a quarter and a half cell."""
    heat = np.zeros((1, 8, 8), dtype=np.float32)
    size, offset, landmark = (np.zeros((channels, 8, 8), dtype=np.float32) for channels in (2, 2, 10))
    heat[0, 5, 3] = 0.9
    size[:, 5, 3] = np.log(2), np.log(3)
    offset[:, 5, 3] = 0.25, 0.5
    landmark[:, 5, 3] = [0.4, 0.3, 0.4, 0.7, 0.6, 0.5, 0.8, 0.35, 0.8, 0.65]  # y, x of each point, in parts of the box
    (row,) = _candidates(heat, size, offset, landmark, min_score=0.5)
    top, left = (5 + 0.25 + 0.5) * 4 - 4, (3 + 0.5 + 0.5) * 4 - 6
    assert row[:5] == pytest.approx([0.9, left, top, left + 12, top + 8], abs=1e-5)
    assert row[5:9] == pytest.approx([left + 0.3 * 12, top + 0.4 * 8, left + 0.7 * 12, top + 0.4 * 8], abs=1e-5)
    assert len(_candidates(heat, size, offset, landmark, min_score=0.95)) == 0


def test_of_two_overlapping_faces_the_surer_one_stays() -> None:
    """The boxes 0-10 and 2-12 share 8 of 12 columns; 0-10 and 8-18 share 2 of 18."""
    rows = np.array([[0.6, 0, 0, 10, 10], [0.9, 2, 0, 12, 10], [0.7, 10, 0, 20, 10]], dtype=np.float64)
    assert [row[0] for row in _without_overlaps(rows)] == [0.9, 0.7]


@pytest.mark.parametrize("degrees", [0, 25, -25])
def test_a_face_is_one_also_when_it_is_tilted(degrees: float) -> None:
    assert looks_like_a_face(CORNERS, turned(LANDMARKS, degrees))


@pytest.mark.parametrize(
    "landmarks",
    [
        turned(LANDMARKS, 180),
        LANDMARKS[[1, 0, 2, 3, 4]],  # the eyes swapped
        LANDMARKS[[0, 1, 3, 2, 2]],  # the nose below the mouth
        LANDMARKS * np.array([0.1, 1.0]) + np.array([45, 0]),  # eyes beside each other, as in profile
        LANDMARKS + np.array([60, 0]),  # outside its box
    ],
    ids=["upside down", "eyes swapped", "nose below mouth", "profile", "outside"],
)
def test_what_lies_otherwise_is_no_face_to_read(landmarks: np.ndarray) -> None:
    assert not looks_like_a_face(CORNERS, landmarks)


def test_a_crop_is_a_square_with_the_face_in_its_middle() -> None:
    image = Image.new("RGB", (60, 60), "white")
    image.paste("red", (20, 25, 30, 45))
    face = Face(box=(20, 25, 30, 45), score=0.9, landmarks=(), unusable=None)
    crop = _crop(image, face)
    assert crop.size == (40, 40)
    assert crop.getpixel((20, 20)) == (255, 0, 0)
    assert crop.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("changes", [{"min_score": 0.0}, {"min_face_px": 0}, {"detect_px": 31}])
def test_settings_that_find_anything_are_refused(changes: dict[str, float]) -> None:
    given = {"model": "none", "sha256": "none", "min_score": 0.5, "min_face_px": 48, "detect_px": 640}
    with pytest.raises(ValueError, match="face detector:"):
        FaceDetector(**{**given, **changes})
