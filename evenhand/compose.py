"""Config to parts, strictly. The only file that knows OmegaConf and Hydra.

A node of the config names one part by ``_target_`` and gives its constructor's arguments; the constructor's signature
is the schema. A program looks like this:

    @program("train")
    def main(config: Config) -> None:
        base = config.build("base")
        seed = config.value("seed", int)
        config.refuse_unread()
        ...

    if __name__ == "__main__":
        main()

What a user can fix (a misspelt key, an unknown choice, a missing file) ends in one line on stderr and exit code 2; the
environment variable EVENHAND_TRACEBACK=1 shows the traceback. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import evenhand
from evenhand.construct import (
    ALLOW_MODULES,
    MISSING,
    OWN_MODULES,
    arguments_from_keys,
    build_at,
    closest,
    dotted,
    fitted,
)
from evenhand.files import read_json, write_json_atomic
from evenhand.jobs import FAILURE_FILE, FAILURES, USER_ERRORS, Job, job_name, note_failure, now, one_line, override_key
from evenhand.paths import PACKAGE_FOLDER, conf_folder
from evenhand.processes import ChildCrashed, end_with_parent, is_worker

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

EXIT_USER_ERROR, EXIT_CRASHED = 2, 1
SWEEP_FILE = "sweep.json"
SHARED_KEYS = (ALLOW_MODULES, "sweep_folder")  # read here, for every program

Scalar = TypeVar("Scalar", bool, int, float, str)
Part = TypeVar("Part")


class Config:
    """A composed config as plain Python, which knows what has been read of it.

    ``plain`` is the whole config: dicts, lists and scalars only, interpolations resolved. ``job`` is how the program
    was started.
    """

    def __init__(self, plain: Mapping[str, Any], job: Job | None = None) -> None:  # Any: YAML
        self.plain = dict(plain)
        self._job = job
        self._read = set(SHARED_KEYS)
        modules = self.plain.get(ALLOW_MODULES, [])
        if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
            raise ValueError(f"{ALLOW_MODULES} must be a list of module names, got {modules!r}")
        self._allow = (*OWN_MODULES, *modules)

    @property
    def job(self) -> Job:
        """How the program was started; only a config that came from a command line has it."""
        assert self._job is not None, "composed in Python, not by a command line"
        return self._job

    def build(self, key: str) -> Any:  # Any: the part that _target_ names
        """The part of a top-level key, or a list or mapping of parts; None where the key is null."""
        self._get(key)
        return build_at(self.plain, key, allow=self._allow)

    def construct(self, kind: Callable[..., Part]) -> Part:
        """A part that takes this config's own keys: each of its arguments is the top-level key of that name."""
        return kind(**arguments_from_keys(kind, self._get, allow=self._allow))

    def value(self, key: str, kind: type[Scalar]) -> Scalar:
        """The scalar of a top-level key; ValueError for another type."""
        value = fitted(self._present(key), kind, key)
        if type(value) is not kind:
            raise ValueError(f"{key} must be {kind.__name__}, got {value!r}")
        return value

    def optional(self, key: str, kind: type[Scalar]) -> Scalar | None:
        """The scalar of a top-level key that may be null."""
        return None if self._get(key) is None else self.value(key, kind)

    def refuse_unread(self) -> None:
        """Raise ValueError for a top-level key that this program has not read: call it before anything expensive."""
        for key in self.plain:
            if key not in self._read:
                raise ValueError(f"nothing reads the key {key!r}{closest(key, self._read - set(SHARED_KEYS))}")

    def ignore(self, *keys: str) -> None:
        """Count keys as read that are there for other programs with the same primary config."""
        for key in keys:
            self._get(key)

    def _present(self, key: str) -> object:
        value = self._get(key)
        if value == MISSING:
            raise ValueError(f"{key} has no value; set {key}=...")
        return value

    def _get(self, key: str) -> Any:  # Any: YAML
        if key not in self.plain:
            raise ValueError(f"the config has no key {key!r}{closest(key, self.plain)}")
        self._read.add(key)
        return self.plain[key]


