"""Scores the images of an evaluation folder: each one's fit to its prompt, features, and nearest training image.

Letters of shapes: N images, P prompts, T training images, D features.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save
from tqdm import tqdm

from evenhand.evaluation.folder import all_arms, known_images, load_images, rounds_made
from evenhand.evaluation.plan import Plan
from evenhand.files import atomic_path, json_line, read_jsonl, sha256_file, sha256_json, write_jsonl_atomic
from evenhand.interfaces import LoadedScorer
from evenhand.records import ImageRecord

log = logging.getLogger(__name__)

SCORES_FILE = "scores.jsonl"
FEATURES_FILE = "features.safetensors"
COPIES_FILE = "copies.jsonl"
PARTIAL_FOLDER = "scores.partial"
TEXT_KEY = "text"
# One key, since the format keeps several in no order and equal content must be equal bytes.
METADATA_KEY = "evenhand"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# The seventh digit of a cosine depends on the batch and on the machine.
DIGITS = 6
# How many training images the nearest one's distance is compared with (Carlini et al. 2023 take 50).
NUM_NEIGHBOURS = 50
ROWS_AT_ONCE = 1024

Floats = NDArray[np.float64]
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """``image_text`` is the cosine of an image with its own prompt."""

    prompt_id: str
    seed: int
    arm: str
    scorer: str
    image_text: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestTraining:
    """The training image that is most like an image.

    ``similarity`` is the cosine of their features. ``relative_distance`` is one minus it, over its mean for the next
    nearest training images: near 0 for a copy of one picture, near 1 for an image of the same kind as many (after
    Carlini et al. 2023, arXiv 2301.13188). None where there is no other training image to compare with.
    """

    prompt_id: str
    seed: int
    arm: str
    scorer: str
    similarity: float
    relative_distance: float | None
    nearest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTable:
    """Features of every scored image by arm, with their (prompt, seed) keys in order, and of the prompts."""

    scorer: str
    keys: Mapping[str, tuple[tuple[str, int], ...]]
    images_ND: Mapping[str, Floats]
    prompts: tuple[str, ...]
    text_PD: Floats


def curated_images(folder: Path) -> list[Path]:
    """The training images of a curated set, or every image below a folder that is none; ValueError without images."""
    rows = read_jsonl(folder / "train" / "metadata.jsonl")
    paths = [folder / "train" / row["file_name"] for row in rows] or sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
    )
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = f"{missing[0]} does not exist" if missing else "there is no image in it"
        raise ValueError(f"training images {folder}: {what}; name the curated set that the adapter was trained on")
    return paths


def score_images(
    plan: Plan,
    folder: Path,
    scorer: LoadedScorer,
    *,
    scorer_name: str,
    batch_size: int,
    training_images: Sequence[Path] | None = None,
) -> int:
    """Write ``features.safetensors``, ``copies.jsonl`` where training images are given, and ``scores.jsonl``.

    How many images this call looked at: 0 when an earlier one finished with the same images, prompts, scorer and
    training images. What a killed call has computed lies in ``scores.partial`` by content. Whole batches of a fixed
    list are scored, so that a resumed scoring writes the same bytes as one that was not killed.
    """
    records = _records(plan, folder)
    training = _different(training_images or ())
    texts = [prompt.text for prompt in plan.prompts]
    digest = sha256_json(
        {
            "scorer": [scorer_name, scorer.fingerprint],
            "images": [[record.arm, record.prompt_id, record.seed, record.sha256] for record in records],
            "prompts": [[prompt.id, prompt.text] for prompt in plan.prompts],
            "training": list(training),
        }
    )
    if _finished(folder, digest, copies=bool(training)):
        return 0
    for name in (SCORES_FILE, COPIES_FILE):  # scores.jsonl is written last: without it nothing is finished
        (folder / name).unlink(missing_ok=True)
    if cut := scorer.num_cut(texts):
        log.info(
            "%d of %d prompts are longer than scorer %s reads: scored by their beginning", cut, len(texts), scorer_name
        )
    files = [(folder / record.path, record.sha256) for record in records]
    images_ND, num_new = _features(scorer, files, folder, batch_size=batch_size, what="scores")
    text_PD = np.concatenate(
        [scorer.text_features(texts[at : at + batch_size]) for at in range(0, len(texts), batch_size)]
    )
    _write_features(plan, folder, records, images_ND, text_PD, scorer_name=scorer_name, digest=digest)
    if training:
        files = [(path, sha256) for sha256, path in training.items()]
        training_TD, num_more = _features(scorer, files, folder, batch_size=batch_size, what="training images")
        num_new += num_more
        rows = _nearest(records, images_ND, [path for path, _ in files], training_TD, scorer_name=scorer_name)
        write_jsonl_atomic(folder / COPIES_FILE, (asdict(row) for row in rows))
    write_jsonl_atomic(
        folder / SCORES_FILE, (asdict(row) for row in _scores(plan, records, images_ND, text_PD, scorer_name))
    )
    shutil.rmtree(folder / PARTIAL_FOLDER, ignore_errors=True)
    return num_new


def load_features(folder: Path) -> FeatureTable | None:
    """The features of a folder whose scoring is finished, else None; ValueError where the file is not one of ours."""
    path = folder / FEATURES_FILE
    if not path.is_file() or not (folder / SCORES_FILE).is_file():
        return None
    about = _about(path)
    try:
        keys = {arm: tuple((str(name), int(seed)) for name, seed in rows) for arm, rows in about["images"].items()}
        prompts, scorer = tuple(about["prompts"]), str(about["scorer"])
        arrays = {name: array.astype(np.float64) for name, array in load_file(path).items()}
        wrong = [arm for arm, rows in keys.items() if len(arrays[arm]) != len(rows)]
        if wrong or len(arrays[TEXT_KEY]) != len(prompts):
            raise ValueError(f"number of features and keys differ for {wrong or TEXT_KEY}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a features file ({error!r}); delete it and score the images again") from error
    images_ND = {arm: arrays[arm] for arm in keys}
    return FeatureTable(scorer=scorer, keys=keys, images_ND=images_ND, prompts=prompts, text_PD=arrays[TEXT_KEY])


def load_copies(folder: Path) -> list[NearestTraining]:
    """Each image's nearest training image; none where no training images were given."""
    return [NearestTraining(**row) for row in read_jsonl(folder / COPIES_FILE)]


