"""Where a training stands, and the metrics added up since the last log line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenhand.training.state import Checkpoint

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


@dataclass(slots=True, kw_only=True)
class Progress:
    """Optimizer steps done, the last window's loss, the last step that was validated, and the sums of this window.

    The sums stay on the device: reading them out at every step would make each step wait for it.
    """

    step: int
    loss: float | None
    validated_step: int
    sums: dict[str, torch.Tensor]
    sums_steps: int

    @classmethod
    def begin(cls, checkpoint: Checkpoint | None, device: torch.device) -> Progress:
        """Where a checkpoint was written, or the beginning."""
        import torch

        if checkpoint is None:
            return cls(step=0, loss=None, validated_step=0, sums={}, sums_steps=0)
        return cls(
            step=checkpoint.step,
            loss=checkpoint.loss,
            validated_step=checkpoint.validated_step,
            sums={name: torch.tensor(value, device=device) for name, value in checkpoint.sums.items()},
            sums_steps=checkpoint.sums_steps,
        )

    def add(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Count one step."""
        self.sums = {name: self.sums[name] + value if name in self.sums else value for name, value in parts.items()}
        self.sums_steps += 1
        self.step += 1

    def mean_sums(self, accelerator: Accelerator) -> dict[str, float]:
        """The sums, averaged over the processes: a collective."""
        import torch

        if not self.sums:
            return {}
        mean = accelerator.reduce(torch.stack([value.float() for value in self.sums.values()]), reduction="mean")
        return dict(zip(self.sums, mean.tolist(), strict=True))

    def close_window(self, accelerator: Accelerator) -> dict[str, float]:
        """The metrics' means over the steps since the last call and over the processes; begins to add up anew."""
        metrics = {name: total / self.sums_steps for name, total in self.mean_sums(accelerator).items()}
        self.loss, self.sums, self.sums_steps = metrics["loss"], {}, 0
        return metrics
