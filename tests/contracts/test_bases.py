"""Every base of conf/base through one behaviour suite: its YAML builds, and its class keeps the contract."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evenhand.adapters.lora import attach, detach, load
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.unet import PRESETS
from evenhand.construct import build
from evenhand.paths import conf_folder
from tests.adapters.test_lora import CARD
from tests.tiny import LATENT_PX, randomize, sampling

FILES = sorted((conf_folder() / "base").glob("*.yaml"))
FOLDERS = {"StableDiffusion": "tiny_folder", "StableDiffusionXL": "tiny_sdxl_folder"}
CAPTIONS = ["a portrait of a mechanic", ""]
CPU = torch.device("cpu")


def node(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def loaded(request):
    """The base of each YAML, with the tiny model of its class in the place of its own."""
    choice = node(request.param)
    folder = request.getfixturevalue(FOLDERS[choice["_target_"].rpartition(".")[2]])
    return build({**choice, "model": str(folder), "variant": None}).load(device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_choice_is_named_like_its_file(path) -> None:
    assert build(node(path)).name == path.stem


def test_shapes_and_ranges_are_those_of_the_contract(loaded) -> None:
    text = loaded.encode_text(CAPTIONS)
    posterior = loaded.encode_images(torch.zeros(2, 3, loaded.resolution_px, loaded.resolution_px))
    noisy = torch.zeros(2, 4, LATENT_PX, LATENT_PX)
    assert posterior.mean_BCHW.shape == posterior.std_BCHW.shape == noisy.shape
    assert (posterior.std_BCHW > 0).all()
    assert loaded.denoise(noisy, torch.tensor([0, loaded.num_train_timesteps - 1]), text).shape == noisy.shape
    assert loaded.snr(torch.tensor([0, loaded.num_train_timesteps - 1])).diff().item() < 0
    image = loaded.generate(CAPTIONS, [0, 1], sampling())[1].image
    assert (image.mode, image.size) == ("RGB", (loaded.resolution_px, loaded.resolution_px))


def test_the_image_can_be_solved_for_from_what_was_noised_and_what_is_to_be_predicted(loaded) -> None:
    latents, noise = torch.randn((2, 3, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([10, 300, 700])
    noisy, target = (rule(latents, noise, timesteps) for rule in (loaded.add_noise, loaded.target))
    signal = (loaded.snr(timesteps) / (1 + loaded.snr(timesteps))).sqrt().view(-1, 1, 1, 1)
    sigma = (1 - signal**2).sqrt()
    if loaded.prediction_type == "v_prediction":
        solved = signal * noisy - sigma * target
    else:
        solved = (noisy - sigma * target) / signal
    torch.testing.assert_close(solved, latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_modules_that_exist(loaded, preset) -> None:
    targets = loaded.lora_targets(preset)
    assert len(set(targets)) == len(targets) > 0
    assert set(targets) <= {name for name, _ in loaded.unet.named_modules()}


def test_presets_grow_from_the_narrow_to_the_wide(loaded) -> None:
    sets = {preset: set(loaded.lora_targets(preset)) for preset in PRESETS}
    assert all(narrow < wide for narrow, wide in pairwise(sets.values()))


def test_targets_are_the_same_with_an_adapter_attached(loaded) -> None:
    before = {preset: loaded.lora_targets(preset) for preset in PRESETS}
    attach(loaded, LoraSettings(rank=2, alpha=2.0, targets="all"), seed=0)
    assert {preset: loaded.lora_targets(preset) for preset in PRESETS} == before


def test_an_adapter_that_was_saved_gives_the_same_image_when_loaded(loaded, tmp_path) -> None:
    def image() -> bytes:
        return loaded.generate(CAPTIONS[:1], [3], sampling())[0].image.tobytes()

    base = image()
    adapter = attach(loaded, LoraSettings(rank=2, alpha=4.0, targets="attention"), seed=0)
    randomize(adapter)
    adapted = image()
    path = adapter.save(tmp_path, CARD)
    detach(loaded)
    assert image() == base != adapted
    load(loaded, path)
    assert image() == adapted
