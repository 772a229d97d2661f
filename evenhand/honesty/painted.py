"""Painted evaluations: pictures whose value, concept and individuality are planted, and readers that see just these.

A picture is 16 x 16 px: the colour of its value, the pattern of its concept, and a pattern of its own. So the truth is
known, and files, hashes, readers, scores and guards are the real ones. Letters: N images, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evenhand.analysis.results import Results, analyse_folder
from evenhand.evaluation.folder import IMAGES_FILE, image_path
from evenhand.evaluation.plan import GenerationPlan, Plan, freeze_plan
from evenhand.evaluation.reading import read_images
from evenhand.evaluation.scoring import score_images
from evenhand.files import sha256_file, sha256_json, write_jsonl_atomic
from evenhand.honesty.folders import ARMS, TWO, Floats, Labels, plan_of, prompts
from evenhand.readers.planted import Planted
from evenhand.records import ImageRecord, Prompt
from evenhand.seeds import derive

IMAGE_PX, GRID = 16, 4
COLORS = {TWO[0]: (165, 110, 110), TWO[1]: (110, 110, 165)}
GREY, CONCEPT_CONTRAST, OWN_CONTRAST = 128.0, 35.0, 30.0
NUM_PROMPTS, NUM_SEEDS = 16, 8
MARGINS = {"target": 0.10, "image_text": 0.05, "diversity": 0.20, "near_duplicates": 0.05, "copies": 0.02}
READER, SCORER = "planted", "planted_scorer"


def pattern(seed: int, contrast: float) -> Floats:
    """A pattern (4, 4, 3) that leaves every channel's mean, so it says nothing of the value."""
    grid = np.random.default_rng(seed).standard_normal((GRID, GRID, 3)) * contrast
    result: Floats = grid - grid.mean(axis=(0, 1))
    return result


def paint(value: str, concept: str, own_seed: int) -> Image.Image:
    """The picture of a value, a concept and an individual."""
    cells = np.array(COLORS[value]) + pattern(derive(0, concept), CONCEPT_CONTRAST) + pattern(own_seed, OWN_CONTRAST)
    pixels = np.clip(np.round(cells), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels.repeat(IMAGE_PX // GRID, axis=0).repeat(IMAGE_PX // GRID, axis=1))


class PaintedScorer:
    """See ``evenhand.interfaces.LoadedScorer``. Sees cells; its idea of a text is the concept's pattern in value a.

    So it has an opinion about who should be pictured, as image-text scorers have.
    """

    name = SCORER
    fingerprint = "painted"

    def __init__(self, concepts: Mapping[str, str]) -> None:
        self.concepts = concepts

    def image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Cells without the grey, of length 1."""
        step = IMAGE_PX // GRID
        return _unit([np.asarray(image, dtype=np.float64)[::step, ::step] - GREY for image in images])

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The concept's pattern on the first value's colour."""
        opinion = (np.array(COLORS[TWO[0]]) - GREY)[None, None, :]
        return _unit([pattern(derive(0, self.concepts[text]), CONCEPT_CONTRAST) + opinion for text in texts])

    def num_cut(self, texts: Sequence[str]) -> int:
        """It reads texts of any length."""
        return 0


def _unit(rows: Sequence[Floats]) -> NDArray[np.float32]:
    features_ND = np.stack([row.ravel() for row in rows])
    unit_ND: NDArray[np.float32] = (features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit_ND


def painted_plan() -> Plan:
    """Sixteen open prompts of eight seeds."""
    asked = prompts(NUM_PROMPTS)
    generation = GenerationPlan(
        seeds={prompt.id: tuple(range(NUM_SEEDS)) for prompt in asked},
        batch_size=NUM_SEEDS,
        steps=1,
        guidance=1.0,
        height_px=IMAGE_PX,
        width_px=IMAGE_PX,
        dtype="float32",
        device="cpu",
        base="painted",
        base_fingerprint="painted",
        encoders_fingerprint="painted",
        adapter_sha256="painted",
        adapter_scale=1.0,
    )
    return plan_of(asked, attributes={"two": TWO}, margins=MARGINS, generation=generation, reader=READER)


def painted_folder(
    folder: Path,
    plan: Plan,
    labels: Mapping[str, Labels],
    own_seeds: Mapping[str, NDArray[np.int64]],
    *,
    training: Sequence[Path] = (),
) -> Results:
    """Paint, read, score and analyse. ``labels[arm]``, ``own_seeds[arm]`` (J, N): value and individual."""
    import torch

    freeze_plan(plan, folder)
    records = [
        _save(folder, arm, prompt, seed, TWO[labels[arm][row, seed]], int(own_seeds[arm][row, seed]))
        for arm in ARMS
        for row, prompt in enumerate(plan.prompts)
        for seed in range(NUM_SEEDS)
    ]
    write_jsonl_atomic(folder / IMAGES_FILE, records)
    reader = Planted(name=READER, colors={"two": COLORS}, max_distance=60.0, confusion=0.0, abstain=0.0, seed=0)
    loaded = reader.load(device=torch.device("cpu"))
    read_images(plan, folder, loaded, reader_name=reader.name, batch_size=64)
    scorer = PaintedScorer({prompt.text: prompt.concept for prompt in plan.prompts})
    score_images(plan, folder, scorer, scorer_name=SCORER, batch_size=64, training_images=training)
    return analyse_folder(folder)


def _save(folder: Path, arm: str, prompt: Prompt, seed: int, value: str, own_seed: int) -> ImageRecord:
    path = folder / image_path(arm, prompt.id, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    paint(value, prompt.concept, own_seed).save(path)
    return ImageRecord(
        prompt_id=prompt.id,
        seed=seed,
        arm=arm,
        path=image_path(arm, prompt.id, seed),
        sha256=sha256_file(path),
        noise_sha256=sha256_json([prompt.id, seed]),
    )


def individuals(rng: np.random.Generator) -> NDArray[np.int64]:
    """Seeds (J, N) of pictures that nobody else has."""
    return rng.integers(2**62, size=(NUM_PROMPTS, NUM_SEEDS))


def paint_training_set(folder: Path, plan: Plan, rng: np.random.Generator) -> tuple[list[Path], NDArray[np.int64]]:
    """One training picture of each value and prompt, and the seeds (J, 2) of their individuals."""
    folder.mkdir(parents=True)
    own_JK = rng.integers(2**62, size=(len(plan.prompts), 2))
    paths = []
    for row, prompt in enumerate(plan.prompts):
        for index, value in enumerate(TWO):
            path = folder / f"{prompt.id}-{value}.png"
            paint(value, prompt.concept, int(own_JK[row, index])).save(path)
            paths.append(path)
    return paths, own_JK
