"""Which same-seed pairs of images a report shows, and the images themselves as data URIs.

Random pairs are drawn with a seed that the plan's hash gives, so nobody picked them and anyone draws the same; the
worst cases stand beside them. What was chosen goes into ``results.json`` with every figure that its caption shows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from evenhand.evaluation.folder import ImageKey, load_images, load_similarities
from evenhand.evaluation.plan import Plan
from evenhand.evaluation.scoring import load_copies
from evenhand.files import read_json
from evenhand.records import ImageRecord, Prompt
from evenhand.report.content import visible_text
from evenhand.report.figures import number
from evenhand.report.image_readings import ImageReadings
from evenhand.report.reproduction import as_object
from evenhand.run import PROVENANCE

THUMBNAIL_PX, WEBP_QUALITY = 128, 86
MAX_URI_CHARACTERS = 3_200_000  # with the tables, the page stays below five megabytes
MAX_CONCEPTS, PAIRS_PER_CONCEPT, MAX_SUITE_PAIRS, MAX_WORST = 12, 8, 16, 16
RANDOM, DISOBEDIENCE, DRIFT, NEIGHBOUR = "random", "disobedience", "drift", "neighbour"
TRAINING = "training image"
OBEYING_SUITES = ("explicit", "fixed")
HEADINGS = {
    DISOBEDIENCE: "Worst obedience: the prompt names a value, and another one was read",
    DRIFT: "Least similar pairs of unrelated prompts",
    NEIGHBOUR: "Nearest to a training image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPair:
    """A (prompt, seed) that is shown, and why. Readings and ``note`` are the captions, ``beside`` a training image."""

    kind: str
    suite: str
    prompt_id: str
    prompt: str
    seed: int
    readings: tuple[str, str]
    note: str
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One arm's image, or a training image, with its caption."""

    arm: str
    uri: str
    alt: str
    reading: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two arms' images of one (prompt, seed); a training image may stand below them."""

    seed: int
    prompt: str
    shots: tuple[Shot, ...]
    note: str

    @property
    def changed(self) -> bool:
        """Whether another value was read in the second arm than in the first."""
        return self.shots[0].reading != self.shots[1].reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Pairs below one heading, which is their prompt where all are of one."""

    kind: str
    suite: str
    heading: str
    pairs: tuple[Pair, ...]


class Gallery:
    """The strips of a report, and how many of the chosen pairs could not be shown or had no room."""

    def __init__(self) -> None:
        self.strips: list[Strip] = []
        self.num_shown = self.num_unreadable = self.num_left_out = 0

    def of_kind(self, kind: str) -> list[Strip]:
        """The strips that show pairs for one reason."""
        return [strip for strip in self.strips if strip.kind == kind]


def paired_seeds(plan: Plan, records: Mapping[ImageKey, ImageRecord], arms: Sequence[str]) -> dict[str, list[int]]:
    """For each prompt the seeds that have an image in every arm, in the plan's order (else by size)."""
    by_prompt: dict[str, dict[int, int]] = {}
    for arm, prompt_id, seed in records:
        if arm in arms:
            counts = by_prompt.setdefault(prompt_id, {})
            counts[seed] = counts.get(seed, 0) + 1
    found = {}
    for prompt in plan.prompts:
        whole = {seed for seed, count in by_prompt.get(prompt.id, {}).items() if count == len(arms)}
        order = sorted(whole) if plan.generation is None else plan.generation.seeds.get(prompt.id, ())
        found[prompt.id] = [seed for seed in order if seed in whole]
    return found


def choose_pairs(plan: Plan, folder: Path, *, plan_digest: str, reader: str) -> list[ChosenPair]:
    """The pairs that a report of this folder shows; none where it has no images."""
    records = load_images(folder)
    seeds = paired_seeds(plan, records, plan.arms)
    if not any(seeds.values()):
        return []
    readings = ImageReadings.load(plan, folder, reader=reader)
    rng = np.random.default_rng(int(plan_digest[:16], 16))
    chosen = [
        *_random_pairs(plan, seeds, rng),
        *_disobedience(plan, seeds, readings),
        *_drift(plan, seeds, folder),
        *_neighbours(plan, seeds, folder),
    ]
    return [_with_readings(plan, pair, readings) for pair in chosen]


