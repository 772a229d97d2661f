"""All stages that make tinytown, at the smallest size, from renders to the quality table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from evenhand.interfaces import SamplingSettings
from evenhand.tinytown.engine import EngineSettings
from evenhand.tinytown.stages import STAGES, Stages

ONE_STEP = EngineSettings(steps=1, batch_size=2, learning_rate=1e-3, log_every_steps=1)
SAMPLING = SamplingSettings(steps=1, guidance=2.0, height_px=64, width_px=64)


@pytest.mark.slow
def test_every_stage_runs_from_nothing_and_the_table_has_every_figure(tmp_path: Path) -> None:
    names = ("vae", "decoder", "reader_a", "reader_b", "clip", "diffusion")
    stages = Stages(
        tmp_path / "work",
        dict.fromkeys(names, ONE_STEP),
        num_renders=200,
        num_balanced=200,
        num_reconstructed=20,
        num_heldout=150,
        latent_channels=4,
        weights_folder=tmp_path / "weights",
    )
    for stage in STAGES:
        stages.run(stage)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "weights" / "base")
    assert pipeline.unet.config.in_channels == 4
    table = json.loads(json.dumps(stages.measure(SAMPLING, fewer=100)))
    # One step teaches nothing: pictures are noise, and the table must say so.
    assert table["vae_psnr_db"] < 20
    assert table["occupation_right"] < 0.5
    assert table["presentation_obeyed"] < 0.9
    assert table["three_people_found"] < 0.5
    assert set(table) >= {"images_per_second", "women_difference", "skin_obeyed", "scenes_and_objects_right"}
