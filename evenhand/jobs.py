"""A job: how a program was started, what it is called in a sweep, and the word it leaves when it fails.

A job's name is a function of its overrides alone, so that the same command finds the same run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from evenhand.files import write_json_atomic
from evenhand.processes import ChildCrashed

log = logging.getLogger(__name__)

# What a user can fix; a loss that is no longer finite is cured by another learning rate.
USER_ERRORS = (ValueError, FloatingPointError)
FAILURE_FILE = "failure.json"
FAILURES = "EVENHAND_FAILURES"  # set by the driver: the folder where its workers say what stopped them
# Overrides of these keys say where a run goes, who watches it and how it is started: they do not tell runs apart.
NOT_IN_NAME = (
    "experiment",
    "run_name",
    "run_folder",
    "sweep_folder",
    "cache_folder",
    "tracker",
    "launch",
    "measure",
    "objective",
    "allow_modules",
    "hydra",
)
MOST_LETTERS = 80
HASH_LETTERS = 8
# Letters that neither a shell nor Hydra's grammar of overrides reads as anything else, so that a folder with such a
# name can stand in a command without quotes.
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How a program was started, so that a launcher can start it again in other processes.

    ``overrides`` are those of this job alone, ``config_folders`` what ``--config-dir`` added.
    """

    program: Path
    config_name: str
    config_folders: tuple[str, ...]
    overrides: tuple[str, ...]
    is_sweep: bool


def override_key(override: str) -> str:
    """The key of an override: ``optim.learning_rate`` of ``+optim.learning_rate=1e-4``."""
    return override.lstrip("+~").partition("=")[0]


def job_name(overrides: Sequence[str]) -> str:
    """``learning_rate-0.0003+rank-4`` of ``lora.rank=4 optim.learning_rate=0.0003``; empty where nothing tells it.

    A key is shown by its last word, the base and the data come last. Where something is left out (a folder, an odd
    letter, what is too long), a short hash of all of it is put behind.
    """
    told = sorted((override for override in overrides if _top(override) not in NOT_IN_NAME), key=_place)
    lossless = True
    words = []
    for override in told:
        key, _, value = override.partition("=")
        shown = UNSAFE.sub("-", value.rstrip("/").rpartition("/")[2])
        lossless &= shown == value
        words.append(f"{UNSAFE.sub('-', key.lstrip('+~').rpartition('.')[2])}-{shown}")
    lossless &= len(set(words)) == len(words)
    name = "+".join(words)
    if lossless and len(name) <= MOST_LETTERS:
        return name
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:HASH_LETTERS]
    return f"{name[: MOST_LETTERS - HASH_LETTERS - 1]}-{digest}"


def _top(override: str) -> str:
    return re.split(r"[./@]", override_key(override))[0]


def _place(override: str) -> tuple[bool, str]:
    """What a whole sweep mostly has in common stands last, where a long name is cut."""
    return _top(override) in ("base", "data", "images"), override


def note_failure(error: Exception, plain: Mapping[str, Any], job: Job) -> None:  # Any: YAML
    """Leave word of what stopped a process: a worker to its driver, a job to the table of its sweep."""
    user = isinstance(error, USER_ERRORS)
    text = one_line(error) if user or isinstance(error, ChildCrashed) else f"{type(error).__name__}: {one_line(error)}"
    if FAILURES in os.environ:
        record = {"error": text, "user": user, "seconds": time.time()}
        write_json_atomic(Path(os.environ[FAILURES]) / f"rank-{os.environ.get('RANK', '0')}.json", record)
    if job.is_sweep:
        log.error("%s failed: %s", plain.get("run_name", "the job"), text)
        if plain.get("run_folder"):
            record = {"error": text, "when": now(), "overrides": job.overrides, "config": dict(plain)}
            with contextlib.suppress(OSError):  # where nothing can be written, the error itself says so
                write_json_atomic(Path(plain["run_folder"]) / FAILURE_FILE, record)


def one_line(error: BaseException) -> str:
    """An exception's message on one line, with the cause that Hydra leaves out of it."""
    texts = [str(error)]
    if error.__cause__ is not None and not isinstance(error, (*USER_ERRORS, ChildCrashed)):
        texts.append(str(error.__cause__))
    lines = [line.strip() for text in texts for line in text.splitlines()]
    skip = ("full_key:", "object_type=", "reference_type=", "To append to your config use", "provider=")
    lines = [line for line in lines if line != "Config search path:"]
    return " ".join(line for line in lines if line and not line.startswith(skip))


def now() -> str:
    """The time as ISO 8601 text in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
