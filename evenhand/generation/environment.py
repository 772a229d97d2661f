"""What can change a pixel although nobody chose it: the sampler as loaded, versions, attention, threads, processor."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import evenhand
from evenhand.interfaces import LoadedBase

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy", "pillow")


def environment_of(base: LoadedBase, device: torch.device) -> dict[str, Any]:  # Any: JSON
    """The facts, for the plan and for the key of cached images; before an adapter is loaded."""
    return {
        "sampler": dict(base.sampler()),
        "versions": {"evenhand": evenhand.__version__, **{name: metadata.version(name) for name in PACKAGES}},
        "attention": attention_of(base),
        "processor": processor_of(device),
    }


def attention_of(base: LoadedBase) -> dict[str, Any]:  # Any: JSON
    """Which attention the UNet runs: diffusers' processors, and the kernels that torch may choose among."""
    import torch

    unet: Any = base.unet  # Any: diffusers has no types
    cuda: Any = torch.backends.cuda  # Any: these switches have no types
    return {
        "processors": sorted({type(part).__name__ for part in unet.attn_processors.values()}),
        "flash": cuda.flash_sdp_enabled(),
        "memory_efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
    }


def processor_of(device: torch.device) -> dict[str, Any]:  # Any: JSON
    """The device's kind of arithmetic.

    On a CPU the number of threads is a part of it: sums are cut by it, and one thread and two differ in the last bits.
    """
    import torch

    facts = {"matmul_precision": torch.get_float32_matmul_precision()}
    if device.type == "cuda":
        cudnn = torch.backends.cudnn
        chosen = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
        return {**facts, "name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, **chosen}
    if device.type == "cpu":
        return {**facts, "name": torch.backends.cpu.get_cpu_capability(), "num_threads": torch.get_num_threads()}
    return {**facts, "name": device.type}