def _chosen(kind: str, prompt: Prompt, seed: int, note: str = "") -> ChosenPair:
    return ChosenPair(
        kind=kind,
        suite=prompt.suite,
        prompt_id=prompt.id,
        prompt=prompt.text,
        seed=seed,
        readings=("", ""),
        note=note,
    )


def _with_readings(plan: Plan, pair: ChosenPair, readings: ImageReadings) -> ChosenPair:
    prompt = next(prompt for prompt in plan.prompts if prompt.id == pair.prompt_id)
    keys = [(arm, pair.prompt_id, pair.seed) for arm in plan.arms]
    primary, expected = (plan.primary.attribute,), tuple(prompt.expects or ())
    found = any(readings.has_value(plan.primary.attribute, *key) for key in keys)
    attributes = primary if (found and prompt.suite not in OBEYING_SUITES) or not expected else expected
    base, adapted = (readings.text(attributes, *key) for key in keys)
    return replace(pair, readings=(base, adapted))


def _random_pairs(plan: Plan, seeds: Mapping[str, Sequence[int]], rng: np.random.Generator) -> Iterator[ChosenPair]:
    """Several pairs of prompts of the headline suite, then one of each of some prompts of every other suite."""
    for suite in (plan.primary.suite, *(suite for suite in plan.suites if suite != plan.primary.suite)):
        first = suite == plan.primary.suite
        prompts = [prompt for prompt in plan.in_suite(suite) if seeds[prompt.id]]
        most = MAX_CONCEPTS if first else MAX_SUITE_PAIRS
        for index in sorted(rng.permutation(len(prompts))[:most].tolist()):
            own = seeds[prompts[index].id]
            places = rng.permutation(len(own))[: PAIRS_PER_CONCEPT if first else 1]
            for place in sorted(places.tolist()):
                yield _chosen(RANDOM, prompts[index], own[place])


def _disobedience(plan: Plan, seeds: Mapping[str, Sequence[int]], readings: ImageReadings) -> list[ChosenPair]:
    """Images of the adapted arm that do not show what their prompt names; those that the base showed come first."""
    failures: list[tuple[bool, float, int, int, Prompt]] = []
    base, adapted = plan.arms
    for order, prompt in enumerate(plan.prompts):
        if prompt.suite not in OBEYING_SUITES or not prompt.expects:
            continue
        for seed in seeds[prompt.id]:
            score = readings.obedience(prompt, adapted, seed)
            if score is not None and not score.obeyed:
                before = readings.obedience(prompt, base, seed)
                failures.append((not (before is not None and before.obeyed), score.chance, order, seed, prompt))
    failures.sort(key=lambda failure: failure[:4])
    return [
        _chosen(DISOBEDIENCE, prompt, seed, note=f"expected {', '.join((prompt.expects or {}).values())}")
        for _, _, _, seed, prompt in failures[:MAX_WORST]
    ]


def _drift(plan: Plan, seeds: Mapping[str, Sequence[int]], folder: Path) -> Iterator[ChosenPair]:
    prompts = {prompt.id: prompt for prompt in plan.prompts}
    rows = [row for row in load_similarities(folder) if row.seed in seeds.get(row.prompt_id, ())]
    for row in sorted(rows, key=lambda row: (row.value, row.prompt_id, row.seed))[:MAX_WORST]:
        beside = "" if row.yardstick is None else f"; two base seeds {number(row.yardstick)}"
        yield _chosen(DRIFT, prompts[row.prompt_id], row.seed, note=f"similarity {number(row.value)}{beside}")


