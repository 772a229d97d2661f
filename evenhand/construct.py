"""A node of a config to the part that it names, strictly: the constructor's signature is the schema.

A node names one part by ``_target_`` and gives its constructor's arguments. Nothing here knows a config library.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

OWN_MODULES = ("evenhand.",)
ALLOW_MODULES = "allow_modules"
MISSING = "???"
TARGET = "_target_"
SCALARS = (bool, int, float, str)


class Unset(ValueError):
    """A key that the user must choose a value for."""

    def __init__(self, key: str, *, set_at: str | None = None) -> None:
        super().__init__(f"{key} has no value; set {set_at or key}=...")
        self.key = key


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
            str(name): value if name == TARGET else build(value, key=dotted(key, name), allow=allow)
            for name, value in node.items()
        }
        return _construct(parts, key, allow) if TARGET in parts else parts
    if isinstance(node, list | tuple):
        return [build(value, key=dotted(key, index), allow=allow) for index, value in enumerate(node)]
    if node == MISSING:
        raise Unset(key)
    return node


def build_at(plain: Mapping[str, Any], key: str, *, allow: Sequence[str]) -> Any:  # Any: YAML; the part that it names
    """The part of a top-level key of a whole config; a message says where what it lacks is set."""
    try:
        return build(plain[key], key=key, allow=allow)
    except Unset as unset:
        raise Unset(unset.key, set_at=_place_to_set(plain, unset.key)) from None


def _place_to_set(plain: Mapping[str, Any], key: str) -> str:  # Any: YAML
    """``recipe.base: ${base}`` takes its keys from ``base``, and can be given none itself."""
    parent, _, name = key.rpartition(".")
    node: Any = plain
    for part in parent.split(".") if parent else ():
        node = node[int(part)] if isinstance(node, list) else node.get(part, {})
    sources = [other for other, value in plain.items() if value == node and not key.startswith(f"{other}.")]
    return dotted(sources[0], name) if sources else key


def dotted(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _construct(node: Mapping[str, object], key: str, allow: Sequence[str]) -> object:
    target = _find(node[TARGET], dotted(key, TARGET), allow)
    parameters = _parameters(target)
    for name in node:
        if name not in parameters and name != TARGET:
            taken = f"{node[TARGET]} takes {', '.join(parameters) or 'nothing'}"
            raise ValueError(f"unknown key {dotted(key, name)} ({taken}){closest(name, parameters)}")
    arguments = {}
    for name, parameter in parameters.items():
        if name in node:
            arguments[name] = fitted(node[name], _hint(parameter, target), dotted(key, name))
        elif parameter.default is parameter.empty:
            raise ValueError(f"{dotted(key, name)} is missing: {node[TARGET]} needs it")
    try:
        return target(**arguments)
    except ValueError as error:
        raise ValueError(f"{error} (config key: {key})" if key else str(error)) from error


def arguments_from_keys(
    target: Callable[..., object], value_of: Callable[[str], object], *, allow: Sequence[str]
) -> dict[str, object]:
    """The arguments of a part whose constructor takes a config's own keys: ``value_of`` gives the node of a key."""
    return {
        name: fitted(build(value_of(name), key=name, allow=allow), _hint(parameter, target), name)
        for name, parameter in _parameters(target).items()
    }


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


def fitted(value: object, hint: object, key: str) -> object:
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
