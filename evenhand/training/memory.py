"""Which part of a training needs how much memory, in bytes of the tensors that it holds."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from evenhand.training.learner import Learner

MEGABYTE = 1 << 20


def memory_report(learner: Learner, batches: object, device: torch.device) -> dict[str, Any]:  # Any: JSON
    """Bytes by part, and this process's peaks so far; call it where gradients and optimizer state exist.

    ``base`` is by network, without those whose memory was released. ``activations_and_rest`` is what the peak has
    beyond the parts: activations, the libraries themselves, and whatever was loaded and released before.
    """
    import torch

    parameters = list(learner.adapter.parameters.values())
    ours = {id(parameter) for parameter in parameters}
    base = {
        name: _bytes(tensor for tensor in (*module.parameters(), *module.buffers()) if id(tensor) not in ours)
        for name, module in learner.adapter.base.networks().items()
    }
    parts = {
        "adapter": _bytes(parameters),
        "gradients": _bytes(parameters),  # one for each, in its precision; freed between steps
        "optimizer": _bytes(_tensors(learner.optimizer.state_dict()["state"])),
        "ema": 0 if learner.ema is None else _bytes(learner.ema.average.values()),
        "cache": _bytes(_tensors(batches)),
    }
    on_gpu = device.type == "cuda"
    peak_process = _peak_process()
    peak_device = torch.cuda.max_memory_allocated(device) if on_gpu else None
    peak = peak_process if peak_device is None else peak_device
    on_device = sum(base.values()) + sum(parts.values()) - (parts["cache"] if on_gpu else 0)
    return {
        "base": base,
        **parts,
        "peak_process": peak_process,
        "peak_device": peak_device,
        "activations_and_rest": None if peak is None else peak - on_device,
    }


def memory_line(report: Mapping[str, Any]) -> str:  # Any: JSON
    """A report in one line of megabytes."""
    parts = {**report["base"], **{name: report[name] for name in ("adapter", "gradients", "optimizer", "ema", "cache")}}
    named = ", ".join(f"{name} {value / MEGABYTE:.1f}" for name, value in parts.items() if value)
    peak = report["peak_process"] if report["peak_device"] is None else report["peak_device"]
    where = "of the process" if report["peak_device"] is None else "on the device"
    return f"memory in MB: {named}" + ("" if peak is None else f"; peak {where} {peak / MEGABYTE:.0f}")


def _peak_process() -> int | None:
    """The most memory that this process has had at once; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # in bytes there, in KiB on Linux


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    storages = {}
    for tensor in tensors:
        # of a sharded one, this process's share
        storage = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(node: object) -> Iterator[torch.Tensor]:
    """Every tensor in nested mappings, sequences and dataclasses."""
    import torch

    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _tensors(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field in dataclasses.fields(node):
            yield from _tensors(getattr(node, field.name))