def _records(plan: Plan, folder: Path) -> list[ImageRecord]:
    """The images of the plan's arms and of its dose, in the order of the plan whatever that of the files."""
    if plan.generation is not None:
        return known_images(plan, folder, arms=plan.arms, num_rounds=rounds_made(plan, folder))
    arms = {arm: number for number, arm in enumerate(all_arms(plan))}
    order = {prompt.id: number for number, prompt in enumerate(plan.prompts)}
    records = [record for record in load_images(folder).values() if record.arm in arms]
    strange = sorted({record.prompt_id for record in records} - set(order))
    if strange or not records:
        what = f"the plan has no prompt {strange[0]}" if strange else f"there is no image of {', '.join(arms)}"
        raise ValueError(f"{folder}: cannot score images: {what} (images.jsonl)")
    return sorted(records, key=lambda record: (arms[record.arm], order[record.prompt_id], record.seed))


def _different(paths: Sequence[Path]) -> dict[str, Path]:
    """sha256 -> path of images that differ in content: a set may hold a picture twice."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(sha256_file(path), path)
    return found


def _finished(folder: Path, digest: str, *, copies: bool) -> bool:
    path = folder / FEATURES_FILE
    if not path.is_file() or not (folder / SCORES_FILE).is_file() or (folder / COPIES_FILE).is_file() != copies:
        return False
    return bool(_about(path).get("digest") == digest)


def _about(path: Path) -> dict[str, Any]:  # Any: JSON
    """What a features file says of itself; nothing where another tool wrote it."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    about: dict[str, Any] = json.loads(metadata.get(METADATA_KEY, "{}"))  # Any: JSON
    return about


