"""An optimizer's state as named tensors and JSON, and back, bit for bit.

Optimizers nest: per-parameter entries may be tensors, numbers, or mappings of such (bitsandbytes). Keys in a
safetensors file are paths, ``3/exp_avg``; what JSON lacks (infinity, in Prodigy's groups) is ``{"float": "inf"}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SEPARATOR = "/"
FLOAT = "float"


def flatten(
    state_dict: Mapping[str, Any],  # Any: an optimizer's own state
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:  # Any: JSON
    """The tensors of a ``state_dict`` by path, and the rest of it as JSON."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}  # Any: JSON
    for path, value in _leaves(state_dict["state"]):
        if isinstance(value, torch.Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()
        else:
            scalars[path] = _to_json(value)
    return tensors, {"scalars": scalars, "param_groups": [_to_json(group) for group in state_dict["param_groups"]]}


def unflatten(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:  # Any: as flatten
    """The ``state_dict`` that ``flatten`` took apart."""
    scalars = {path: _from_json(value) for path, value in rest["scalars"].items()}
    state: dict[int, Any] = {}  # Any: an optimizer's own state
    for path, value in {**tensors, **scalars}.items():
        index, *names, last = path.split(SEPARATOR)
        node = state.setdefault(int(index), {})
        for name in names:
            node = node.setdefault(name, {})
        node[last] = value
    return {"state": state, "param_groups": [_from_json(group) for group in rest["param_groups"]]}


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:  # Any: an optimizer's own state
    for name, value in node.items():
        path = f"{prefix}{SEPARATOR}{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def _to_json(value: Any) -> Any:  # Any: JSON
    import torch

    if isinstance(value, Mapping):
        return {str(name): _to_json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(member) for member in value]
    if isinstance(value, torch.Tensor):
        raise ValueError(f"this optimizer keeps a tensor of shape {tuple(value.shape)} in its settings: not supported")
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    return value


def _from_json(value: Any) -> Any:  # Any: JSON
    if isinstance(value, Mapping):
        return (
            float(value[FLOAT]) if set(value) == {FLOAT} else {name: _from_json(each) for name, each in value.items()}
        )
    if isinstance(value, list):
        return [_from_json(member) for member in value]
    return value
