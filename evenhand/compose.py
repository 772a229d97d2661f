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
import importlib
import inspect
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import evenhand
from evenhand.paths import PACKAGE_FOLDER, conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

OWN_MODULES = ("evenhand.",)
MISSING = "???"
TARGET = "_target_"
ALLOW_MODULES = "allow_modules"
EXIT_USER_ERROR = 2
SCALARS = (bool, int, float, str)

Scalar = TypeVar("Scalar", bool, int, float, str)
Part = TypeVar("Part")


def closest(name: str, known: Collection[str]) -> str:
    """``; did you mean 'x'?`` where one of the known names is near, else the list of them."""
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; choose one of {', '.join(sorted(known))}" if known else ""


def build(
    node: object, *, key: str = "", allow: Sequence[str] = OWN_MODULES
) -> Any:  # Any: the part that _target_ names
    """The part of a plain config node, with the nodes inside it built first; containers and scalars stay what they are.

    ``key`` is the node's place in the config, for messages. Raises ValueError for a target outside the ``allow``ed
    prefixes, a key that the constructor does not take, one that it lacks, and a value of another type than annotated.
    """
    if isinstance(node, Mapping):
        parts = {
            str(name): value if name == TARGET else build(value, key=_join(key, name), allow=allow)
            for name, value in node.items()
        }
        return _construct(parts, key, allow) if TARGET in parts else parts
    if isinstance(node, list | tuple):
        return [build(value, key=_join(key, index), allow=allow) for index, value in enumerate(node)]
    if node == MISSING:
        raise ValueError(f"{key} has no value; set {key}=...")
    return node


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _construct(node: Mapping[str, object], key: str, allow: Sequence[str]) -> object:
    target = _find(node[TARGET], _join(key, TARGET), allow)
    parameters = _parameters(target)
    for name in node:
        if name not in parameters and name != TARGET:
            taken = f"{node[TARGET]} takes {', '.join(parameters) or 'nothing'}"
            raise ValueError(f"unknown key {_join(key, name)} ({taken}){closest(name, parameters)}")
    arguments = {}
    for name, parameter in parameters.items():
        if name in node:
            arguments[name] = _fit(node[name], _hint(parameter, target), _join(key, name))
        elif parameter.default is parameter.empty:
            raise ValueError(f"{_join(key, name)} is missing: {node[TARGET]} needs it")
    try:
        return target(**arguments)
    except ValueError as error:
        raise ValueError(f"{error} (config key: {key})" if key else str(error)) from error


def _parameters(target: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The parameters that a config can fill, by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in inspect.signature(target).parameters.items() if each.kind in kinds}


def _find(target: object, key: str, allow: Sequence[str]) -> Callable[..., object]:
    """The class or function that a target names."""
    if not isinstance(target, str) or "." not in target:
        raise ValueError(f"{key} must be module.name, got {target!r}")
    if not any(target.startswith(prefix if prefix.endswith(".") else prefix + ".") for prefix in allow):
        raise ValueError(
            f"{key}={target} is outside of {', '.join(prefix.rstrip('.') for prefix in allow)}; "
            f"list its module in {ALLOW_MODULES} to allow it"
        )
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ValueError(f"{key}={target}: there is no module {error.name}") from error
    part = getattr(module, name, None)
    if not callable(part):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise ValueError(f"{key}={target}: {module_name} has no {name!r}{closest(name, public)}")
    found: Callable[..., object] = part
    return found


def _hint(parameter: inspect.Parameter, target: Callable[..., object]) -> object:
    """A parameter's annotation as an object; None where it cannot be told without an import for type checkers only."""
    if not isinstance(parameter.annotation, str):
        return None if parameter.annotation is parameter.empty else parameter.annotation
    try:
        return eval(parameter.annotation, vars(sys.modules[target.__module__]))
    except NameError:
        return None


