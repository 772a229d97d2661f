"""Runs a program and notes every file that it opens, makes or removes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LOG = "files.jsonl"

# Runs a program and notes what it does with files.
WATCHED = """
import json, os, runpy, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
def note(event, given):
    if event == "open" and not isinstance(given[0], int):
        kind = "write" if (given[2] or 0) & WRITES else "read"
        os.write(log, (json.dumps([kind, os.path.abspath(os.fsdecode(given[0]))]) + "\\n").encode())
    elif event in CHANGES:
        names = [os.path.abspath(os.fsdecode(each)) for each in given if isinstance(each, str | bytes)]
        os.write(log, "".join(json.dumps(["write", name]) + "\\n" for name in names).encode())
sys.argv = sys.argv[2:]
sys.addaudithook(note)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a program ended, and the files that it read and changed."""

    code: int
    stdout: str
    stderr: str
    read: set[Path]
    written: set[Path]
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("error")]


def run(arguments: list[str], folder: Path, *, before: tuple[str, ...] = ()) -> Done:
    """Run a program in ``folder``; ``before`` are words of a command that starts it."""
    log = folder / LOG
    log.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"TMPDIR": str(folder / "tmp")}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*before, sys.executable, "-c", WATCHED, str(log), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return Done(
        code=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        read={Path(name) for kind, name in events if kind == "read"},
        written={Path(name) for kind, name in events if kind == "write"},
        seconds=after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
    )
