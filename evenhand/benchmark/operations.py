"""Counts of tensor operations: what a machine's load cannot change.

Counted are the ATen operations that torch dispatches, without those that only look at memory in another way (views),
reserve it, or copy nothing. A fused operation over many tensors is one. On a GPU each is at least one kernel launch,
and at batch 1 launches are what a step waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    import torch

# No kernel runs for these: views that their schema does not call so, and memory without values.
NO_WORK = frozenset(
    {"_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "set_"}
)
# The process reads a value, so it waits for the device to come to it.
SYNC = "_local_scalar_dense"


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not type it
    """Counts the operations inside by phase and name; ``phase`` is whatever the caller says it is just now."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.phase = ""
        self.counts: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # Any: torch's operator
        types: Any,  # Any: unused
        args: tuple[Any, ...] = (),  # Any: whatever the operator takes
        kwargs: dict[str, Any] | None = None,  # Any: as above
    ) -> Any:  # Any: whatever the operator gives
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "aten" and not func.is_view and name not in NO_WORK:
            self.counts[self.phase, name] += 1
        return func(*args, **(kwargs or {}))

    def total(self, *phases: str) -> int:
        """Operations that compute, in some phases or in all."""
        return sum(count for (phase, name), count in self._chosen(phases) if name != SYNC)

    def syncs(self, *phases: str) -> int:
        """How often a value was read out of a tensor, in some phases or in all."""
        return sum(count for (phase, name), count in self._chosen(phases) if name == SYNC)

    def _chosen(self, phases: tuple[str, ...]) -> Iterator[tuple[tuple[str, str], int]]:
        return ((key, count) for key, count in self.counts.items() if not phases or key[0] in phases)


@contextmanager
def counted() -> Iterator[OperationCounter]:
    """Counts what is computed inside."""
    counter = OperationCounter()
    with counter:
        yield counter


def graph_operations(unet: torch.nn.Module, *, latent_px: int, num_tokens: int, input_gradient: bool) -> int:
    """Operations of a forward and a backward of a UNet on the meta device: shapes without values, so no time passes.

    With ``input_gradient`` the backward reaches the latents, as it must to be compared where nothing is trainable.
    Attention is spelled out on this device; on a CPU or GPU it is one operation, and all counts are lower.
    """
    import torch

    config: Any = unet.config  # Any: diffusers has no types
    unet.zero_grad(set_to_none=True)
    latents_BCHW = torch.empty(1, config.in_channels, latent_px, latent_px, device="meta", requires_grad=input_gradient)
    timesteps_B = torch.zeros(1, dtype=torch.long, device="meta")
    text_BLD = torch.empty(1, num_tokens, config.cross_attention_dim, device="meta")
    with counted() as counter:
        unet(latents_BCHW, timesteps_B, text_BLD, return_dict=False)[0].square().mean().backward()
    unet.zero_grad(set_to_none=True)
    return counter.total()
