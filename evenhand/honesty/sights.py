"""Real readers on pictures whose truth is known: what is nobody, and what does not change who is pictured."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageOps

from evenhand.analysis.results import analyse
from evenhand.construct import build
from evenhand.evaluation.folder import Similarity
from evenhand.evaluation.reading import PIXEL_MEASURE, UNRELATED_SUITE, pixel_similarity
from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import excludes, shift_of
from evenhand.honesty.folders import ARMS, TWO, analysed, plan_of, prompts, reading
from evenhand.honesty.outcome import Figure, Outcome, exactly
from evenhand.honesty.small_run import small_reader
from evenhand.interfaces import LoadedReader
from evenhand.paths import conf_folder
from evenhand.records import SubjectReading
from evenhand.tinytown.world import Scene, tinytown

if TYPE_CHECKING:
    import torch

    from evenhand.interfaces import Reader

READER = "tinytown_b"
FIRST_SEED = 20_000_000  # pictures that neither the base nor its readers have seen
NUM_NOISE = 50
MOST_NOISE = 0.06  # of noise, taken for a person by the embedded reader (conf/reader/tinytown_b.yaml: min_energy)
# What the reader of faces says of the one photograph, within what versions of image libraries may differ by.
PHOTOGRAPH, PHOTOGRAPH_PROB, PROB_ERROR = "astronaut", 0.985, 1e-3
PERSON = ("presentation", "skin")
TWO_COLORS = ("two",)  # the attribute of the planted reader
JPEG_QUALITY = 60
HALF_STOP, WHOLE_STOP = 2**0.5, 2.0


def reader_of(name: str) -> Reader:
    """A reader as conf/reader describes it."""
    node = yaml.safe_load((conf_folder() / "reader" / f"{name}.yaml").read_text(encoding="utf-8"))
    reader: Reader = build(node, key="reader")
    return reader


def loaded(name: str) -> LoadedReader:
    """The same on CPU."""
    return reader_of(name).load(device=cpu())


def cpu() -> torch.device:
    """Where everything here runs."""
    import torch

    return torch.device("cpu")


def nobody(size_px: int) -> dict[str, list[Image.Image]]:
    """Pictures without a person."""
    rng = np.random.default_rng(FIRST_SEED)
    shape = (size_px, size_px, 3)
    text = Image.new("RGB", (size_px, size_px), "white")
    ImageDraw.Draw(text).text((size_px // 16, size_px // 3), "a mechanic", fill="black")
    noise = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(NUM_NOISE)]
    blank = [Image.new("RGB", (size_px, size_px), color) for color in ("white", "black", "gray", "beige")]
    return {"noise": noise, "blank": blank, "text": [text]}


def valued(subjects: Sequence[SubjectReading], attributes: Sequence[str]) -> list[SubjectReading]:
    """The readings that name a person's value."""
    return [reading for reading in subjects if reading.attribute in attributes and reading.value is not None]


def check_canaries(bench: Bench) -> Outcome:
    """Noise, blank pages, letters and things are nobody; a person is one person. The readers that can be had are asked.

    The embedded reader was shown nothing but its town, and may take a blank page for a person: that is said.
    """
    planted, world = small_reader(farthest=60.0).load(device=cpu()), tinytown()
    pictures = nobody(world.size_px)
    figures = []
    for label, images in pictures.items():
        named = sum(bool(valued(subjects, TWO_COLORS)) for subjects in planted.read(images))
        figures.append(exactly(f"planted: of {len(images)} of {label}: read", named, 0))
    embedded = loaded(READER)
    for label, images in pictures.items():
        named = sum(bool(valued(subjects, PERSON)) for subjects in embedded.read(images))
        bound = MOST_NOISE * len(images) if label == "noise" else np.inf
        note = "" if label == "noise" else "known weakness"
        figures.append(Figure(label=f"{READER}: of {len(images)} of {label}: read", value=named, high=bound, note=note))
    rng = np.random.default_rng(bench.seed)
    seeds = [FIRST_SEED + int(seed) for seed in rng.integers(2**20, size=3)]
    things = [world.render(world.draw(concept, seed)) for concept in world.objects for seed in seeds]
    named = sum(bool(valued(subjects, PERSON)) for subjects in embedded.read(things))
    figures.append(exactly(f"{READER}: of {len(things)} of things: read", named, 0))
    counts = [len(valued(subjects, PERSON[:1])) for subjects in embedded.read([image for image, _ in people(30)])]
    found = float(np.mean([count == 1 for count in counts]))
    figures.append(Figure(label="control: portraits with one person found", value=found, low=0.9))
    return Outcome(figures=tuple(figures))


