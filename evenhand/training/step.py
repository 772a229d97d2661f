"""One optimizer step over all processes, from the batch to the moved adapter. It knows Accelerate, and no config.

Only the adapter has gradients. They are averaged over the processes in one collective a step, with the loss and the
wish to stop in it, so that all processes leave at the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from evenhand.data.batches import Batches
from evenhand.interfaces import LoadedBase, LossTerms, Method
from evenhand.training.calibration import LoadedCalibration
from evenhand.training.learner import Learner, Optim
from evenhand.training.progress import Progress
from evenhand.training.settings import TrainSettings
from evenhand.training.signals import Watch

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


class Stepper:
    """Takes steps. ``stopped`` says whether any process was told to stop; on all of them, at the same step."""

    def __init__(
        self,
        base: LoadedBase,
        method: Method,
        batches: Batches,
        learner: Learner,
        *,
        optim: Optim,
        settings: TrainSettings,
        accelerator: Accelerator,
    ) -> None:
        self.stopped = False
        self._base = base
        self._method = method
        self._batches = batches
        self._learner = learner
        self._optim = optim
        self._settings = settings
        self._accelerator = accelerator
        self._watch = Watch(accelerator.device, scaled=learner.scaler is not None)

    def step(self, progress: Progress, *, stop: bool) -> float:
        """Take the next step; ``stop`` is this process's wish. Gives the learning rate.

        ValueError when the loss or the gradient is not finite; on an accelerator, at the next step or ``catch_up``.
        """
        settings, learner = self._settings, self._learner
        rate = self._optim.rate_at(progress.step, settings.steps)
        work = _backward(
            self._base,
            self._method,
            self._batches,
            progress.step,
            settings.grad_accumulation,
            self._accelerator,
            learner.calibration,
        )
        stop_and_loss_2 = _average_gradients(learner.parameters, work.loss, self._accelerator, stop=stop)
        norm = learner.clip(settings.max_grad_norm)
        number = progress.step + 1
        self.stopped = self._watch.see(number, stop_and_loss_2, norm, own_loss=work.loss, files=work.files)
        learner.update(rate)
        progress.add({**work.parts, "grad_norm": norm})
        return rate

    def catch_up(self) -> None:
        """Wait for the last step, which an accelerator may still be working on, and look at it."""
        self.stopped = self._watch.flush() or self.stopped


class _Work(NamedTuple):
    """One process's share of a step, its gradients aside."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    files: tuple[str, ...]


def _backward(
    base: LoadedBase,
    method: Method,
    batches: Batches,
    step: int,
    num_parts: int,
    accelerator: Accelerator,
    calibration: LoadedCalibration | None,
) -> _Work:
    """Gradients of this process's share of a step, and the mean of its loss terms."""
    sums: dict[str, torch.Tensor] = {}
    files: tuple[str, ...] = ()
    world = accelerator.num_processes
    for part in range(num_parts):
        with accelerator.autocast():
            batch = batches.at(step, part=part * world + accelerator.process_index, num_parts=num_parts * world)
            if calibration is not None:
                batch = replace(batch, weights_B=calibration.weights_B(batch.labels))
            terms: LossTerms = method.loss(base, batch)
        accelerator.backward(terms.total / num_parts)
        for name, value in {"loss": terms.total.detach(), **terms.parts}.items():
            sums[name] = sums[name] + value / num_parts if name in sums else value / num_parts
        files += batch.files
    return _Work(loss=sums["loss"], parts=sums, files=files)


def _average_gradients(
    parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor, accelerator: Accelerator, *, stop: bool
) -> torch.Tensor:
    """Average the gradients over all processes; gives the share of them that were told to stop, and the mean loss."""
    import torch

    stop_and_loss_2 = torch.stack([torch.full_like(loss, float(stop)), loss])
    if accelerator.num_processes == 1:
        return stop_and_loss_2
    gradients = [_gradient(parameter) for parameter in parameters]
    own = torch.cat([*(gradient.flatten() for gradient in gradients), stop_and_loss_2])
    flat: torch.Tensor = accelerator.reduce(own, reduction="mean")
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return flat[at:]


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None, "an adapter parameter took no part in the loss"
    return parameter.grad