def to_plain(config: DictConfig) -> dict[str, Any]:  # Any: YAML
    """An OmegaConf config as plain Python with its interpolations resolved; ValueError says which one cannot be."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def compose_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a primary file in conf/ with overrides, as a program gets it: for scripts and tests."""
    return Config(to_plain(_compose(name, overrides)))


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    # In a program Hydra has begun already, with the program's own choices, and refuses to begin again.
    begun = GlobalHydra.instance().is_initialized()
    with nullcontext() if begun else initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        config = compose(config_name=name, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in the config
    with open_dict(config):
        del config["hydra"]
    return config


def program(
    config_name: str, *, after_sweep: Callable[[Path], str | None] | None = None
) -> Callable[[Callable[[Config], Any]], Callable[[], None]]:  # Any: a sweeper's objective
    """Make a function a program's main: it gets ``conf/<config_name>.yaml`` composed with the command line.

    ``after_sweep`` is called with the sweep's folder when a sweep (``-m``) has ended, however it ended, in the process
    that the user started; what it gives names the jobs that did not finish, and makes the exit status non-zero.
    """

    def decorate(main: Callable[[Config], Any]) -> Callable[[], None]:
        file = Path(main.__code__.co_filename).resolve()

        @functools.wraps(main)
        def task(config: DictConfig) -> Any:  # Any: a sweeper's objective
            return _run_task(main, config, file, config_name)

        @functools.wraps(main)
        def run() -> None:
            import hydra

            if is_worker():
                end_with_parent()
            _Sweep.clear()
            with _one_line_errors(config_name), _full_hydra_errors(), _end_of_sweep(after_sweep):
                hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)(task)()

        return run

    return decorate


def _run_task(main: Callable[[Config], Any], config: DictConfig, file: Path, config_name: str) -> Any:  # Any: as above
    if int(os.environ.get("RANK", "0")) != 0:
        logging.getLogger().setLevel(logging.WARNING)
    job = _job(file, config_name)
    plain: dict[str, Any] = {}  # Any: YAML
    try:
        if job.is_sweep:
            _enter_sweep(config, job)
        plain = to_plain(config)
        log.info("evenhand %s from %s, choices from %s", evenhand.__version__, PACKAGE_FOLDER, conf_folder())
        value = main(Config(plain, job))
    except Exception as error:
        note_failure(error, plain, job)
        if job.is_sweep or not isinstance(error, USER_ERRORS) or _wants_traceback():
            raise
        _exit_with(error)
    if job.is_sweep and plain.get("run_folder"):
        (Path(plain["run_folder"]) / FAILURE_FILE).unlink(missing_ok=True)
    return value


def _job(file: Path, config_name: str) -> Job:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources
    return Job(
        program=file,
        config_name=hydra.job.config_name or config_name,
        config_folders=tuple(str(source.path) for source in sources if source.provider == "command-line"),
        overrides=tuple(_as_written(hydra.overrides.task)),
        is_sweep=hydra.mode == RunMode.MULTIRUN,
    )


def _as_written(node: Any) -> Any:  # Any: a container of OmegaConf, as Python
    """A container with its ``${...}`` unresolved: what an override names is resolved where the override is used."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _enter_sweep(config: DictConfig, job: Job) -> None:
    """Name a job of a sweep by its overrides, in whatever process and folder its launcher has put it."""
    from hydra.core.hydra_config import HydraConfig

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "a sweep (-m) inside `accelerate launch` with several processes would mix the gradients of its jobs; "
            "start it with python <program> -m ..., and give each job its processes with launch.num_processes=..."
        )
    os.chdir(HydraConfig.get().runtime.cwd)
    name = job_name(job.overrides)
    if not name or "run_name" in map(override_key, job.overrides) or config.run_folder is None:
        return
    before = str(config.run_folder)
    config.run_name = name
    if str(config.run_folder) == before:
        raise ValueError(
            f"run_folder={before} would be the folder of every job of the sweep; "
            "set 'run_folder=${sweep_folder}/${run_name}' (in quotes)"
        )


class _Sweep:
    """The sweep that this process drives: its folder, and what stood in its plan before."""

    folder: Path | None = None
    plan_before: typing.ClassVar[dict[str, Any] | None] = None  # Any: JSON

    @classmethod
    def clear(cls) -> None:
        cls.folder, cls.plan_before = None, None


class SweepStart:
    """A callback of Hydra (conf/program.yaml): writes the plan of a sweep, so that a job that is missing is missed."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Add the jobs of a grid to ``<sweep_folder>/sweep.json``; what another sweeper will choose nobody knows."""
        folder = Path(str(config.sweep_folder))
        path = folder / SWEEP_FILE
        _Sweep.folder = folder
        _Sweep.plan_before = read_json(path) if path.is_file() else None
        known = {} if _Sweep.plan_before is None else _Sweep.plan_before["jobs"]
        jobs = {job_name(overrides): overrides for overrides in _grid(config)}
        write_json_atomic(path, {"started": now(), "last": list(jobs), "jobs": {**known, **jobs}})

    def _nothing(self, **_: object) -> None:
        """Hydra calls every event of every callback."""

    on_run_start = on_run_end = on_multirun_end = on_job_start = on_job_end = on_compose_config = _nothing


