from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from tests.tiny import randomize
from tests.tiny_validation import tiny_validation

PATIENCE_SECONDS = 300


@pytest.fixture
def adapter(sd: LoadedStableDiffusion) -> Adapter:
    """An adapter that changes pictures."""
    made = attach(sd, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
    randomize(made, std=0.5)
    return made


SCRIPT = """
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from tests.tiny import load_sd, randomize
from tests.tiny_validation import Remember, tiny_choice

torch.set_num_threads(1)
model, folder = Path(sys.argv[1]), Path(sys.argv[2])
accelerator = Accelerator(cpu=True)
base = load_sd(model)
adapter = attach(base, LoraSettings(rank=2, alpha=2.0, targets="attention"), seed=0)
randomize(adapter, std=0.5)
tracker = Remember()
made = []
generate = base.generate
base.generate = lambda captions, *rest: made.extend(captions) or generate(captions, *rest)
choice = tiny_choice(batch_size=8)
validation = choice.load(base, adapter, accelerator=accelerator, tracker=tracker, folder=folder)
scores = [validation.run(2), validation.run(2)]
rank, world = accelerator.process_index, accelerator.num_processes
line = f"{world} {len(made)} {scores[0]!r} {scores[1]!r} {len(tracker.lines)}"
(folder / f"rank{rank}.txt").write_text(line)
accelerator.end_training()
"""


def told_by_ranks(tiny_folder: Path, tmp_path: Path, *, num_processes: int) -> list[list[str]]:
    """What each rank says of a validation in real processes: world size, images made, two scores, lines logged."""
    script, folder = tmp_path / "validate.py", tmp_path / "together"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, str(script), str(tiny_folder), str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(folder / f"rank{rank}.txt").read_text().split() for rank in range(num_processes)]


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """One thread and two differ in the last bits of an image."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_processes_share_the_images_and_write_what_one_writes_also_where_one_has_no_share(
    sd, adapter, tiny_folder, tmp_path
) -> None:
    alone = tiny_validation(sd, adapter, tmp_path / "alone", batch_size=8).run(2)
    ranks = told_by_ranks(tiny_folder, tmp_path, num_processes=3)
    assert [rank[0] for rank in ranks] == ["3", "3", "3"]  # three processes indeed
    assert [int(rank[1]) for rank in ranks] == [2 * 8, 2 * 5, 0]  # a batch of 8 and one of 5; base and adapter
    assert {tuple(rank[2:4]) for rank in ranks} == {(repr(alone), repr(alone))}  # every rank has the score of one
    assert [rank[4] for rank in ranks] == ["2", "0", "0"]  # the first alone logs
    for name in ("scores.jsonl", "plan.json", "base.json", "base.png", "step-00000002.png"):
        one, many = (tmp_path / folder / "validation" / name for folder in ("alone", "together"))
        assert one.read_bytes() == many.read_bytes(), name
