"""The training loop. It knows Accelerate for processes, device and precision, and neither config nor argv.

Only the adapter has gradients. They are averaged over the processes in one collective a step, with the loss and the
wish to stop in it, so that all processes leave at the same step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evenhand.adapters.lora import Adapter
from evenhand.data.batches import Batches
from evenhand.files import write_json_atomic
from evenhand.interfaces import LoadedBase, LossTerms, Method, Tracker
from evenhand.training.best import Chooser, Validation
from evenhand.training.learner import Learner, Optim
from evenhand.training.memory import memory_line, memory_report
from evenhand.training.progress import Progress
from evenhand.training.settings import TrainSettings
from evenhand.training.sharding import shard_base
from evenhand.training.signals import Watch, stop_signals
from evenhand.training.state import CHECKPOINTS, Checkpoint, save_checkpoint

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

log = logging.getLogger(__name__)

MEMORY_FILE = "memory.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """Where training stopped; ``loss`` is the mean over the last logged steps, ``finished`` False after a stop signal.

    ``kept_step`` is the step whose weights the adapter has now: another than ``step`` where the best ones are kept.
    """

    step: int
    loss: float | None
    finished: bool
    kept_step: int


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
    validation: Validation | None,
) -> FitResult:
    """Train the adapter to ``settings.steps``, from ``resume`` on, and leave the weights on it that are to be kept.

    ``folder`` is the run's: ``checkpoints/`` and ``memory.json`` go there. Raises ValueError at the step whose loss or
    gradient is not finite, with the images of its batch; the checkpoints of before stay.
    """
    from tqdm import tqdm

    _prepare(base, adapter, settings, accelerator)
    learner = Learner(adapter, optim, ema_decay=settings.ema_decay, scaler=accelerator.scaler)
    progress = Progress.begin(resume, accelerator.device)
    _refuse_different_starts(progress.step, accelerator)
    if resume is not None:
        learner.restore(resume)
        log.info("going on after step %d of %d", progress.step, settings.steps)
    is_main, checkpoints, stopped = accelerator.is_main_process, folder / CHECKPOINTS, False
    watch = Watch(accelerator.device, scaled=learner.scaler is not None)
    chooser = Chooser(validation, checkpoints, steps=settings.steps, config_sha256=config_sha256, is_main=is_main)
    bar = tqdm(total=settings.steps, initial=progress.step, desc="train", disable=not is_main)
    with bar, stop_signals() as stop:
        if chooser.is_due(progress):  # a stop signal came before it
            chooser.validate(learner, progress)
        while progress.step < settings.steps and not stopped:
            rate = optim.rate_at(progress.step, settings.steps)
            work = _backward(base, method, batches, progress.step, settings.grad_accumulation, accelerator)
            stop_and_loss_2 = _average_gradients(learner.parameters, work.loss, accelerator, stop=stop.raised)
            norm = learner.clip(settings.max_grad_norm)
            stopped = watch.see(progress.step + 1, stop_and_loss_2, norm, own_loss=work.loss, files=work.files)
            learner.update(rate)
            progress.add({**work.parts, "grad_norm": norm})
            bar.update()
            last = progress.step == settings.steps
            if last or progress.step % settings.log_every_steps == 0:
                tracker.log({**progress.close_window(accelerator), "learning_rate": rate}, step=progress.step)
                bar.set_postfix(loss=f"{progress.loss:.4f}")
            if chooser.is_due(progress):
                stopped = watch.flush() or stopped
                if last or not stopped:
                    chooser.validate(learner, progress)
            if last or stopped or progress.step % settings.checkpoint_every_steps == 0:
                stopped = watch.flush() or stopped
                checkpoint = learner.checkpoint(progress, accelerator, config_sha256)
                if is_main:
                    save_checkpoint(checkpoints, checkpoint, keep=settings.keep_checkpoints)
        if is_main and learner.optimizer.state:
            _report_memory(learner, batches, accelerator.device, folder)
    accelerator.wait_for_everyone()
    finished = progress.step == settings.steps
    kept_step = chooser.keep(learner, progress, settings.keep) if finished else progress.step
    return FitResult(step=progress.step, loss=progress.loss, finished=finished, kept_step=kept_step)


def _prepare(base: LoadedBase, adapter: Adapter, settings: TrainSettings, accelerator: Accelerator) -> None:
    if settings.gradient_checkpointing:
        base.checkpoint_gradients()
    if settings.compile:
        unet: Any = base.unet  # Any: diffusers has no types
        unet.compile()
    if settings.shard_base:
        shard_base(adapter, accelerator)


def _refuse_different_starts(step: int, accelerator: Accelerator) -> None:
    """Raise ValueError on every process unless all of them found the same checkpoint."""
    import torch

    if accelerator.num_processes == 1:
        return
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes found checkpoints of different steps ({', '.join(map(str, steps))}): the run folder "
            "must be on a file system that all machines see"
        )


class _Work(NamedTuple):
    """One process's share of a step, its gradients aside."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    files: tuple[str, ...]


def _backward(
    base: LoadedBase, method: Method, batches: Batches, step: int, num_parts: int, accelerator: Accelerator
) -> _Work:
    """Gradients of this process's share of a step, and the mean of its loss terms."""
    sums: dict[str, torch.Tensor] = {}
    files: tuple[str, ...] = ()
    world = accelerator.num_processes
    for part in range(num_parts):
        with accelerator.autocast():
            batch = batches.at(step, part=part * world + accelerator.process_index, num_parts=num_parts * world)
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


def _report_memory(learner: Learner, batches: Batches, device: torch.device, folder: Path) -> None:
    report = memory_report(learner, batches, device)
    write_json_atomic(folder / MEMORY_FILE, report)
    log.info("%s", memory_line(report))