def _fit(value: object, hint: object, key: str) -> object:
    """The value as its annotation wants it: a Path for text, a tuple for a list; ValueError for a wrong scalar type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if hint is None or (value is None and type(None) in options):
        return value
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(f"{key} must be one of {', '.join(map(str, choices))}, got {value!r}")
        return value
    if Path in options and isinstance(value, str):
        return Path(value)
    if isinstance(value, list) and any(typing.get_origin(option) is tuple for option in options):
        return tuple(value)
    scalars = tuple(option for option in options if option in SCALARS)
    if not scalars or len(scalars) + (type(None) in options) != len(options) or type(value) in scalars:
        return value
    if float in scalars and type(value) is int:
        return float(value)
    names = " or ".join(scalar.__name__ for scalar in scalars)
    raise ValueError(f"{key} must be {names}, got {value!r}")


class Config:
    """A composed config as plain Python, which knows what has been read of it.

    ``plain`` is the whole config: dicts, lists and scalars only, interpolations resolved.
    """

    def __init__(self, plain: Mapping[str, Any]) -> None:  # Any: YAML
        self.plain = dict(plain)
        self._read = {ALLOW_MODULES}
        modules = self.plain.get(ALLOW_MODULES, [])
        if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
            raise ValueError(f"{ALLOW_MODULES} must be a list of module names, got {modules!r}")
        self._allow = (*OWN_MODULES, *modules)

    def build(self, key: str) -> Any:  # Any: the part that _target_ names
        """The part of a top-level key, or a list or mapping of parts; None where the key is null."""
        return build(self._get(key), key=key, allow=self._allow)

    def construct(self, kind: Callable[..., Part]) -> Part:
        """A part that takes this config's own keys: each of its arguments is the top-level key of that name."""
        parameters = _parameters(kind)
        parts = {name: build(self._get(name), key=name, allow=self._allow) for name in parameters}
        return kind(**{name: _fit(parts[name], _hint(each, kind), name) for name, each in parameters.items()})

    def value(self, key: str, kind: type[Scalar]) -> Scalar:
        """The scalar of a top-level key; ValueError for another type."""
        value = _fit(self._present(key), kind, key)
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
                raise ValueError(f"nothing reads the key {key!r}{closest(key, self._read - {ALLOW_MODULES})}")

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
        raise ValueError(_one_line(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def compose_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a primary file in conf/ with overrides, as a program gets it: for scripts and tests."""
    return Config(to_plain(_compose(name, overrides)))


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        config = compose(config_name=name, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in the config
    with open_dict(config):
        del config["hydra"]
    return config


def program(config_name: str) -> Callable[[Callable[[Config], Any]], Callable[[], None]]:  # Any: a sweeper's objective
    """Make a function a program's main: it gets ``conf/<config_name>.yaml`` composed with the command line."""

    def decorate(main: Callable[[Config], Any]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(config: DictConfig) -> Any:  # Any: a sweeper's objective
            return _run_task(main, config)

        @functools.wraps(main)
        def run() -> None:
            import hydra

            with _one_line_errors(config_name), _full_hydra_errors():
                hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)(task)()

        return run

    return decorate


def _run_task(main: Callable[[Config], Any], config: DictConfig) -> Any:  # Any: a sweeper's objective
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if int(os.environ.get("RANK", "0")) != 0:
        logging.getLogger().setLevel(logging.WARNING)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if sweep and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            sweep = False
            raise ValueError(
                "a sweep (-m) inside `accelerate launch` with several processes would mix the gradients of its jobs; "
                "start one `accelerate launch` for each job, or sweep with one process: python <program> -m ..."
            )
        log.info("evenhand %s from %s, choices from %s", evenhand.__version__, PACKAGE_FOLDER, conf_folder())
        return main(Config(to_plain(config)))
    except ValueError as error:
        if sweep or _wants_traceback():
            raise
        _exit_with(error)


@contextmanager
def _one_line_errors(config_name: str) -> Iterator[None]:
    from hydra.errors import HydraException
    from yaml import YAMLError

    try:
        yield
    except (ValueError, HydraException, YAMLError) as error:
        if _wants_traceback():
            raise
        hint = _override_hint(error, config_name) if isinstance(error, HydraException) else ""
        _exit_with(error, hint)


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
    sys.stderr.write(f"error: {_one_line(error)}{hint}\n")
    raise SystemExit(EXIT_USER_ERROR) from error


def _one_line(error: BaseException) -> str:
    """An exception's message on one line, with the cause that Hydra leaves out of it."""
    texts = [str(error)]
    if error.__cause__ is not None and not isinstance(error, ValueError):
        texts.append(str(error.__cause__))
    lines = [line.strip() for text in texts for line in text.splitlines()]
    skip = ("full_key:", "object_type=", "reference_type=", "To append to your config use", "provider=")
    lines = [line for line in lines if line != "Config search path:"]
    return " ".join(line for line in lines if line and not line.startswith(skip))


def _override_hint(error: Exception, config_name: str) -> str:
    """The nearest key of the config to the override that Hydra refused, if there is one."""
    from hydra.errors import ConfigCompositionException
    from omegaconf import OmegaConf

    message = str(error)
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
            yield _join(prefix, name)
            yield from _keys(value, _join(prefix, name))
