"""The shipped weights: small enough, in plain formats, and the readers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from evenhand.paths import PACKAGE_FOLDER
from evenhand.tinytown.classifiers import head_accuracies, reconstruct_pixels
from evenhand.tinytown.measure import load_weights
from evenhand.tinytown.renders import HELDOUT_SEED, RenderRow
from evenhand.tinytown.world import PERSON_ATTRIBUTES, tinytown

WEIGHTS = PACKAGE_FOLDER / "tinytown" / "weights"
MOST_BYTES = 20 * 10**6
NUM_RENDERS = 200


@pytest.fixture(scope="module")
def heldout() -> tuple[np.ndarray, list[RenderRow]]:
    world = tinytown()
    samples = [world.sample_balanced(HELDOUT_SEED + number) for number in range(NUM_RENDERS)]
    pixels = np.stack([np.asarray(world.render(sample.scene)) for sample in samples])
    rows = [
        RenderRow(text=sample.text, concept=sample.scene.concept, answers=world.head_labels(sample.scene))
        for sample in samples
    ]
    return pixels, rows


def test_weights_are_small_safetensors_in_half_precision() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json"}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in WEIGHTS.rglob("*.safetensors"):
        dtypes = {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}
        assert dtypes == {torch.float16}, path
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS / "base")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", ["reader_a", "reader_b"])
def test_a_shipped_reader_reads_heldout_renders_and_reconstructions(name: str, heldout) -> None:
    pixels, rows = heldout
    weights = load_weights(WEIGHTS)
    reader = getattr(weights, name)
    # Truth is the world's own labels. The exact figures on 2000 renders stand in docs/tinytown.md.
    for source in (pixels, reconstruct_pixels(weights.pipeline.vae, pixels)):
        accuracies = head_accuracies(reader, source, rows)
        assert min(accuracies[head] for head in ("kind", "occupation", *PERSON_ATTRIBUTES)) > 0.93, accuracies
    # Control: noise is not read right.
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    assert head_accuracies(reader, noise, rows)["occupation"] < 0.2


def test_every_file_of_the_base_is_where_stable_diffusion_has_it() -> None:
    expected = {
        Path("model_index.json"),
        Path("scheduler/scheduler_config.json"),
        Path("text_encoder/config.json"),
        Path("text_encoder/model.safetensors"),
        Path("unet/config.json"),
        Path("unet/diffusion_pytorch_model.safetensors"),
        Path("vae/config.json"),
        Path("vae/diffusion_pytorch_model.safetensors"),
    }
    found = {path.relative_to(WEIGHTS / "base") for path in (WEIGHTS / "base").rglob("*") if path.is_file()}
    assert expected <= found
