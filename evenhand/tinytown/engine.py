"""The loop that trains every network of tinytown from nothing, on one or several CPU processes.

Warm-up, constant, then linear decay of the learning rate; AdamW; an exponential moving average; a checkpoint every few
minutes; a log line now and then. What a step sees is a function of (seed, step, rank).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from evenhand.processes import leave_group_at_exit
from evenhand.seeds import derive

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How long and how a network is trained. ``batch_size`` is summed over processes."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    warmup_steps: int = 200
    decay_share: float = 0.25
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    checkpoint_every_seconds: float = 240.0
    log_every_steps: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if not 0.0 <= self.decay_share <= 1.0:
            raise ValueError(f"decay_share must be in [0, 1], got {self.decay_share}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step counted from 0."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay_steps = max(1.0, self.steps * self.decay_share)
        return self.learning_rate * warmup * min(1.0, (self.steps - step) / decay_steps)


def world() -> tuple[int, int]:
    """(rank, number of processes) of a torchrun launch, (0, 1) without one; joins the group at the first call."""
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
        leave_group_at_exit()
        # Two pinned processes of one thread each are faster on these small convolutions than one of two threads.
        torch.set_num_threads(1)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    return dist.get_rank(), num_processes


def _average_gradients(parameters: list[nn.Parameter], num_processes: int) -> None:
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= num_processes
    start = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[start : start + p.grad.numel()].view_as(p.grad))
            start += p.grad.numel()


class Checkpoint:
    """Weights, moving average and optimizer moments of a run in one safetensors file, replaced atomically."""

    def __init__(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path = path
        self.model = model
        self.optimizer = optimizer
        self.ema = {name: p.detach().clone() for name, p in model.named_parameters()}

    def save(self, step: int) -> None:
        """Write the state after ``step`` optimizer steps."""
        tensors: dict[str, Tensor] = {}
        for name, p in self.model.named_parameters():
            tensors[f"weight/{name}"] = p.detach()
            tensors[f"ema/{name}"] = self.ema[name]
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = self.optimizer.state[p][moment]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary, metadata={"step": str(step)})
        temporary.replace(self.path)

    def load(self) -> int:
        """Restore the state; gives the number of steps done, 0 where there is no checkpoint."""
        if not self.path.is_file():
            return 0
        with safe_open(self.path, framework="pt") as file:
            step = int(file.metadata()["step"])
            for name, p in self.model.named_parameters():
                p.data.copy_(file.get_tensor(f"weight/{name}"))
                self.ema[name].copy_(file.get_tensor(f"ema/{name}"))
                self.optimizer.state[p] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"exp_avg/{name}").clone(),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq/{name}").clone(),
                }
        return step

    def update_ema(self, decay: float, step: int) -> None:
        """Move the average; early steps weigh more, so that the start is forgotten."""
        rate = min(decay, (1 + step) / (10 + step))
        names = [name for name, _ in self.model.named_parameters()]
        torch._foreach_lerp_(
            [self.ema[name] for name in names], [p.detach() for _, p in self.model.named_parameters()], 1.0 - rate
        )

    def use_ema(self) -> None:
        """Put the moving average into the model."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.ema[name])


def fit(model: nn.Module, loss: Loss, num_examples: int, settings: EngineSettings, folder: Path) -> None:
    """Train ``model`` in place, ending with its moving average; resumes from ``folder/checkpoint.safetensors``.

    ``loss`` gets the indices of this process's share of the batch and a generator of this step and process.
    """
    rank, num_processes = world()
    if settings.batch_size % num_processes:
        raise ValueError(f"batch_size {settings.batch_size} does not divide over {num_processes} processes")
    share = settings.batch_size // num_processes
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", model, optimizer)
    start = checkpoint.load()
    model.train()
    saved_at = started_at = time.monotonic()
    for step in range(start, settings.steps):
        generator = torch.Generator().manual_seed(derive(settings.seed, "step", step, rank))
        indices = torch.randint(num_examples, (share,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        total, parts = loss(indices, generator)
        optimizer.zero_grad(set_to_none=False)
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        if num_processes > 1:
            _average_gradients(parameters, num_processes)
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        checkpoint.update_ema(settings.ema_decay, step)
        if rank == 0 and (step + 1) % settings.log_every_steps == 0:
            rate = (step + 1 - start) * settings.batch_size / (time.monotonic() - started_at)
            _log(folder, step + 1, rate, {"loss": total.detach(), "grad_norm": norm, **parts})
        if rank == 0 and time.monotonic() - saved_at > settings.checkpoint_every_seconds:
            checkpoint.save(step + 1)
            saved_at = time.monotonic()
    if rank == 0 and start < settings.steps:
        checkpoint.save(settings.steps)
    checkpoint.use_ema()
    model.eval()


def _log(folder: Path, step: int, samples_per_second: float, values: Mapping[str, Tensor]) -> None:
    line = {"step": step, "samples_per_second": round(samples_per_second, 2)}
    line |= {name: round(float(value), 5) for name, value in values.items()}
    logger.info("%s", line)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