def people(count: int) -> Iterator[tuple[Image.Image, str]]:
    """Rendered portraits with the value of the first attribute of a person."""
    for scene in portraits(count):
        yield tinytown().render(scene), scene.labels[PERSON[0]]


def portraits(count: int) -> Iterator[Scene]:
    """Scenes of one person that no reader has seen."""
    world, seed = tinytown(), FIRST_SEED
    while count > 0:
        scene = world.sample(seed).scene
        seed += 1
        if scene.kind == "person":
            yield scene
            count -= 1


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    buffer.seek(0)
    with Image.open(buffer) as opened:
        rgb: Image.Image = opened.convert("RGB")
    return rgb


def _exposed(image: Image.Image, factor: float) -> Image.Image:
    """Light times ``factor``, through sRGB's transfer function (IEC 61966-2-1); what is too bright is white."""
    coded_HWC = np.asarray(image, dtype=np.float64) / 255
    light_HWC = np.where(coded_HWC <= 0.04045, coded_HWC / 12.92, ((coded_HWC + 0.055) / 1.055) ** 2.4)
    light_HWC = np.clip(light_HWC * factor, 0, 1)
    coded_HWC = np.where(light_HWC <= 0.0031308, light_HWC * 12.92, 1.055 * light_HWC ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.round(coded_HWC * 255).astype(np.uint8))


# What a picture may go through without being of somebody else.
SAME_PERSON: dict[str, Callable[[Image.Image], Image.Image]] = {
    "flipped": ImageOps.mirror,
    f"JPEG {JPEG_QUALITY}": _jpeg,
    "half a stop up": lambda image: _exposed(image, HALF_STOP),
    "half a stop down": lambda image: _exposed(image, 1 / HALF_STOP),
}


def check_metamorphic(bench: Bench) -> Outcome:
    """One arm is the other flipped, compressed or a little brighter: a reader that sees a shift is not invariant."""
    reader, (num_prompts, num_seeds) = loaded(READER), (20, 8 if bench.full else 3)
    pictures = [image for image, _ in people(num_prompts * num_seeds)]
    before = reader.read(pictures)
    figures = []
    for label, change in SAME_PERSON.items():
        held, moved = _invariance(before, reader.read([change(image) for image in pictures]), num_prompts, num_seeds)
        note = f"{moved} of {len(pictures)} read otherwise" + ("" if held else "; reader not invariant")
        figures.append(exactly(f"{label}: shift's interval holds 0", float(held), 1.0, note=note))
    swapped = [[_other(subject) for subject in subjects] for subjects in before]
    noticed, _ = _invariance(before, swapped, num_prompts, num_seeds)
    figures.append(exactly("control: half of the answers exchanged", float(noticed), 0.0, note="must be seen"))
    return Outcome(figures=(*figures, *_exposure_figures(reader, 20 * (3 if bench.full else 1))))


def _exposure_figures(reader: LoadedReader, count: int) -> Iterator[Figure]:
    """Light moves what is read of skin, so pictures that all become brighter must not pass for other people.

    It is the guard of unrelated pictures that must tell: things have no skin. People in the same light with other skin
    are the control: their readings change, and the guard holds. It does not tell of an adapter that brightens people
    alone.
    """
    world = tinytown()
    values = world.attributes[PERSON[1]]
    scenes = list(portraits(count))
    others = [
        replace(scene, labels={**scene.labels, PERSON[1]: values[values.index(scene.labels[PERSON[1]]) - 1]})
        for scene in scenes
    ]
    things = [world.render(world.draw(concept, FIRST_SEED)) for concept in world.objects]
    pictures = [world.render(scene) for scene in scenes]
    before = [_value(subjects, PERSON[1]) for subjects in reader.read(pictures)]
    brighter = [_exposed(image, WHOLE_STOP) for image in pictures]
    arms = {
        "skin, a stop up": (brighter, [_exposed(image, WHOLE_STOP) for image in things]),
        "control: other skin, same light": ([world.render(scene) for scene in others], things),
    }
    for label, (images, after) in arms.items():
        read = [_value(subjects, PERSON[1]) for subjects in reader.read(images)]
        share = sum(one != other for one, other in zip(before, read, strict=True)) / count
        is_control = after is things
        yield Figure(label=f"{label}: read otherwise", value=share, low=0.9 if is_control else 0.05)
        held = _unrelated_guard_holds(things, after)
        yield exactly("  guard of unrelated pictures holds", float(held), float(is_control))


