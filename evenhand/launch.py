"""The driver: a job in processes of its own, one `accelerate launch` for each, so that no job can disturb another.

Any launcher of Hydra can run the driver, since it only starts a child, waits, and reads what the child wrote. A signal
that tells the driver to stop is handed on, and the child has ``grace_seconds`` to write its last checkpoint.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from evenhand.files import read_json, write_json_atomic, write_text_atomic
from evenhand.jobs import FAILURES, Job
from evenhand.paths import program_path
from evenhand.processes import DRIVEN, LAUNCHED, ChildCrashed, end_with_parent

COMMAND_FILE, LOG_FILE, ACCELERATE_FILE = "command.txt", "log.txt", "accelerate.json"
EVALUATION_FOLDER, MEASURED_FILE = "evaluation", "measured.json"
EXIT_GUARD_FAILED = 3  # of evaluate/shift.py: it measured, and something else moved than was meant to
# Set by `accelerate launch` also where it starts one process only, whatever --num_processes says (accelerate #2741).
ACCELERATED = "ACCELERATE_DYNAMO_BACKEND"
HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
POLL_SECONDS = 0.5
NO_TEXT = ("null", "true", "false", "nan", "inf")  # what Hydra reads as something else
STOPPED = "stopped: the same command goes on from the last checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Where a training runs. ``num_processes`` counts all machines together; None is this process, or what started it.

    ``accelerate_config`` is a file of `accelerate config`, for what a cluster needs; without one, ranks are plain
    copies (DDP). Each machine is given the same command with its own ``machine_rank``, and they meet at
    ``main_process_ip:main_process_port``.
    """

    num_processes: int | None
    num_machines: int
    machine_rank: int
    main_process_ip: str | None
    main_process_port: int
    accelerate_config: str | None
    grace_seconds: int

    def __post_init__(self) -> None:
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"num_processes must be >= 1 or null, got {self.num_processes} (launch.num_processes)")
        if self.num_machines < 1:
            raise ValueError(f"num_machines must be >= 1, got {self.num_machines} (launch.num_machines)")
        if self.grace_seconds < 0:
            raise ValueError(f"grace_seconds must be >= 0, got {self.grace_seconds} (launch.grace_seconds)")
        if self.accelerate_config is not None and not Path(self.accelerate_config).is_file():
            raise ValueError(f"launch.accelerate_config: there is no file {self.accelerate_config}")
        if self.num_machines > 1:
            self._check_machines()
        elif self.machine_rank != 0 or self.main_process_ip is not None:
            raise ValueError(
                "launch.machine_rank and launch.main_process_ip are for several machines: set launch.num_machines"
            )

    def _check_machines(self) -> None:
        """What Accelerate would wait for, without end and without a word."""
        if self.num_processes is None or self.num_processes % self.num_machines:
            raise ValueError(
                f"launch.num_processes={self.num_processes} must be a multiple of launch.num_machines="
                f"{self.num_machines}: it counts the processes of all machines"
            )
        if not 0 <= self.machine_rank < self.num_machines:
            raise ValueError(
                f"launch.machine_rank={self.machine_rank} must be one of 0 to {self.num_machines - 1}, "
                "another on each machine"
            )
        if self.main_process_ip is None or self.main_process_port == 0:
            raise ValueError(
                f"launch.num_machines={self.num_machines} needs launch.main_process_ip=<address of machine 0> and "
                "launch.main_process_port=<a port that is free there>: the machines would wait for each other for ever"
            )

    def drives(self, *, is_sweep: bool, measures: bool) -> bool:
        """Whether this process is a driver. ValueError where what was started cannot do what the config asks for."""
        if LAUNCHED in os.environ or DRIVEN in os.environ:
            if measures and DRIVEN not in os.environ:
                raise ValueError(
                    "measure needs a process after the training's: start python train/lora.py launch.num_processes=N "
                    "in place of `accelerate launch`"
                )
            self.check_world(int(os.environ.get("WORLD_SIZE", "1")))
            return False
        if self.num_processes is not None and ACCELERATED in os.environ:
            raise ValueError(
                f"launch.num_processes={self.num_processes}, but this `accelerate launch` started one process (with "
                "--cpu it always does): use --multi_gpu, or leave `accelerate launch` to launch.num_processes"
            )
        if is_sweep and self.num_machines > 1:
            raise ValueError(
                "a sweep (-m) runs each job on one machine: launch.num_machines must be 1; "
                "hydra/launcher=submitit_slurm or ray spread the jobs over machines"
            )
        return is_sweep or measures or self.num_processes is not None

    def check_world(self, num_processes: int) -> None:
        """Raise ValueError when there are other processes than were asked for."""
        wanted = self.num_processes or int(os.environ.get(DRIVEN, num_processes))
        if num_processes != wanted:
            raise ValueError(
                f"launch.num_processes={wanted}, but {num_processes} were started: give `accelerate launch` "
                f"--multi_gpu --num_processes {wanted}, or leave it to launch.num_processes"
            )

    def world_size(self) -> int:
        """How many processes the training has, or will have."""
        return int(os.environ.get("WORLD_SIZE", self.num_processes or 1))

    def speaks(self) -> bool:
        """Whether this is the process that says how it ended: one of many, and a driver in place of its child."""
        return int(os.environ.get("RANK", "0")) == 0 and DRIVEN not in os.environ and self.machine_rank == 0

    def run(self, job: Job, folder: Path, *, run_name: str) -> None:
        """Run the job's program in processes of its own and wait for its end; their words go to log.txt in a sweep.

        Raises what stopped it: ValueError for what a user can fix, SystemExit after a signal, else ChildCrashed.
        """
        command = self.command(job, folder, run_name=run_name)
        machine = f".machine{self.machine_rank}" if self.num_machines > 1 else ""
        write_text_atomic((folder / COMMAND_FILE).with_suffix(f"{machine}.txt"), shlex.join(command) + "\n")
        if self.accelerate_config is None and (self.num_processes or 1) > 1:
            write_json_atomic(folder / ACCELERATE_FILE, _plain_ranks(self.num_processes or 1))
        with tempfile.TemporaryDirectory(prefix="evenhand-") as failures:
            variables = {
                FAILURES: failures,
                DRIVEN: str(self.num_processes or 1),
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(self.grace_seconds),
            }
            log_path = folder / LOG_FILE if job.is_sweep else None
            code = run_child(command, variables=variables, log_path=log_path, grace_seconds=self.grace_seconds)
            if code != 0:
                raise _error(code, Path(failures), log_path)

    def command(self, job: Job, folder: Path, *, run_name: str) -> list[str]:
        """The command line of the child."""
        program = [str(job.program), f"--config-name={job.config_name}"]
        program += [f"--config-dir={place}" for place in job.config_folders]
        program += [*job.overrides, f"run_name={quoted(run_name)}", "hydra.mode=RUN"]
        if (self.num_processes or 1) == 1:
            return [sys.executable, *program]
        return [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            # without a file of ours, the user's own default_config.yaml would be read
            *("--config_file", self.accelerate_config or str(folder / ACCELERATE_FILE)),
            *(() if self.accelerate_config else ("--multi_gpu", "--mixed_precision=no", "--dynamo_backend=no")),
            f"--num_processes={self.num_processes}",
            f"--num_machines={self.num_machines}",
            f"--machine_rank={self.machine_rank}",
            *(() if self.main_process_ip is None else (f"--main_process_ip={self.main_process_ip}",)),
            # 0 is any free port: with the default one, two jobs of a machine would meet each other
            f"--main_process_port={self.main_process_port}",
            *program,
        ]


