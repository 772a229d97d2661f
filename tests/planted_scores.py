"""Scored evaluation folders with known truth: the test plants every image's features, and a scorer looks them up.

An image's number is its colour, so what is tested reads real files. Letters: N images, D features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evenhand.evaluation.folder import ImageKey
from evenhand.evaluation.plan import Plan, load_plan
from evenhand.evaluation.scoring import score_images
from evenhand.files import sha256_file
from tests.folders import ARMS, plan_row, prompt_row

Floats = NDArray[np.float64]

DIMENSIONS = 64
SCORER = "planted"
MARGINS = {"image_text": 0.05, "diversity": 0.2, "near_duplicates": 0.05, "copies": 0.02}


class PlantedScorer:
    """Gives the features of images by their colour, and of texts by their words. ``calls`` counts images looked at."""

    def __init__(self, images_ND: Floats, texts: Mapping[str, Floats], *, stop_after: int | None = None) -> None:
        self.fingerprint = "0" * 64
        self.calls = 0
        self._images_ND = images_ND
        self._texts = texts
        self._stop_after = stop_after

    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        if self._stop_after is not None and self.calls + len(images) > self._stop_after:
            raise KeyboardInterrupt
        self.calls += len(images)
        numbers = [int(np.asarray(image)[0, 0].astype(int) @ [65536, 256, 1]) for image in images]
        return self._images_ND[numbers].astype(np.float32)

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._texts[text] for text in texts]).astype(np.float32)

    def num_cut(self, texts: Sequence[str]) -> int:
        return 0


def unit(features: Floats) -> Floats:
    result: Floats = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return result


def pictures(text_D: Floats, scores_N: Floats, look_ND: Floats) -> Floats:
    """Features whose cosine with the text is exactly ``scores_N``; what they look like besides is ``look_ND``."""
    beside_ND = unit(look_ND - (look_ND @ text_D)[:, None] * text_D)
    result: Floats = scores_N[:, None] * text_D + np.sqrt(1 - scores_N**2)[:, None] * beside_ND
    return result


def looks(rng: np.random.Generator, values: Sequence[str]) -> Floats:
    """What people look like: all alike, those of a value more so, and everyone a little different."""
    centres = {"woman": 0, "man": 1}
    look_ND = rng.normal(size=(len(values), DIMENSIONS)) * 0.15
    look_ND[:, -3] += 1.0
    for number, value in enumerate(values):
        look_ND[number, DIMENSIONS - 1 - centres[value]] += 1.0
    return look_ND


def text_of(number: int) -> Floats:
    """The features of the text of the prompt with this number: all at right angles."""
    features_D = np.zeros(DIMENSIONS)
    features_D[number] = 1.0
    return features_D


def portraits(num: int, *, suite: str = "heldout") -> list[dict[str, Any]]:
    """Neutral prompts of different concepts."""
    return [prompt_row(suite, f"concept {number:02d}") for number in range(num)]


def write_image(path: Path, number: int) -> str:
    """A picture of one colour, which is its number; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (number >> 16, number >> 8 & 255, number & 255)).save(path)
    return sha256_file(path)


class PlantedFolder:
    """An evaluation folder under construction. ``values`` is what a reader would say of each image."""

    def __init__(self, folder: Path, prompts: Sequence[Mapping[str, Any]], **plan: Any) -> None:
        self.folder = folder
        self.prompts = list(prompts)
        self.values: dict[ImageKey, str | None] = {}
        self._features: list[Floats] = []
        self._rows: list[dict[str, Any]] = []
        self._training: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(plan_row(prompts, **{"margins": MARGINS, **plan})))

    @property
    def plan(self) -> Plan:
        return load_plan(self.folder)

    def text(self, prompt_id: str) -> Floats:
        return text_of([prompt["id"] for prompt in self.prompts].index(prompt_id))

    def add(self, arm: str, prompt_id: str, features_ND: Floats, values: Sequence[str | None]) -> None:
        """Images of a prompt in an arm, with seeds 0, 1, ..."""
        for seed, (features_D, value) in enumerate(zip(features_ND, values, strict=True)):
            path = f"images/{arm}/{prompt_id}/{seed}.png"
            sha256 = write_image(self.folder / path, len(self._features))
            self._features.append(features_D)
            key = {"prompt_id": prompt_id, "seed": seed, "arm": arm}
            self._rows.append({**key, "path": path, "sha256": sha256, "noise_sha256": "0" * 64})
            self.values[arm, prompt_id, seed] = value

    def add_training(self, features_TD: Floats) -> None:
        """Training images."""
        for features_D in features_TD:
            path = self.folder / "set" / f"{len(self._training):04d}.png"
            write_image(path, len(self._features))
            self._features.append(features_D)
            self._training.append(path)

    def scorer(self, *, stop_after: int | None = None) -> PlantedScorer:
        texts = {prompt["text"]: self.text(prompt["id"]) for prompt in self.prompts}
        (self.folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self._rows))
        return PlantedScorer(np.stack(self._features), texts, stop_after=stop_after)

    def score(self, *, batch_size: int = 16) -> int:
        """Run the scoring; how many images it looked at."""
        training = self._training or None
        return score_images(
            self.plan, self.folder, self.scorer(), scorer_name=SCORER, batch_size=batch_size, training_images=training
        )


def both_arms(planted: PlantedFolder, prompt_id: str, features_ND: Floats, values: Sequence[str | None]) -> None:
    """The same images in both arms."""
    for arm in ARMS:
        planted.add(arm, prompt_id, features_ND, values)
