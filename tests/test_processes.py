"""The lock on a run folder, and the worker that ends with its launcher: with real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from evenhand.processes import LOCK_FILE, folder_lock, lock_holder

PATIENCE_SECONDS = 60
HOLD = """
import sys, time
from pathlib import Path
from evenhand.processes import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
LAUNCH = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""
WORK = """
import os, signal, time
from evenhand.processes import end_with_parent
{wanted}
print(os.getpid(), flush=True)
time.sleep(600)
"""

GROUP = """
import atexit, torch.distributed as dist
from evenhand.processes import leave_group_at_exit
atexit.register(lambda: print(dist.is_initialized(), flush=True))  # runs after what is registered below
dist.init_process_group("gloo", init_method="file://{store}", rank=0, world_size=1)
{wanted}
raise SystemExit(3)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_says_who_holds_it_and_is_free_after_a_kill(tmp_path: Path) -> None:
    holder = holding(tmp_path)
    try:
        in_use = rf"in use by process {holder.pid} on \S+ since 20\d\d-"
        with pytest.raises(ValueError, match=in_use), folder_lock(tmp_path, wait_seconds=0.5):
            pytest.fail("two processes hold one folder")
        assert f"process {holder.pid}" in str(lock_holder(tmp_path))
    finally:
        holder.kill()
        holder.communicate()
    assert lock_holder(tmp_path) is None
    with folder_lock(tmp_path, wait_seconds=0.0):
        assert f"process {os.getpid()}" in str(lock_holder(tmp_path))
    assert lock_holder(tmp_path) is None


def test_who_comes_while_a_process_ends_waits_for_it(tmp_path: Path) -> None:
    holder = holding(tmp_path)
    timer = threading.Timer(1.0, holder.kill)
    timer.start()
    started = time.monotonic()
    with folder_lock(tmp_path, wait_seconds=PATIENCE_SECONDS):
        assert time.monotonic() - started > 0.5
    timer.join()
    holder.communicate()


def test_a_lock_ends_with_its_block_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folder_lock(tmp_path):
        raise RuntimeError
    with folder_lock(tmp_path, wait_seconds=0.0):
        pass
    assert (tmp_path / LOCK_FILE).read_text() == ""


@pytest.mark.parametrize(("wanted", "ends"), [("end_with_parent()", True), ("", False)])
@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_worker_ends_when_its_launcher_is_killed(wanted: str, ends: bool) -> None:
    """The control is the same worker without the call: it lives on, and the test ends it."""
    worker = WORK.format(wanted=wanted)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, worker], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    deadline = time.monotonic() + (PATIENCE_SECONDS if ends else 2.0)
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        assert _lives(pid) is not ends
    finally:
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("wanted", "standing"), [("leave_group_at_exit()", "False"), ("", "True")])
def test_a_process_ends_without_its_group_even_after_an_error(tmp_path: Path, wanted: str, standing: str) -> None:
    program = GROUP.format(store=tmp_path / "store", wanted=wanted)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.strip() == standing
    if wanted:
        assert finished.returncode == 3, finished.stderr
