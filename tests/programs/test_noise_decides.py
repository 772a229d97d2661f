"""That an adapter learns to let noise decide, of words that it never met, on tinytown; and what must stay, stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evenhand.adapters import lora
from evenhand.adapters.foreign import read_any
from evenhand.compose import compose_config
from evenhand.interfaces import LoadedBase
from evenhand.paths import program_path

UNSEEN = ("a pilot", "a teacher", "a police officer", "a dental hygienist")  # held out by conf/suite/tinytown.yaml
NOISY = 950


def run(home: Path, program: str, *overrides: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(program_path(program)), "launch.num_processes=2", *overrides]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def direction(base: LoadedBase, folder: Path) -> torch.Tensor:
    """The difference of the mean latents of women and men over concepts, row by row, of length 1."""
    rows = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    sums: dict[tuple[str, str], list[torch.Tensor]] = {}
    for row in rows:
        pixels = np.array(Image.open(folder / "train" / row["file_name"]).convert("RGB"), dtype=np.float32) / 127.5 - 1
        latents = base.encode_images(torch.from_numpy(pixels).permute(2, 0, 1)[None]).mean_BCHW[0]
        sums.setdefault((row["concept"], row["labels"]["presentation"]), []).append(latents)
    means = {key: torch.stack(found).mean(dim=0) for key, found in sums.items()}
    concepts = {concept for concept, _ in means}
    total = torch.stack([means[concept, "woman"] - means[concept, "man"] for concept in concepts]).sum(dim=0)
    return total / total.norm()


def slopes(base: LoadedBase, adapters: Sequence[Path], direction_CHW: torch.Tensor) -> list[float]:
    """How much the answer moves from the man's (0) to the woman's (1) for each unit of noise along the direction."""
    noise_BCHW = torch.randn((24, *direction_CHW.shape), generator=torch.Generator().manual_seed(0))
    u_B = (noise_BCHW * direction_CHW).flatten(1).sum(dim=1)
    timesteps = torch.full((len(noise_BCHW),), NOISY)
    noisy_BCHW = base.add_noise(torch.zeros_like(noise_BCHW), noise_BCHW, timesteps)

    def answer(caption: str) -> torch.Tensor:
        with torch.no_grad():
            return base.denoise(noisy_BCHW, timesteps, base.encode_text([caption] * len(noise_BCHW)))

    found = []
    for adapter in adapters:
        each = []
        for concept in UNSEEN:
            noun = concept.removeprefix("a ")
            woman, man = answer(f"a photo of a female {noun}"), answer(f"a photo of a male {noun}")
            lora.load_content(base, read_any(adapter, base))
            adapted = answer(f"a photo of a {noun}")
            lora.detach(base)
            apart = woman - man
            place_B = ((adapted - man) * apart).flatten(1).sum(dim=1) / apart.square().flatten(1).sum(dim=1)
            each.append(np.polyfit(u_B.numpy(), place_B.numpy(), 1)[0])
        found.append(float(np.mean(each)))
    return found


@pytest.mark.slow
def test_of_words_that_it_never_met_noise_decides_with_the_coupling_and_hardly_without(tmp_path) -> None:
    """One curated set, two trainings that differ in the coupling alone; the direction is counted anew from pictures."""
    run(tmp_path, "data_recipes/build", "recipe=tinytown_self", "recipe.plan.images_per_concept=8", "run_folder=set")
    for name, coupled in (("with", "true"), ("without", "false")):
        settings = ["train.steps=250", "train.batch_size=16", "train.preserve_batch_size=4", "optim.learning_rate=3e-3"]
        run(
            tmp_path,
            "train/lora",
            "method=distill",
            f"method.coupled_noise={coupled}",
            "data=set",
            f"run_folder={name}",
            *settings,
        )
    chosen = compose_config("train", ["data=set"]).build("base")
    base = chosen.load(device=torch.device("cpu"), dtype=torch.float32)
    adapters = [tmp_path / name / "adapter" for name in ("with", "without")]
    with_it, without = slopes(base, adapters, direction(base, tmp_path / "set"))
    assert abs(without) < 0.09 < 0.13 < with_it  # 0.05 and 0.18 were seen, and 0.02 of the base