def _grid(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of Hydra's own sweeper; nothing for others, and for jobs that name their folder."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not str(config.hydra.sweeper.get("_target_")).endswith(BasicSweeper.__name__):
        return []
    own = [f"{key}={value}" for key, value in _as_written(config.hydra.sweeper.params or {}).items()]
    texts = [*own, *_as_written(config.hydra.overrides.task)]
    elsewhere = {override_key(text) for text in texts if override_key(text) != "experiment" or "," in text}
    if elsewhere & {"run_name", "run_folder", "experiment"}:
        return []
    overrides = OverridesParser.create().parse_overrides(texts)
    return [list(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch if job_name(job)]


@contextmanager
def _end_of_sweep(after_sweep: Callable[[Path], str | None] | None) -> Iterator[None]:
    """Let ``after_sweep`` look at what a sweep left, however it ended; ChildCrashed with what it says."""
    from hydra.errors import HydraException

    raised: Exception | None = None
    try:
        yield
    except HydraException:
        if _Sweep.folder is not None:  # the jobs could not be composed, so there never was such a sweep
            _restore_plan(_Sweep.folder / SWEEP_FILE)
        raise
    except Exception as error:
        raised = error
    finally:
        problem = None if after_sweep is None or _Sweep.folder is None else after_sweep(_Sweep.folder)
    if problem is not None:
        cause = "" if raised is None or one_line(raised) in problem else f"{one_line(raised)}. "
        raise ChildCrashed(cause + problem)
    if raised is not None:
        raise raised


def _restore_plan(path: Path) -> None:
    if _Sweep.plan_before is None:
        path.unlink(missing_ok=True)
    else:
        write_json_atomic(path, _Sweep.plan_before)
    _Sweep.clear()


@contextmanager
def _one_line_errors(config_name: str) -> Iterator[None]:
    from hydra.errors import HydraException
    from yaml import YAMLError

    try:
        yield
    except (*USER_ERRORS, ChildCrashed, HydraException, YAMLError) as error:
        if _wants_traceback():
            raise
        _exit_with(error, _override_hint(error, config_name))


@contextmanager
def _full_hydra_errors() -> Iterator[None]:
    """Let exceptions leave Hydra, which else prints them itself with a traceback."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _wants_traceback() -> bool:
    return os.environ.get("EVENHAND_TRACEBACK") == "1"


def _exit_with(error: Exception, hint: str = "") -> typing.NoReturn:
    rank = os.environ.get("RANK", "0")
    if FAILURES not in os.environ:  # else the driver says it, once for all its workers
        sys.stderr.write(f"{'error' if rank == '0' else f'error in process {rank}'}: {one_line(error)}{hint}\n")
    raise SystemExit(EXIT_CRASHED if isinstance(error, ChildCrashed) else EXIT_USER_ERROR) from error


def _override_hint(error: Exception, config_name: str) -> str:
    """What to do about an override that Hydra refused: the nearest key of the config, an extra, ``~``; else nothing."""
    from hydra.errors import ConfigCompositionException
    from omegaconf import OmegaConf

    message = str(error)
    if any(name in message for name in ("hydra_plugins", "hydra/launcher/", "hydra/sweeper/")):
        return "; launchers and sweepers come with pip install 'evenhand[sweeps]'"
    if "Config group override must be a string" in message:
        return "; what is null in the defaults list is left out with ~<group>, not with <group>=null"
    marker = "Could not override '"
    if not isinstance(error, ConfigCompositionException) or marker not in message:
        return ""
    wrong = message.split(marker, 1)[1].split("'", 1)[0]
    try:
        known = list(_keys(OmegaConf.to_container(_compose(config_name, ()), resolve=False)))
    except ConfigCompositionException:
        return ""
    return closest(wrong, known) if difflib.get_close_matches(wrong, known, n=1) else ""


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield dotted(prefix, name)
            yield from _keys(value, dotted(prefix, name))