def measure(job: Job, folder: Path, overrides: Mapping[str, object], *, grace_seconds: int) -> None:
    """Run evaluate/shift.py on the adapter of a finished run, into ``<run>/evaluation``; once for the same overrides.

    The training's own base is measured. A failed guard is a result; ChildCrashed when there is none.
    """
    place, note = folder / EVALUATION_FOLDER, folder / MEASURED_FILE
    base = [override for override in job.overrides if re.match(r"base(=|\.)", override)]
    asked = [*base, *(f"{key}={override_value(value)}" for key, value in overrides.items())]
    if note.is_file() and read_json(note)["overrides"] == asked and (place / "results.json").is_file():
        return
    fixed = [f"adapter={quoted(str(folder / 'adapter'))}", f"run_folder={quoted(str(place))}"]
    log_path = folder / LOG_FILE if job.is_sweep else None
    try:
        code = run_program("evaluate/shift", [*asked, *fixed], log_path=log_path, grace_seconds=grace_seconds)
    except (ValueError, ChildCrashed) as error:
        raise ChildCrashed(f"the measurement failed: {error}") from error
    write_json_atomic(note, {"overrides": asked, "exit_code": code})


def run_program(name: str, overrides: Sequence[str], *, log_path: Path | None, grace_seconds: int) -> int:
    """Run a program such as ``train/lora`` in a process of its own; its exit code, 0 or that of a failed guard.

    Raises what stopped it: ValueError for what a user can fix, SystemExit after a signal, else ChildCrashed.
    """
    command = [sys.executable, str(program_path(name)), *overrides, "hydra.mode=RUN"]
    with tempfile.TemporaryDirectory(prefix="evenhand-") as failures:
        code = run_child(command, variables={FAILURES: failures}, log_path=log_path, grace_seconds=grace_seconds)
        if code not in (0, EXIT_GUARD_FAILED):
            raise _error(code, Path(failures), log_path)
    return code


