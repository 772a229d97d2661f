"""What stock diffusers makes of an adapter's file: the same images up to rounding, for every kind of adapter.

The expected images come from diffusers' own pipeline and loader, which know nothing of evenhand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from evenhand.adapters.lora import detach, load
from tests.adapters.test_lora import CARD
from tests.adapters.variants import VARIANTS, trained
from tests.tiny import IMAGE_PX, alike, load_sd, load_sdxl

CAPTION = "a portrait of a mechanic"
STOCK = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline

model, out, *adapters = sys.argv[1:]
made = {}
for adapter in adapters:
    pipeline = DiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(adapter)
    made[adapter.rpartition("/")[2]] = pipeline(
        "a portrait of a mechanic", num_inference_steps=2, guidance_scale=3.0, height=64, width=64,
        generator=torch.Generator().manual_seed(3), output_type="latent").images.numpy()
np.savez(out, **made)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("evenhand"))))
"""


def latents(pipeline: DiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        CAPTION,
        num_inference_steps=2,
        guidance_scale=3.0,
        height=IMAGE_PX,
        width=IMAGE_PX,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    )
    return made.images.numpy()


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_adapter_makes_the_same_image_in_stock_diffusers(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, family: str
) -> None:
    folder = request.getfixturevalue({"sd": "tiny_folder", "sdxl": "tiny_sdxl_folder"}[family])
    base = {"sd": load_sd, "sdxl": load_sdxl}[family](folder)
    unchanged = latents(base.pipeline)
    trained(base, name).save(tmp_path, CARD)
    ours = latents(base.pipeline)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path)
    assert alike(latents(pipeline), ours)
    assert np.abs(ours - unchanged).max() > 0.01
    detach(base)
    assert np.array_equal(latents(base.pipeline), unchanged)
    load(base, tmp_path)
    assert alike(latents(base.pipeline), ours)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_kind_of_adapter_makes_the_same_image_in_a_fresh_process(
    request: pytest.FixtureRequest, tmp_path: Path, family: str
) -> None:
    folder = request.getfixturevalue({"sd": "tiny_folder", "sdxl": "tiny_sdxl_folder"}[family])
    ours = {}
    for name in VARIANTS:
        base = {"sd": load_sd, "sdxl": load_sdxl}[family](folder)
        trained(base, name).save(tmp_path / name, CARD)
        ours[name] = latents(base.pipeline)
    arguments = [str(folder), str(tmp_path / "made.npz"), *(str(tmp_path / name) for name in VARIANTS)]
    done = subprocess.run([sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    with np.load(tmp_path / "made.npz") as made:
        assert [name for name in VARIANTS if not alike(made[name], ours[name])] == []
    assert len({value.tobytes() for value in ours.values()}) == len(ours)
