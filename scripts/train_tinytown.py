#!/usr/bin/env python
"""Make tinytown from nothing, stage by stage, or measure what is shipped; conf/tinytown.yaml says how it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from evenhand.compose import Config, program
from evenhand.tinytown.engine import EngineSettings
from evenhand.tinytown.stages import PARALLEL, STAGES, WEIGHTS_FOLDER, Stages

SETTINGS = ("vae", "decoder", "reader_a", "reader_b", "clip", "diffusion")
# Keeps freed tensors in the process: without it, the allocator gives them back to the system at every step.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "OMP_NUM_THREADS": "1"}


def run_parallel(stage: str, num_processes: int) -> None:
    """This program again for one stage, on several processes."""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("stage=")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes), sys.argv[0]]
    subprocess.run([*command, f"stage={stage}", *overrides], check=True, env={**os.environ, **ALLOCATOR})


@program("tinytown")
def main(config: Config) -> None:
    """Run one stage, or all of them."""
    stage = config.value("stage", str)
    if stage not in (*STAGES, "all", "measure"):
        raise ValueError(f"unknown stage {stage!r}; choose one of {', '.join((*STAGES, 'all', 'measure'))}")
    settings: dict[str, EngineSettings] = {name: config.build(name) for name in SETTINGS}
    stages = Stages(
        Path(config.value("folder", str)),
        settings,
        num_renders=config.value("num_renders", int),
        num_balanced=config.value("num_balanced", int),
        num_reconstructed=config.value("num_reconstructed", int),
        num_heldout=config.value("num_heldout", int),
        latent_channels=config.value("latent_channels", int),
        weights_folder=Path(config.optional("weights_folder", str) or WEIGHTS_FOLDER),
    )
    num_processes = config.value("num_processes", int)
    sampling = config.build("sampling")
    fewer = config.value("fewer", int)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    if stage == "measure":
        print(json.dumps(stages.measure(sampling, fewer=fewer), indent=1))
        return
    for name in STAGES if stage == "all" else (stage,):
        if name in PARALLEL and num_processes > 1 and "WORLD_SIZE" not in os.environ:
            run_parallel(name, num_processes)
        else:
            stages.run(name)


if __name__ == "__main__":
    main()