def _unrelated_guard_holds(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> bool:
    """What the real analysis says of pairs of unrelated pictures, with the margins of conf/evaluate.yaml."""
    margins = yaml.safe_load((conf_folder() / "evaluate.yaml").read_text(encoding="utf-8"))["evaluation"]["margins"]
    asked = [*prompts(2), *prompts(len(before), suite=UNRELATED_SUITE)]
    plan = plan_of(asked, attributes={"two": TWO}, margins=margins)
    readings = [reading(prompt.id, 0, arm, "two", TWO[0]) for prompt in asked[:2] for arm in ARMS]
    rows = [
        Similarity(
            prompt_id=prompt.id, seed=0, measure=PIXEL_MEASURE, value=pixel_similarity(one, other), yardstick=None
        )
        for prompt, one, other in zip(asked[2:], before, after, strict=True)
    ]
    found = analyse(plan, readings, rows, plan_digest="0" * 64).guards
    return all(guard.passed for guard in found if guard.suite == UNRELATED_SUITE)


def _other(subject: SubjectReading) -> SubjectReading:
    """The reading of somebody else, where it is of the first value."""
    values = reader_of(READER).attributes[PERSON[0]]
    if subject.attribute != PERSON[0] or subject.value != values[0]:
        return subject
    return replace(subject, value=values[1], probs=None)


def _invariance(
    before: Sequence[Sequence[SubjectReading]],
    after: Sequence[Sequence[SubjectReading]],
    num_prompts: int,
    num_seeds: int,
) -> tuple[bool, int]:
    """Whether the shift of the first value holds 0, and how many pictures are read otherwise."""
    attribute, values = PERSON[0], reader_of(READER).attributes[PERSON[0]]
    asked = prompts(num_prompts)
    plan = plan_of(asked, attributes={attribute: values})
    seen = [[_value(subjects, attribute) for subjects in arm] for arm in (before, after)]
    readings = [
        reading(asked[index // num_seeds].id, index % num_seeds, arm, attribute, value)
        for arm, read in zip(ARMS, seen, strict=True)
        for index, value in enumerate(read)
    ]
    estimate = shift_of(analysed(plan, readings), f"share:{values[0]}", attribute=attribute)
    return not excludes(estimate), sum(a != b for a, b in zip(*seen, strict=True))


def _value(subjects: Sequence[SubjectReading], attribute: str) -> str | None:
    return next((subject.value for subject in subjects if subject.attribute == attribute), None)


def check_real_reader(bench: Bench) -> Outcome:
    """A photograph with one face, noise, a cat and a blank page, read by the reader of faces."""
    missing = [name for name in ("onnxruntime", "skimage") if importlib.util.find_spec(name) is None]
    if missing:
        return Outcome(skipped=f"not installed: {', '.join(missing)} (pip install 'evenhand[faces]')")
    from skimage import data as photographs

    data: Any = photographs  # Any: these loaders have no types

    try:
        reader = loaded("faces")
    except ValueError as error:
        return Outcome(skipped=str(error))
    rng = np.random.default_rng(bench.seed)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    blank = np.full((512, 512, 3), 255, dtype=np.uint8)
    names = {PHOTOGRAPH: data.astronaut(), "noise": noise, "cat": data.chelsea(), "blank": blank}
    names |= {"coffee": data.coffee(), "rocket": data.rocket()}
    figures: list[Figure] = []
    for name, subjects in zip(names, reader.read([Image.fromarray(pixels) for pixels in names.values()]), strict=True):
        found = valued(subjects, list(reader_of("faces").attributes))
        people_found = len({subject.subject for subject in found})
        figures.append(exactly(f"{name}: faces read", people_found, 1 if name == PHOTOGRAPH else 0))
        if name == PHOTOGRAPH and found and found[0].probs is not None:
            low, high = PHOTOGRAPH_PROB - PROB_ERROR, PHOTOGRAPH_PROB + PROB_ERROR
            figures.append(
                Figure(label="  probability of the first value", value=found[0].probs[0], low=low, high=high)
            )
    return Outcome(figures=tuple(figures))