def _features(
    scorer: LoadedScorer, files: Sequence[tuple[Path, str]], folder: Path, *, batch_size: int, what: str
) -> tuple[Features, int]:
    """Features of image files, (N, D), and how many of them were not computed before."""
    chunks = [files[at : at + batch_size] for at in range(0, len(files), batch_size)]
    paths = [_partial_path(folder, scorer, chunk) for chunk in chunks]
    todo = [(chunk, path) for chunk, path in zip(chunks, paths, strict=True) if not path.is_file()]
    for chunk, path in tqdm(todo, desc=what, unit="batch", disable=not todo):
        features_ND = scorer.image_features([_open(image_path, sha256) for image_path, sha256 in chunk])
        with atomic_path(path) as temporary:
            temporary.write_bytes(save({"features": np.ascontiguousarray(features_ND)}))
    return np.concatenate([load_file(path)["features"] for path in paths]), sum(len(chunk) for chunk, _ in todo)


def _partial_path(folder: Path, scorer: LoadedScorer, chunk: Sequence[tuple[Path, str]]) -> Path:
    digest = sha256_json([scorer.fingerprint, [sha256 for _, sha256 in chunk]])
    return folder / PARTIAL_FOLDER / f"{digest}.safetensors"


def _open(path: Path, sha256: str) -> Image.Image:
    if not path.is_file() or sha256_file(path) != sha256:
        raise ValueError(f"{path} is not the image that was generated; delete it and generate again")
    with Image.open(path) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb


def _write_features(
    plan: Plan,
    folder: Path,
    records: Sequence[ImageRecord],
    images_ND: Features,
    text_PD: Features,
    *,
    scorer_name: str,
    digest: str,
) -> None:
    arms = dict.fromkeys(record.arm for record in records)
    rows = {arm: [number for number, record in enumerate(records) if record.arm == arm] for arm in arms}
    keys = {arm: [[records[number].prompt_id, records[number].seed] for number in rows[arm]] for arm in arms}
    about = {
        "scorer": scorer_name,
        "digest": digest,
        "images": keys,
        "prompts": [prompt.id for prompt in plan.prompts],
    }
    tensors = {arm: np.ascontiguousarray(images_ND[rows[arm]]) for arm in arms}
    content = save({**tensors, TEXT_KEY: np.ascontiguousarray(text_PD)}, metadata={METADATA_KEY: json_line(about)})
    with atomic_path(folder / FEATURES_FILE) as temporary:
        temporary.write_bytes(content)


def _scores(
    plan: Plan, records: Sequence[ImageRecord], images_ND: Features, text_PD: Features, scorer_name: str
) -> Iterator[ImageScore]:
    places = {prompt.id: number for number, prompt in enumerate(plan.prompts)}
    texts_ND = text_PD[[places[record.prompt_id] for record in records]].astype(np.float64)
    cosines = np.einsum("nd,nd->n", images_ND.astype(np.float64), texts_ND)
    for record, cosine in zip(records, cosines, strict=True):
        yield ImageScore(**_key(record), scorer=scorer_name, image_text=round(float(cosine), DIGITS))


def _nearest(
    records: Sequence[ImageRecord],
    images_ND: Features,
    paths: Sequence[Path],
    training_TD: Features,
    *,
    scorer_name: str,
) -> Iterator[NearestTraining]:
    common = Path(os.path.commonpath([path.parent for path in paths]))
    wide_TD = training_TD.astype(np.float64)
    count = min(NUM_NEIGHBOURS, len(paths) - 1)
    for at in range(0, len(records), ROWS_AT_ONCE):
        cosines_NT = images_ND[at : at + ROWS_AT_ONCE].astype(np.float64) @ wide_TD.T
        nearest_N = cosines_NT.argmax(axis=1)
        distances_NT = 1.0 - np.sort(cosines_NT, axis=1)[:, ::-1]
        for record, nearest, row in zip(records[at : at + ROWS_AT_ONCE], nearest_N, distances_NT, strict=True):
            others = float(row[1 : count + 1].mean()) if count else 0.0
            relative = round(max(0.0, float(row[0])) / others, DIGITS) if others > 0 else None
            yield NearestTraining(
                **_key(record),
                scorer=scorer_name,
                similarity=round(1.0 - float(row[0]), DIGITS),
                relative_distance=relative,
                nearest=paths[nearest].relative_to(common).as_posix(),
            )


def _key(record: ImageRecord) -> dict[str, Any]:  # Any: the key fields of a row
    return {"prompt_id": record.prompt_id, "seed": record.seed, "arm": record.arm}
