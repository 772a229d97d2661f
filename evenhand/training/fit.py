"""The training loop: when a step is taken, logged, kept and validated. It knows neither config nor argv."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.adapters.lora import Adapter
from evenhand.data.batches import Batches
from evenhand.files import write_json_atomic
from evenhand.interfaces import LoadedBase, Method, Tracker
from evenhand.training.best import Chooser, Validation
from evenhand.training.calibration import LoadedCalibration
from evenhand.training.compiled import compile_unet, compiler_errors_in_a_line
from evenhand.training.learner import Learner, Optim
from evenhand.training.memory import memory_line, memory_report
from evenhand.training.progress import Progress
from evenhand.training.settings import TrainSettings
from evenhand.training.sharding import shard_base
from evenhand.training.signals import stop_signals
from evenhand.training.state import CHECKPOINTS, Checkpoint, save_checkpoint
from evenhand.training.step import Stepper

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
    calibration: LoadedCalibration | None = None,
) -> FitResult:
    """Train the adapter to ``settings.steps``, from ``resume`` on, and leave the weights on it that are to be kept.

    ``folder`` is the run's: ``checkpoints/`` and ``memory.json`` go there. Raises ValueError at the step whose loss or
    gradient is not finite, with the images of its batch, and where torch.compile fails; earlier checkpoints stay.
    """
    from tqdm import tqdm

    _prepare(base, adapter, settings, accelerator)
    learner = Learner(adapter, optim, ema_decay=settings.ema_decay, scaler=accelerator.scaler, calibration=calibration)
    progress = _begin(learner, resume, accelerator, num_steps=settings.steps)
    stepper = Stepper(base, method, batches, learner, optim=optim, settings=settings, accelerator=accelerator)
    is_main, checkpoints = accelerator.is_main_process, folder / CHECKPOINTS
    chooser = Chooser(validation, checkpoints, steps=settings.steps, config_sha256=config_sha256, is_main=is_main)
    bar = tqdm(total=settings.steps, initial=progress.step, desc="train", disable=not is_main)
    with bar, stop_signals() as stop, compiler_errors_in_a_line():
        if chooser.is_due(progress):  # the session before ended in it or ahead of it
            chooser.validate(learner, progress)
        while progress.step < settings.steps and not stepper.stopped:
            rate = stepper.step(progress, stop=stop.raised)
            bar.update()
            last = progress.step == settings.steps
            if last or progress.step % settings.log_every_steps == 0:
                tracker.log({**progress.close_window(accelerator), "learning_rate": rate}, step=progress.step)
                bar.set_postfix(loss=f"{progress.loss:.4f}")
            if calibration is not None and not last and calibration.is_due(progress.step):
                with learner.result():
                    calibration.look(progress.step)
            saves, validates = last or progress.step % settings.checkpoint_every_steps == 0, chooser.is_due(progress)
            if saves or validates or stepper.stopped:
                stepper.catch_up()
            if saves or stepper.stopped:
                checkpoint = learner.checkpoint(progress, accelerator, config_sha256)
                if is_main:
                    save_checkpoint(checkpoints, checkpoint, keep=settings.keep_checkpoints)
            if validates and (last or not stepper.stopped):  # after the checkpoint: it may outlast a grace period
                chooser.validate(learner, progress)
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
        compile_unet(base.unet)
    if settings.shard_base:
        shard_base(adapter, accelerator)


def _begin(learner: Learner, resume: Checkpoint | None, accelerator: Accelerator, *, num_steps: int) -> Progress:
    """The state of a checkpoint, or the beginning."""
    progress = Progress.begin(resume, accelerator.device)
    _refuse_different_starts(progress.step, accelerator)
    if resume is not None:
        learner.restore(resume)
        log.info("going on after step %d of %d", progress.step, num_steps)
    return progress


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


def _report_memory(learner: Learner, batches: Batches, device: torch.device, folder: Path) -> None:
    report = memory_report(learner, batches, device)
    write_json_atomic(folder / MEMORY_FILE, report)
    log.info("%s", memory_line(report))
