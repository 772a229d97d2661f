"""Watches the real training loop from the one place that it passes in every step: where it asks for a batch.

Before each step the probe runs a bare pass: a forward and a backward of the frozen UNet alone, without adapter, loss,
optimizer and data, on the same shapes. Its backward reaches the latents, as an adapter's must reach the adapter. What
lies between two calls, without the bare pass, is one step, with all that the loop does around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from evenhand.adapters.lowrank import lean_layers, plain_layers
from evenhand.benchmark.operations import OperationCounter
from evenhand.benchmark.timing import Clock, Mark
from evenhand.benchmark.training_set import CAPTIONS
from evenhand.data.batches import Batches
from evenhand.interfaces import Batch, LoadedBase

CACHED, PEFT, UNCACHED = "cached", "peft", "uncached"
KINDS = (CACHED, PEFT, UNCACHED)
LOG_EVERY_STEPS = 10
BATCH, PASSES, UPDATE, REST = "batch", "forward and backward", "clip and optimizer", "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """``pairs`` timed steps of each kind, each behind a bare pass, after ``warmup`` of each that are not timed.

    ``cached`` is the training as it is; ``peft`` is the same with PEFT's own LoRA forward; ``uncached`` embeds the
    captions and encodes the images in each step, as trainers without a cache do (reading the files is left out).
    """

    batch_size: int
    resolution_px: int
    pairs: int
    warmup: int
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"unknown kinds of steps {sorted(unknown)}; choose from {', '.join(KINDS)}")
        if CACHED not in self.kinds:
            raise ValueError(f"the kind {CACHED} must be among those measured, got {', '.join(self.kinds)}")
        if self.pairs < 1 or self.warmup < 1:
            raise ValueError(f"pairs and warmup must be >= 1, got {self.pairs} and {self.warmup} (pairs=)")

    def kind(self, step: int) -> str:
        """The kinds take turns."""
        return self.kinds[step % len(self.kinds)]

    def is_timed(self, step: int) -> bool:
        """Behind the warm-up, and before the steps that are counted."""
        return self.warmup <= step // len(self.kinds) < self.warmup + self.pairs

    def is_counted(self, step: int) -> bool:
        """A step of each kind behind the timed ones, in which operations are counted; counting takes time."""
        return step // len(self.kinds) == self.counted_round

    @property
    def counted_round(self) -> int:
        """The first turn of all kinds behind the timed ones in which nothing is logged."""
        number = self.warmup + self.pairs
        while any((number * len(self.kinds) + place + 1) % LOG_EVERY_STEPS == 0 for place in range(len(self.kinds))):
            number += 1
        return number

    @property
    def num_steps(self) -> int:
        """All of these, and one more that ends the last of them."""
        return len(self.kinds) * (self.counted_round + 1) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    """One step, the bare pass before it, and how long the process waited for its batch."""

    bare: float
    step: float
    loader: float


class Probe:
    """Stands where a training's batches stand: ``device`` and ``at`` are what the loop needs of them."""

    def __init__(self, batches: Batches, base: LoadedBase, bare: LoadedBase, plan: StepPlan) -> None:
        self.batches = batches
        self.device = batches.device
        self.base = base
        self.bare = bare
        self.plan = plan
        self.clock = Clock(batches.device)
        self.bare_counter = OperationCounter()
        self.counters = {kind: OperationCounter() for kind in plan.kinds}
        self._given = batches.at(0)  # what the bare passes work on
        self._marks: dict[str, list[tuple[Mark, Mark, Mark, Mark]]] = {kind: [] for kind in plan.kinds}
        self._end_step: Callable[[], None] = _nothing
        self._counter: OperationCounter | None = None

    def at(self, step: int, *, part: int = 0, num_parts: int = 1) -> Batch:
        """The batch of a step. The step before ends here, the bare pass runs, and this step begins."""
        self._end_step()
        self._end_step = _nothing
        kind = self.plan.kind(step)
        (plain_layers if kind == PEFT else lean_layers)(self.base.unet)
        before = self.clock.mark()
        self._bare_pass(counts=self.plan.is_counted(step) and kind == self.plan.kinds[0])
        start = self.clock.mark()
        if self.plan.is_counted(step):
            self._start_counting(kind)
        batch = self.batches.at(step, part=part, num_parts=num_parts)
        fetched = self.clock.mark()
        if kind == UNCACHED:
            batch = self._encoded(batch)
        self.enter(PASSES)
        if self.plan.is_timed(step):
            self._end_step = lambda: self._marks[kind].append((before, start, fetched, self.clock.mark()))
        return batch

    def enter(self, phase: str) -> None:
        """From here on operations count as this phase's."""
        if self._counter is not None:
            self._counter.phase = phase

    def seconds(self, kind: str) -> list[StepSeconds]:
        """The timed steps of a kind."""
        between = self.clock.between
        return [
            StepSeconds(bare=between(before, start), step=between(start, end), loader=fetched.seconds - start.seconds)
            for before, start, fetched, end in self._marks[kind]
        ]

    def _bare_pass(self, *, counts: bool) -> None:
        batch = self._given
        noisy_BCHW = batch.latents_BCHW.detach().clone().requires_grad_(True)
        with self.bare_counter if counts else nullcontext():
            prediction_BCHW = self.bare.denoise(noisy_BCHW, batch.timesteps_B, batch.text, size_B6=batch.size_B6)
            prediction_BCHW.square().mean().backward()  # type: ignore[no-untyped-call]  # torch does not type it

    def _start_counting(self, kind: str) -> None:
        self._counter = self.counters[kind]
        self._counter.phase = BATCH
        self._counter.__enter__()  # type: ignore[no-untyped-call]  # torch does not type it
        self._end_step = self._stop_counting

    def _stop_counting(self) -> None:
        assert self._counter is not None, "no step is being counted"
        self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above
        self._counter = None

    def _encoded(self, batch: Batch) -> Batch:
        """The batch with its latents and text made anew, from grey pictures."""
        import torch

        num_rows, side_px = len(batch.latents_BCHW), self.plan.resolution_px
        posterior = self.base.encode_images(torch.zeros((num_rows, 3, side_px, side_px), device=self.device))
        latents_BCHW = posterior.mean_BCHW + posterior.std_BCHW * torch.randn_like(posterior.std_BCHW)
        text = self.base.encode_text([CAPTIONS[0]] * num_rows)
        return dataclasses.replace(batch, latents_BCHW=latents_BCHW, text=text)


def _nothing() -> None:
    """Where no step is open."""
