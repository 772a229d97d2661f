"""The training loop. It knows Accelerate for processes, device and precision, and neither config nor argv.

Only the adapter has gradients. They are averaged over the processes in one collective a step, with the stop flag in it,
so that all processes leave at the same step.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from evenhand.adapters import Adapter
from evenhand.data import Batches
from evenhand.interfaces import LoadedBase, LossTerms, Method, Tracker
from evenhand.training.settings import TrainSettings
from evenhand.training.state import Checkpoint, save_checkpoint

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAUNCHED = "LOCAL_RANK"  # set by accelerate launch and torchrun


class Optim(Protocol):
    """An optimizer's settings."""

    def optimizer(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""

    def rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of an optimizer step, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """Where training stopped; ``loss`` is the mean over the last logged steps, ``finished`` False after a SIGTERM."""

    step: int
    loss: float | None
    finished: bool


def start_accelerator(mixed_precision: str) -> Accelerator:
    """Accelerate on the GPU when there is one, else on the CPU, which it must be told for several processes."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Jobs of a sweep share this process, and Accelerate refuses a second precision in it; private, touched here only.
    AcceleratorState._reset_state()
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed_precision)


def weights_dtype(mixed_precision: str) -> torch.dtype:
    """The precision of the frozen base's weights."""
    import torch

    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def fit(
    base: LoadedBase,
    adapter: Adapter,
    method: Method,
    batches: Batches,
    *,
    settings: TrainSettings,
    optim: Optim,
    accelerator: Accelerator,
    tracker: Tracker,
    folder: Path,
    config_sha256: str,
    resume: Checkpoint | None,
) -> FitResult:
    """Train the adapter to ``settings.steps``, from ``resume`` on; checkpoints go to ``folder``.

    Raises FloatingPointError when the loss is no longer finite.
    """
    from tqdm import tqdm

    if settings.gradient_checkpointing:
        unet: Any = base.unet  # Any: diffusers has no types
        unet.enable_gradient_checkpointing()
    parameters = list(adapter.parameters.values())
    optimizer = optim.optimizer(parameters)
    state = _Progress(step=0, loss=None, sums={}, sums_steps=0)
    if resume is not None:
        adapter.set_tensors(resume.adapter)
        optimizer.load_state_dict(dict(resume.optimizer))
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(dict(resume.scaler))
        state = _Progress.of(resume, batches.device)
        log.info("going on after step %d of %d", state.step, settings.steps)
    bar = tqdm(total=settings.steps, initial=state.step, desc="train", disable=not accelerator.is_main_process)
    with bar, _stop_signal() as stop:
        stopped = False
        while state.step < settings.steps and not stopped:
            rate = optim.rate_at(state.step, settings.steps)
            parts = _backward(base, method, batches, state.step, settings.grad_accumulation, accelerator)
            stopped = _average_gradients(parameters, accelerator, stop.raised)
            parts["grad_norm"] = _update(optimizer, parameters, rate, settings.max_grad_norm, accelerator)
            state.add(parts)
            bar.update()
            last = state.step == settings.steps
            if last or state.step % settings.log_every_steps == 0:
                metrics = state.close_window(accelerator)
                tracker.log({**metrics, "learning_rate": rate}, step=state.step)
                bar.set_postfix(loss=f"{state.loss:.4f}")
            if last or stopped or state.step % settings.checkpoint_every_steps == 0:
                checkpoint = _checkpoint(state, adapter, optimizer, accelerator, config_sha256)
                if accelerator.is_main_process:
                    save_checkpoint(folder, checkpoint, keep=settings.keep_checkpoints)
    accelerator.wait_for_everyone()
    return FitResult(step=state.step, loss=state.loss, finished=state.step == settings.steps)


def _backward(
    base: LoadedBase, method: Method, batches: Batches, step: int, num_parts: int, accelerator: Accelerator
) -> dict[str, torch.Tensor]:
    """Gradients of this process's share of a step, and the mean of its loss terms."""
    sums: dict[str, torch.Tensor] = {}
    world = accelerator.num_processes
    for part in range(num_parts):
        batch = batches.at(step, part=part * world + accelerator.process_index, num_parts=num_parts * world)
        with accelerator.autocast():
            terms: LossTerms = method.loss(base, batch)
        accelerator.backward(terms.total / num_parts)
        for name, value in {"loss": terms.total.detach(), **terms.parts}.items():
            sums[name] = sums[name] + value / num_parts if name in sums else value / num_parts
    return sums


def _average_gradients(parameters: Sequence[torch.nn.Parameter], accelerator: Accelerator, stop: bool) -> bool:
    """Average the gradients over all processes; gives whether any of them was told to stop."""
    import torch

    if accelerator.num_processes == 1:
        return stop
    gradients = [_gradient(parameter) for parameter in parameters]
    flag = torch.tensor([float(stop)], device=gradients[0].device)
    flat = accelerator.reduce(torch.cat([*(gradient.flatten() for gradient in gradients), flag]), reduction="mean")
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return bool(flat[-1] > 0)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None, "an adapter parameter took no part in the loss"
    return parameter.grad


def _update(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[torch.nn.Parameter],
    rate: float,
    max_grad_norm: float,
    accelerator: Accelerator,
) -> torch.Tensor:
    """One optimizer step with clipped gradients; gives their norm before clipping."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = rate
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if accelerator.scaler is None:
        optimizer.step()
    else:
        accelerator.scaler.step(optimizer)
        accelerator.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _checkpoint(
    state: _Progress, adapter: Adapter, optimizer: torch.optim.Optimizer, accelerator: Accelerator, config_sha256: str
) -> Checkpoint:
    return Checkpoint(
        step=state.step,
        config_sha256=config_sha256,
        loss=state.loss,
        sums=state.mean_sums(accelerator),
        sums_steps=state.sums_steps,
        adapter=adapter.tensors(),
        optimizer=optimizer.state_dict(),
        scaler={} if accelerator.scaler is None else accelerator.scaler.state_dict(),
    )


@dataclass(slots=True, kw_only=True)
class _Progress:
    """Where training stands, and the metrics added up since the last log line.

    The sums stay on the device: reading them out at every step would make each step wait for it.
    """

    step: int
    loss: float | None
    sums: dict[str, torch.Tensor]
    sums_steps: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device) -> _Progress:
        import torch

        sums = {name: torch.tensor(value, device=device) for name, value in checkpoint.sums.items()}
        return cls(step=checkpoint.step, loss=checkpoint.loss, sums=sums, sums_steps=checkpoint.sums_steps)

    def add(self, parts: dict[str, torch.Tensor]) -> None:
        """Count one step."""
        self.sums = {name: self.sums[name] + value if name in self.sums else value for name, value in parts.items()}
        self.sums_steps += 1
        self.step += 1

    def mean_sums(self, accelerator: Accelerator) -> dict[str, float]:
        """The sums, averaged over the processes: a collective. FloatingPointError when the loss is not finite."""
        import torch

        if not self.sums:
            return {}
        mean = accelerator.reduce(torch.stack([value.float() for value in self.sums.values()]), reduction="mean")
        sums = dict(zip(self.sums, mean.tolist(), strict=True))
        if not math.isfinite(sums["loss"]):
            raise FloatingPointError(f"the loss is {sums['loss']} at step {self.step}: lower optim.learning_rate")
        return sums

    def close_window(self, accelerator: Accelerator) -> dict[str, float]:
        """The metrics' means over the steps since the last call and over the processes; begins to add up anew."""
        metrics = {name: total / self.sums_steps for name, total in self.mean_sums(accelerator).items()}
        self.loss, self.sums, self.sums_steps = metrics["loss"], {}, 0
        return metrics


class _Stop:
    def __init__(self) -> None:
        self.raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.raised = True


@contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """SIGTERM only raises a flag inside. A launcher's workers also get it when the launcher dies, else they run on."""
    stop = _Stop()
    before = signal.signal(signal.SIGTERM, stop)
    if LAUNCHED in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
