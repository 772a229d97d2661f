"""What learns: the adapter, its optimizer, its average and its gradient scaler, which a checkpoint holds together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from evenhand.adapters.lora import Adapter
from evenhand.training.calibration import LoadedCalibration
from evenhand.training.ema import Ema
from evenhand.training.progress import Progress
from evenhand.training.state import Checkpoint

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


class Optim(Protocol):
    """An optimizer's settings."""

    def optimizer(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters; ValueError where its package is not installed."""

    def rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of an optimizer step, counted from 0."""


class Learner:
    """The trainable state of one process, the same on each: ``parameters`` are the adapter's, in float32."""

    def __init__(
        self,
        adapter: Adapter,
        optim: Optim,
        *,
        ema_decay: float | None,
        scaler: Any,  # Any: torch's GradScaler, or None
        calibration: LoadedCalibration | None = None,
    ) -> None:
        self.adapter = adapter
        self.parameters = list(adapter.parameters.values())
        self.optimizer = optim.optimizer(self.parameters)
        self.ema = None if ema_decay is None else Ema(adapter, ema_decay)
        self.scaler = scaler
        self.calibration = calibration

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was written."""
        self.adapter.set_tensors(checkpoint.adapter)
        self.optimizer.load_state_dict(dict(checkpoint.optimizer))
        if self.scaler is not None:
            self.scaler.load_state_dict(dict(checkpoint.scaler))
        if self.ema is not None:
            self.ema.restore(checkpoint.ema, checkpoint.ema_updates)
        if self.calibration is not None:
            self.calibration.restore(checkpoint.calibration)

    def checkpoint(self, progress: Progress, accelerator: Accelerator, config_sha256: str) -> Checkpoint:
        """Everything as it stands; a collective."""
        return Checkpoint(
            step=progress.step,
            config_sha256=config_sha256,
            loss=progress.loss,
            sums=progress.mean_sums(accelerator),
            sums_steps=progress.sums_steps,
            validated_step=progress.validated_step,
            adapter=self.adapter.tensors(),
            optimizer=self.optimizer.state_dict(),
            scaler={} if self.scaler is None else self.scaler.state_dict(),
            ema={} if self.ema is None else self.ema.tensors(),
            ema_updates=0 if self.ema is None else self.ema.num_updates,
            calibration={} if self.calibration is None else self.calibration.state(),
        )

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a norm of at most ``max_norm``; gives their norm before."""
        import torch

        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)

    def update(self, rate: float) -> None:
        """One optimizer step at a learning rate; the gradients are gone afterwards."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()

    @contextmanager
    def result(self) -> Iterator[Adapter]:
        """Inside, the adapter has the weights that are validated and saved: the average's, where there is one."""
        if self.ema is None:
            yield self.adapter
        else:
            with self.ema.applied():
                yield self.adapter
