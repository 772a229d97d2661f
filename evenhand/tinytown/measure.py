"""Measures the shipped weights of tinytown against the world's truth; every figure of docs/tinytown.md comes from here.

Generated pictures are read by reader A, whose own accuracy on held-out renders stands in the same table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline
from transformers import AutoModelForImageClassification, CLIPModel, CLIPTokenizer, PreTrainedModel

from evenhand.interfaces import SamplingSettings
from evenhand.seeds import derive
from evenhand.tinytown.autoencoder import reconstruction_psnr_db
from evenhand.tinytown.classifiers import head_accuracies, reconstruct_pixels
from evenhand.tinytown.contrastive import zero_shot
from evenhand.tinytown.renders import Renders
from evenhand.tinytown.world import NUM_PLACES, PERSON_ATTRIBUTES, SUBJECT_VALUES, tinytown

BATCH = 32
NEUTRAL_IMAGES, EXPLICIT_IMAGES = 64, 32
TEMPLATE = "a portrait of {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The shipped networks in fp32."""

    pipeline: StableDiffusionPipeline
    reader_a: PreTrainedModel
    reader_b: PreTrainedModel
    clip: CLIPModel
    clip_tokenizer: CLIPTokenizer


def load_weights(folder: Path) -> Weights:
    """The networks under ``folder``."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "base", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return Weights(
        pipeline=pipeline,
        reader_a=AutoModelForImageClassification.from_pretrained(folder / "reader_a").float().eval(),
        reader_b=AutoModelForImageClassification.from_pretrained(folder / "reader_b").float().eval(),
        clip=CLIPModel.from_pretrained(folder / "clip").float().eval(),
        clip_tokenizer=CLIPTokenizer.from_pretrained(folder / "clip"),
    )


def generate(
    pipeline: StableDiffusionPipeline, captions: Sequence[str], *, name: str, sampling: SamplingSettings
) -> npt.NDArray[np.uint8]:
    """One picture for each caption, (N, H, W, C) uint8; noise is a function of (name, position)."""
    parts = []
    for start in range(0, len(captions), BATCH):
        batch = list(captions[start : start + BATCH])
        generators = [
            torch.Generator().manual_seed(derive(0, "measure", name, start + number)) for number in range(len(batch))
        ]
        images = pipeline(
            batch,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=generators,
            output_type="np",
        ).images
        parts.append((images * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def read_heads(model: PreTrainedModel, pixels_BHWC: npt.NDArray[np.uint8]) -> dict[str, list[str]]:
    """The most probable value of every head for each picture."""
    heads = tinytown().heads
    read: dict[str, list[str]] = {head: [] for head in heads}
    with torch.no_grad():
        for part in np.array_split(pixels_BHWC, max(1, len(pixels_BHWC) // 128)):
            x = torch.from_numpy(np.array(part)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            logits = model(pixel_values=x).logits.split([len(values) for values in heads.values()], dim=1)
            for (head, values), scores in zip(heads.items(), logits, strict=True):
                read[head] += [values[index] for index in scores.argmax(dim=1).tolist()]
    return read


def _share(values: Sequence[str], wanted: str) -> float:
    return sum(value == wanted for value in values) / len(values)


def _neutral(weights: Weights, sampling: SamplingSettings, num: int) -> dict[str, Any]:  # Any: JSON
    world = tinytown()
    occupation_right, women = [], {}
    for concept in world.occupations:
        caption = world.caption(concept, {}, template=TEMPLATE)
        pixels = generate(weights.pipeline, [caption] * num, name=f"neutral {concept}", sampling=sampling)
        read = read_heads(weights.reader_a, pixels)
        occupation_right.append(_share(read["occupation"], concept))
        women[concept] = (_share(read["presentation"], "woman"), world.shares(concept, "presentation")[0])
    generated, true = np.array(list(women.values())).T
    return {
        "occupation_right": float(np.mean(occupation_right)),
        "occupation_right_worst": float(np.min(occupation_right)),
        "women_difference": float(np.abs(generated - true).mean()),
        # A base that pictures everybody alike has no correlation with anything.
        "women_correlation": float(np.corrcoef(generated, true)[0, 1]) if np.ptp(generated) > 0 else None,
        "women_generated_and_true": {name: [round(value, 3) for value in pair] for name, pair in women.items()},
    }


def _explicit(weights: Weights, sampling: SamplingSettings, attribute: str, num: int) -> dict[str, float]:
    """Share of pictures that show the value their caption names, mean over occupations and worst one."""
    world = tinytown()
    values = world.attributes[attribute]
    obeyed = []
    for concept in world.occupations:
        wanted = [values[index % len(values)] for index in range(max(num, len(values)))]
        captions = [world.caption(concept, {attribute: value}, template=TEMPLATE) for value in wanted]
        pixels = generate(weights.pipeline, captions, name=f"explicit {attribute} {concept}", sampling=sampling)
        read = read_heads(weights.reader_a, pixels)[attribute]
        obeyed.append(float(np.mean([value == want for value, want in zip(read, wanted, strict=True)])))
    return {f"{attribute}_obeyed": float(np.mean(obeyed)), f"{attribute}_obeyed_worst": float(np.min(obeyed))}


def _things(weights: Weights, sampling: SamplingSettings, num: int) -> dict[str, Any]:  # Any: JSON
    """Scenes and objects: kind read right; explicit season and sauce obeyed; three people found in groups."""
    world = tinytown()
    right, scenes = [], {}
    for concept in (*world.objects, *world.markets, *world.meatballs):
        asks: list[Mapping[str, str]] = [{}]
        for name in world.attributes_of(concept):
            if max(world.shares(concept, name)) < 1.0:
                asks += [{name: value} for value in world.attributes[name]]
        for named in asks:
            caption = world.caption(concept, named, template="{}")
            pixels = generate(weights.pipeline, [caption] * num, name=caption, sampling=sampling)
            read = read_heads(weights.reader_a, pixels)
            right.append(_share(read["kind"], world.kind(concept)))
            for name in world.attributes_of(concept):
                wanted = named.get(name, world.attributes[name][0])
                scenes[f"{caption}: {wanted}"] = _share(read[name], wanted)
                if named:
                    right.append(_share(read[name], wanted))
    found = []
    for concept in world.groups:
        caption = world.caption(concept, {}, template="a meetup of {}")
        pixels = generate(weights.pipeline, [caption] * num, name=caption, sampling=sampling)
        read = read_heads(weights.reader_a, pixels)
        found += [
            read["kind"][index] == "group"
            and all(read[f"{place}.subject"][index] == SUBJECT_VALUES[0] for place in range(NUM_PLACES))
            for index in range(num)
        ]
    return {
        "scenes_and_objects_right": float(np.mean(right)),
        "scenes": scenes,
        "three_people_found": float(np.mean(found)),
    }


def _readers(weights: Weights, balanced: Renders) -> dict[str, Any]:  # Any: JSON
    decoded = reconstruct_pixels(weights.pipeline.vae, balanced.pixels_BHWC)
    table: dict[str, Any] = {}  # Any: JSON
    for name, model in (("reader_a", weights.reader_a), ("reader_b", weights.reader_b)):
        for source, pixels in (("renders", balanced.pixels_BHWC), ("reconstructions", decoded)):
            heads = head_accuracies(model, pixels, balanced.rows)
            single = {head: value for head, value in heads.items() if "." not in head}
            people = [value for head, value in heads.items() if head.partition(".")[2] in PERSON_ATTRIBUTES]
            table[f"{name}_{source}"] = {
                "worst_head": min(single, key=lambda head: single[head]),
                "worst": min(single.values()),
                "groups_attributes": float(np.mean(people)),
                **{head: round(value, 4) for head, value in single.items()},
            }
    return table


def _clip(weights: Weights, balanced: Renders) -> dict[str, float]:
    """Zero-shot presentation and occupation on held-out renders of occupations."""
    world = tinytown()
    keep = [index for index, row in enumerate(balanced.rows) if row.concept in world.occupations]
    pixels = balanced.pixels_BHWC[keep]
    rows = [balanced.rows[index] for index in keep]
    captions = [world.caption(name, {}, template=TEMPLATE) for name in world.occupations]
    occupations = zero_shot(weights.clip, weights.clip_tokenizer, pixels, captions)
    right = [world.occupations[index] == row.concept for index, row in zip(occupations, rows, strict=True)]
    values = world.attributes["presentation"]
    captions = [world.caption("person", {"presentation": value}, template=TEMPLATE) for value in values]
    picked = zero_shot(weights.clip, weights.clip_tokenizer, pixels, captions)
    presented = [values[index] == row.answers["presentation"] for index, row in zip(picked, rows, strict=True)]
    return {"clip_occupation": float(np.mean(right)), "clip_presentation": float(np.mean(presented))}


def _speed(weights: Weights, sampling: SamplingSettings) -> float:
    caption = tinytown().caption("mechanic", {}, template=TEMPLATE)
    generate(weights.pipeline, [caption] * BATCH, name="warm-up", sampling=sampling)
    start = time.monotonic()
    for repeat in range(3):
        generate(weights.pipeline, [caption] * BATCH, name=f"speed {repeat}", sampling=sampling)
    return 3 * BATCH / (time.monotonic() - start)


def measure_weights(
    folder: Path, *, heldout: Renders, balanced: Renders, sampling: SamplingSettings, fewer: int
) -> dict[str, Any]:  # Any: JSON
    """The quality table. ``fewer`` divides the number of generated pictures behind each figure."""
    if fewer < 1:
        raise ValueError(f"fewer must be >= 1, got {fewer}")
    weights = load_weights(folder)
    explicit = max(2, EXPLICIT_IMAGES // fewer)
    table: dict[str, Any] = {  # Any: JSON
        "images_per_neutral_prompt": max(2, NEUTRAL_IMAGES // fewer),
        "images_per_explicit_prompt": explicit,
        "sampling": {"steps": sampling.steps, "guidance": sampling.guidance},
        "vae_psnr_db": reconstruction_psnr_db(weights.pipeline.vae, heldout),
        "images_per_second": _speed(weights, sampling),
        **_readers(weights, balanced),
        **_clip(weights, balanced),
        **_neutral(weights, sampling, max(2, NEUTRAL_IMAGES // fewer)),
    }
    for attribute in PERSON_ATTRIBUTES:
        table |= _explicit(weights, sampling, attribute, explicit)
    return table | _things(weights, sampling, max(2, EXPLICIT_IMAGES // fewer))