def _neighbours(plan: Plan, seeds: Mapping[str, Sequence[int]], folder: Path) -> Iterator[ChosenPair]:
    """Images of the adapted arm that are most like an image that it was trained on."""
    prompts = {prompt.id: prompt for prompt in plan.prompts}
    rows = [row for row in load_copies(folder) if row.arm == plan.arms[1] and row.seed in seeds.get(row.prompt_id, ())]
    for row in sorted(rows, key=lambda row: (-row.similarity, row.prompt_id, row.seed))[:MAX_WORST]:
        pair = _chosen(NEIGHBOUR, prompts[row.prompt_id], row.seed, note=f"similarity {row.similarity:.3f}")
        yield replace(pair, beside=row.nearest)


def training_image(folder: Path, name: str) -> Image.Image | None:
    """A training image by the name that copies.jsonl gives, in the set that the folder's provenance names."""
    path = folder / PROVENANCE
    made = as_object(read_json(path)) if path.is_file() else {}
    declared = as_object(as_object(made.get("inputs")).get("training_set")).get("path")
    sets = (as_object(made.get("config")).get("training_set"), declared)
    for given in (Path(str(each)) for each in sets if each):
        for place in (given / "train", given):
            image = open_image(place, name)
            if image is not None:
                return image
    return None


def gallery(plan: Plan, folder: Path, chosen: Iterable[ChosenPair]) -> Gallery:
    """The chosen pairs with their images, as long as there is room in the page."""
    records = load_images(folder)
    result = Gallery()
    room = MAX_URI_CHARACTERS
    strips: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in chosen:
        shots = _shots(plan, folder, records, pair)
        if shots is None:
            result.num_unreadable += 1
            continue
        room -= sum(len(shot.uri) for shot in shots)
        if room < 0:
            result.num_left_out += 1
            continue
        result.num_shown += 1
        strips.setdefault(_strip_key(plan, pair), []).append(
            Pair(seed=pair.seed, prompt=pair.prompt, shots=shots, note=pair.note)
        )
    result.strips = [
        Strip(kind=kind, suite=suite, heading=heading, pairs=tuple(pairs))
        for (kind, suite, heading), pairs in strips.items()
    ]
    return result


def _strip_key(plan: Plan, pair: ChosenPair) -> tuple[str, str, str]:
    if pair.kind != RANDOM:
        return pair.kind, "", HEADINGS[pair.kind]
    return pair.kind, pair.suite, pair.prompt if pair.suite == plan.primary.suite else f"suite {pair.suite}"


def _shots(
    plan: Plan, folder: Path, records: Mapping[ImageKey, ImageRecord], pair: ChosenPair
) -> tuple[Shot, ...] | None:
    shots = []
    for arm, reading in zip(plan.arms, pair.readings, strict=True):
        image = open_image(folder, records[arm, pair.prompt_id, pair.seed].path)
        if image is None:
            return None
        read = f", read as {reading}" if reading else ""
        alt = visible_text(f"{pair.prompt}, {arm}, seed {pair.seed}{read}")
        shots.append(Shot(arm=arm, uri=thumbnail_uri(image), alt=alt, reading=reading))
    if pair.beside:
        image = training_image(folder, pair.beside)
        if image is not None:
            alt = visible_text(f"{TRAINING} {pair.beside}")
            shots.append(Shot(arm=TRAINING, uri=thumbnail_uri(image), alt=alt, reading=TRAINING))
    return tuple(shots)


def inside(folder: Path, name: str) -> Path | None:
    """A file of the folder by its relative name; None for a name that leads out of it or to nothing."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not (folder / path).is_file():
        return None
    return folder / path


def open_image(folder: Path, name: str) -> Image.Image | None:
    """An image of the folder in RGB; None when the file is not there, outside, or not a whole image."""
    path = inside(folder, name)
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            whole: Image.Image = image.convert("RGB")
            return whole
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for broken files
        return None


def thumbnail_uri(image: Image.Image) -> str:
    """An image as a data URI, at most 128 pixels wide and high."""
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
