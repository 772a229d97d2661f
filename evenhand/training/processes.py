"""How a training starts: Accelerate for processes and device, and the precision that the device can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from evenhand.processes import leave_group_at_exit

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


def start_accelerator(mixed_precision: str) -> Accelerator:
    """Accelerate on the GPU when there is one, else on the CPU, which it must be told for several processes.

    Raises ValueError for a precision that the device cannot do, and for a way of spreading a model that makes no sense
    for an adapter.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    _refuse_wrapping()
    on_gpu = torch.cuda.is_available()
    _refuse_precision(mixed_precision, on_gpu=on_gpu)
    # Jobs of a sweep share this process, and Accelerate refuses a second precision in it; private, touched here only.
    AcceleratorState._reset_state()
    leave_group_at_exit()
    return Accelerator(cpu=not on_gpu, mixed_precision=mixed_precision)


def _refuse_wrapping() -> None:
    """Raise ValueError where accelerate launch was told to wrap the model, which nothing here would do."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ValueError(
            "accelerate launch --use_fsdp has no effect here: start it with --multi_gpu and say train.shard_base=true, "
            "which spreads the frozen base with FSDP2"
        )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ValueError(
            "DeepSpeed is not supported: its ZeRO stages spread gradients and optimizer state, a few megabytes of an "
            "adapter. To spread the frozen base, start with --multi_gpu and say train.shard_base=true"
        )


def weights_dtype(mixed_precision: str) -> torch.dtype:
    """The precision of the frozen base's weights."""
    import torch

    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def _refuse_precision(mixed_precision: str, *, on_gpu: bool) -> None:
    import torch

    if mixed_precision == "fp16" and not on_gpu:
        raise ValueError("train.mixed_precision=fp16 needs a GPU and there is none here: use no, or bf16")
    if mixed_precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise ValueError(f"train.mixed_precision=bf16 is more than {name} can do: use fp16, or no")
