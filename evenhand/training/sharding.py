"""The frozen UNet spread over the processes: each holds a share of its weights and gathers a block's when it is needed.

For bases that do not fit into one device's memory otherwise. It is FSDP2 (``torch.distributed.fsdp.fully_shard``) on
what is frozen, and on nothing else: the adapter, its gradients and its optimizer are a few megabytes, stay whole on
every process, and are averaged as ever, so checkpoints, clipping and resuming are the same as without. What is gathered
are the weights, bit for bit; results differ by rounding (1e-6 was seen), as the gathered ones lie elsewhere in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenhand.adapters.lora import Adapter

if TYPE_CHECKING:
    from accelerate import Accelerator

# What is gathered at once: the smallest parts of a UNet that run as a whole.
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")


def shard_base(adapter: Adapter, accelerator: Accelerator) -> None:
    """Spread the frozen weights of the adapter's UNet over the processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    unet: Any = adapter.base.unet  # Any: diffusers has no types
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    whole = set(adapter.parameters.values())
    for block in [module for module in unet.modules() if type(module).__name__ in BLOCKS]:
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(unet, mesh=mesh, ignored_params=whole)
