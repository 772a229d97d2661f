"""What a fresh adapter starts from: drawn from a seed and a module's name, in float32, whatever PEFT drew."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch

ORTHOGONAL_STD = 0.1  # as PEFT's own choice of that name has it


def initial_values(
    init: str, name: str, down: torch.Tensor, up: torch.Tensor, *, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``A`` and ``B`` of the shapes of ``down`` and ``up`` on CPU; ``name`` is that of A's parameter."""
    import torch

    generator = torch.Generator().manual_seed(derive(seed, "adapter", name))
    a, b = torch.zeros(down.shape), torch.zeros(up.shape)
    if init == "kaiming":
        torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)  # PEFT's own distribution
    elif init == "gaussian":
        torch.nn.init.normal_(a, std=1.0 / len(a), generator=generator)
    elif init == "orthogonal":
        rank = len(a)
        basis, _ = torch.linalg.qr(torch.randn((rank, rank), generator=generator))
        left = torch.randn((a[0].numel(), rank // 2), generator=generator) @ basis[0::2]
        right = torch.randn((len(b), rank // 2), generator=generator) @ basis[1::2]
        a, b = (ORTHOGONAL_STD * left.T).reshape(a.shape), (ORTHOGONAL_STD * right).reshape(b.shape)
    else:
        raise ValueError(f"unknown init {init!r}")
    return a, b