def check_measure(overrides: Mapping[str, object] | None) -> None:
    """Raise ValueError for overrides of ``measure`` that the driver gives itself."""
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ValueError(f"measure must be null or overrides of evaluate/shift.py ({{tier: quick}}), got {overrides!r}")
    for key in overrides or {}:
        if key in ("adapter", "run_folder", "base"):
            raise ValueError(f"measure may not set {key}: it measures this run's adapter on the base of this training")


def override_value(value: object) -> str:
    """A value of a config as Hydra reads it back from a command line."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(override_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(value: str) -> str:
    """Text as Hydra reads it back from a command line, whatever letters are in it."""
    if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./+-]*", value) and value.lower() not in NO_TEXT:
        return value
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"


def run_child(
    command: Sequence[str], *, variables: Mapping[str, str], log_path: Path | None, grace_seconds: int
) -> int:
    """The exit code of a child, negative for a signal's number; SystemExit when this process was told to stop.

    The child has its own session, so that Ctrl-C reaches it once, through here, and it ends when this process does.
    """
    environment = {key: value for key, value in os.environ.items() if key not in (FAILURES, DRIVEN)} | dict(variables)
    with nullcontext() if log_path is None else log_path.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_begin_child,  # two system calls; nothing here takes a lock between fork and exec
        )
        with _handed_on(process, grace_seconds) as received:
            try:
                code = process.wait()
            except BaseException:
                _stop(process, grace_seconds)
                raise
    if received and code != 0:
        raise SystemExit(STOPPED)
    return code


def _begin_child() -> None:
    end_with_parent()
    # a launcher dies of these at once and leaves its workers behind; what a batch system sends goes to the driver
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@contextmanager
def _handed_on(process: subprocess.Popen[bytes], grace_seconds: int) -> Iterator[list[int]]:
    """Inside, a signal to stop reaches the child as SIGTERM, and as SIGKILL when it comes again or grace is over."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            process.terminate()
            threading.Thread(target=_kill_late, args=(process, grace_seconds), daemon=True).start()
        else:
            _kill(process)

    before = {number: signal.signal(number, hand_on) for number in HANDED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill_late(process: subprocess.Popen[bytes], grace_seconds: int) -> None:
    deadline = time.monotonic() + grace_seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            _kill(process)
            return
        time.sleep(POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes], grace_seconds: int) -> None:
    process.terminate()
    try:
        process.wait(timeout=grace_seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the child and to the workers in its session."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)


def _plain_ranks(num_processes: int) -> dict[str, object]:
    """What `accelerate config` would write for copies of the model on each rank."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",  # ranks without a GPU are told so by the program
        "num_processes": num_processes,
        "mixed_precision": "no",
        "use_cpu": False,
        "debug": False,
    }


def _error(code: int, failures: Path, log_path: Path | None) -> Exception:
    """What stopped the first of the child's processes that failed."""
    records = sorted((read_json(path) for path in failures.glob("*.json")), key=lambda record: record["seconds"])
    if records and records[0]["user"]:
        return ValueError(records[0]["error"])
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    where = "" if log_path is None else f"; its log: {log_path}"
    return ChildCrashed(f"{records[0]['error']} ({ended}{where})" if records else f"{ended}{where}")
