"""An exponential moving average of the adapter's weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from evenhand.adapters.lora import Adapter


class Ema:
    """The average of an adapter, which begins as its weights after the first step, so that their start has no part.

    The n-th update, counted from 0, keeps ``min(decay, (1 + n) / (10 + n))`` of the average (0 at the first): a young
    average follows fast, as in TensorFlow's ExponentialMovingAverage and in diffusers' EMAModel.
    """

    def __init__(self, adapter: Adapter, decay: float) -> None:
        self._adapter = adapter
        self.decay = decay
        self.num_updates = 0
        self.average: dict[str, torch.Tensor] = {
            name: parameter.detach().clone() for name, parameter in adapter.parameters.items()
        }

    def update(self) -> None:
        """Take in the adapter's weights after an optimizer step: one operation for all tensors."""
        import torch

        kept = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.num_updates else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self._adapter.parameters.values()), 1.0 - kept)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the adapter has the average's weights; its own come back at the end, bit for bit."""
        own = {name: parameter.detach().clone() for name, parameter in self._adapter.parameters.items()}
        self._adapter.set_tensors(self.average)
        try:
            yield
        finally:
            self._adapter.set_tensors(own)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The average on CPU, by parameter name."""
        return {name: value.cpu().clone() for name, value in self.average.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], num_updates: int) -> None:
        """Put back what a checkpoint holds."""
        for name, value in self.average.items():
            value.copy_(tensors[name])
        self.num_updates = num_updates
