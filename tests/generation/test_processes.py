"""Several real processes make the images that one makes, and none of them outlives the first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenhand.bases.sd import LoadedStableDiffusion, StableDiffusion
from evenhand.generation.arms import Work, finish_images, generate_arms
from evenhand.generation.processes import Crew, best_number
from tests.tiny import PLAIN
from tests.tiny_evaluation import saved_adapter, tiny_plan


def test_the_number_of_processes_fits_cores_memory_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 * 2**18}.__getitem__)  # 4 GiB
    assert best_number(seconds=1e4, num_threads=1, unet_bytes=10**6) == 8
    assert best_number(seconds=1e4, num_threads=3, unet_bytes=10**6) == 2
    assert best_number(seconds=1e4, num_threads=16, unet_bytes=10**6) == 1
    assert best_number(seconds=1e4, num_threads=1, unet_bytes=2**29) == 2  # 2 GiB for bases of 1 GiB each
    assert best_number(seconds=1e4, num_threads=1, unet_bytes=10**12) == 1
    assert best_number(seconds=30.0, num_threads=1, unet_bytes=10**6) == 2
    assert best_number(seconds=0.0, num_threads=1, unet_bytes=10**6) == 1


def crew(work: Work, base: LoadedStableDiffusion, folder: Path, *, num_processes: int, num_ranks: int = 1) -> Crew:
    choice = StableDiffusion(name=base.name, model=str(folder), **PLAIN)
    return Crew(work, base, choice, num_processes=num_processes, num_threads=1, rank=0, num_ranks=num_ranks)


def test_processes_of_its_own_and_launched_ones_exclude_each_other(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    work = Work(plan=tiny_plan(sd, adapter), folder=tmp_path / "run", adapter=adapter)
    with pytest.raises(ValueError, match="num_processes=2 .* but 4 were launched already"):
        crew(work, sd, tiny_folder, num_processes=2, num_ranks=4)


@pytest.mark.slow
def test_two_processes_make_the_images_of_one(sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path) -> None:
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    one, two = (Work(plan=tiny_plan(sd, adapter), folder=tmp_path / name, adapter=adapter) for name in ("one", "two"))
    generate_arms(one, sd)
    expected = finish_images(one.plan, one.folder)
    with crew(two, sd, tiny_folder, num_processes=2) as together:
        together.make(arms=("base",), num_rounds=None)
        assert len(list(two.folder.rglob("*.png"))) == 6
        together.make(arms=("adapted",), num_rounds=None)
    torch.set_num_threads(num_threads)
    assert (two.folder / "images.rank1.jsonl").is_file()
    assert finish_images(two.plan, two.folder) == expected
    assert (one.folder / "images.jsonl").read_bytes() == (two.folder / "images.jsonl").read_bytes()
    assert multiprocessing.active_children() == []


PARENT = """
import sys, time
from pathlib import Path
from evenhand.generation.processes import _end_with_parent
import multiprocessing, threading

def helper(path):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        Path(path).touch()
        time.sleep(0.05)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=helper, args=(sys.argv[1],), daemon=True).start()
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_process_ends_when_the_first_is_killed(tmp_path: Path) -> None:
    script, beat = tmp_path / "parent.py", tmp_path / "beat"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(beat)])
    while not beat.exists():
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    time.sleep(2.0)
    last = beat.stat().st_mtime_ns
    time.sleep(1.0)
    assert beat.stat().st_mtime_ns == last
