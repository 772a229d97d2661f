"""Both factors of every LoRA layer in autocast's precision, cast together once for a forward of the whole model.

A layer that casts its own takes four casts a step: A and B, and the gradient of each back to float32. Here the factors
of one shape are stacked, cast, and taken apart again, which autograd undoes in the same way: four operations for each
shape instead of four for each layer, and the very same numbers. Without autocast nothing happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

Factors = tuple[torch.Tensor, torch.Tensor]


class FactoredLayer(Protocol):
    """A layer that reads its factors from ``narrow`` where they are."""

    narrow: Factors | None

    def factors(self) -> Factors | None:
        """A and B as they are trained; None where the layer would not use them by themselves."""


class NarrowFactors:
    """Hooks of a model that give its layers their factors before a forward, and take them away behind it.

    What is made in a forward is of no use later: by then the optimizer has moved the factors. A layer that is called in
    between, as when activations are computed again, casts its own.
    """

    def __init__(self, layers: Sequence[FactoredLayer]) -> None:
        self.layers = list(layers)

    def give(self, module: torch.nn.Module, args: object) -> None:
        """Cast where autocast would, if there will be gradients; a forward pre-hook."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        found = [(layer, pair) for layer in self.layers if (pair := layer.factors()) is not None]
        if not found:
            return
        device = found[0][1][0].device.type
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return
        cast = _cast_together([factor for _, pair in found for factor in pair], torch.get_autocast_dtype(device))
        for number, (layer, _) in enumerate(found):
            layer.narrow = cast[2 * number], cast[2 * number + 1]

    def take(self, module: torch.nn.Module, args: object, output: Any) -> None:  # Any: whatever the model gives
        """Forget them; a forward hook that is called also behind a forward that failed."""
        if torch.compiler.is_compiling():
            return
        for layer in self.layers:
            layer.narrow = None


def _cast_together(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """The tensors in another precision, those of one shape in one cast."""
    by_shape: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for number, tensor in enumerate(tensors):
        by_shape.setdefault((tensor.shape, tensor.dtype), []).append(number)
    cast = list(tensors)
    for numbers in by_shape.values():
        parts = torch.stack([tensors[number] for number in numbers]).to(dtype).unbind()
        for number, part in zip(numbers, parts, strict=True):
            cast[number] = part
    return cast
