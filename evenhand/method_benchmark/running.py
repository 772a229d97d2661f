"""Steps run as child processes, each once: the same command goes on where a killed one stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from evenhand.compose import compose_config
from evenhand.files import read_json, sha256_file, write_json_atomic
from evenhand.jobs import one_line
from evenhand.launch import LOG_FILE, run_program
from evenhand.method_benchmark.kept import keep, kept, kept_file, why_not_kept
from evenhand.method_benchmark.measured import Measured, measured
from evenhand.method_benchmark.names import NOT_DONE
from evenhand.method_benchmark.plan import EVALUATE, OF_THE_RUN, PRIMARY, Benchmark, Run, Step, note_of
from evenhand.processes import ChildCrashed

log = logging.getLogger(__name__)

GRACE_SECONDS = 30
FAILURE_FILE = "failure.json"


def check_steps(benchmark: Benchmark) -> None:
    """Raise ValueError for overrides that a program of the chosen runs would refuse, before the first is started."""
    seen = set()
    for run in benchmark.chosen:
        for step in benchmark.steps(run):
            kind = step.program, *(text for text in step.overrides if not text.startswith(OF_THE_RUN))
            if kind in seen:
                continue
            seen.add(kind)
            try:
                compose_config(PRIMARY[step.program], step.overrides)
            except Exception as error:  # Hydra's are no ValueErrors, and evenhand.compose alone knows them
                raise ValueError(f"{step.label}: {one_line(error)}") from error


def run_all(benchmark: Benchmark) -> None:
    """Run every step of the chosen runs that was not done yet, and note why a run failed in its folder.

    What failed is tried again by the next call, and what is kept in ``results_folder`` is not run again. A failure
    stops its own run alone; a signal stops everything.
    """
    chosen = benchmark.chosen
    for number, run in enumerate(chosen, start=1):
        if why_not_kept(benchmark, run) is None:
            log.info("run %d of %d: %s, whose result is kept", number, len(chosen), run.label)
            continue
        log.info("run %d of %d: %s", number, len(chosen), run.label)
        reason = _run(benchmark, run)
        note = run.folder / FAILURE_FILE
        if reason is None:
            note.unlink(missing_ok=True)
            if benchmark.results_folder is not None:
                keep(benchmark, measured(run, benchmark.bars))
        else:
            log.error("%s failed: %s", run.label, reason)
            write_json_atomic(note, {"error": reason})


def results(benchmark: Benchmark) -> tuple[list[Measured], dict[str, str]]:
    """What the runs gave, each from its folder or else as it is kept, and why each of the others gave nothing.

    What is found in a folder and is not kept yet is kept.
    """
    found, missing = [], {}
    for run in benchmark.runs:
        reason = what_is_missing(benchmark, run)
        if reason is None:
            found.append(measured(run, benchmark.bars))
            keep(benchmark, found[-1])
        elif (not_kept := why_not_kept(benchmark, run)) is None:
            found.append(kept(benchmark, run))
        else:
            is_there = benchmark.results_folder and kept_file(benchmark.results_folder, run).is_file()
            missing[run.label] = not_kept if is_there else reason
    return found, missing


def what_is_missing(benchmark: Benchmark, run: Run) -> str | None:
    """Why a run has no results of these overrides: it failed, was not run, or with others; None where it has."""
    failure = run.folder / FAILURE_FILE
    if failure.is_file():
        return str(read_json(failure)["error"])
    for step in benchmark.steps(run):
        note = note_of(step)
        if not (note.is_file() and step.done.is_file()):
            return f"{NOT_DONE}: {step.label}"
        done = read_json(note)
        if done["overrides"] != list(step.overrides):
            return f"{step.label}: it was done with other overrides, {_only_in(done['overrides'], step.overrides)}"
        if done.get("needs") != _sha256(step.needs):
            return f"{step.label}: it was done with another {step.needs}"
    return None


def _only_in(before: Sequence[str], now: Sequence[str]) -> str:
    """What two lists of overrides differ in, in words."""
    old, new = ([text for text in one if text not in other] for one, other in ((before, now), (now, before)))
    return f"{' '.join(old) or 'nothing'} instead of {' '.join(new) or 'nothing'}" if old or new else "in another order"


def _sha256(file: Path | None) -> str | None:
    return None if file is None or not file.is_file() else sha256_file(file)


def _run(benchmark: Benchmark, run: Run) -> str | None:
    for step in benchmark.steps(run):
        try:
            run_step(step)
        except (ValueError, ChildCrashed) as error:
            return f"{step.label}: {error}"
    return None


def run_step(step: Step) -> None:
    """Run a step unless it was done with the same overrides, on the same file of the step before.

    ValueError for what a user can fix, ChildCrashed for a program that ended badly. A failed guard is a result; a set
    that is not certified is an error.
    """
    note, asked = note_of(step), {"overrides": list(step.overrides), "needs": _sha256(step.needs)}
    if note.is_file() and step.done.is_file():
        before = read_json(note)
        if {key: before.get(key) for key in asked} == asked:
            return
    step.folder.mkdir(parents=True, exist_ok=True)
    log.info("%s", step.label)
    started = time.monotonic()
    code = run_program(step.program, step.overrides, log_path=step.folder / LOG_FILE, grace_seconds=GRACE_SECONDS)
    if code != 0 and step.program != EVALUATE:
        raise ChildCrashed(f"exit code {code}; its log: {step.folder / LOG_FILE}")
    if not step.done.is_file():
        raise ChildCrashed(f"it ended well, and {step.done} is not there; its log: {step.folder / LOG_FILE}")
    seconds = time.monotonic() - started
    write_json_atomic(note, {**asked, "exit_code": code, "seconds": seconds})
