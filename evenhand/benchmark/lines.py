"""The figures of a part as lines to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import singledispatch

from evenhand.benchmark.counts import GraphCounts
from evenhand.benchmark.full_size import FullSizeFigures
from evenhand.benchmark.steps import StepFigures
from evenhand.benchmark.throughput import GenerationFigures, Throughput
from evenhand.benchmark.timing import Ratio, Timing
from evenhand.training.memory import memory_line

KIND_NAMES = {
    "cached": "training step",
    "peft": "... with PEFT's own LoRA forward",
    "uncached": "... without caches",
}


def part_lines(part: str, figures: object) -> list[str]:
    """What was measured in a part, one fact a line."""
    return [part, *(f"  {line}" for line in _lines(figures))]


@singledispatch
def _lines(figures: object) -> Iterable[str]:
    raise TypeError(f"no lines for {type(figures).__name__}")


@_lines.register
def _(figures: GraphCounts) -> Iterable[str]:
    yield f"operations of a forward and backward, {figures.architecture}, LoRA on {figures.num_modules} modules"
    yield f"frozen UNet alone: {figures.bare}"
    yield f"with the LoRA: {figures.ours} ({figures.ours / figures.bare:.3f} times as many)"
    yield f"with PEFT's own LoRA forward: {figures.peft} ({figures.peft / figures.bare:.3f})"


@_lines.register
def _(figures: StepFigures) -> Iterable[str]:
    plan = figures.plan
    yield f"batch {plan.batch_size}, {plan.resolution_px} px, LoRA of {figures.num_tensors} tensors"
    yield f"frozen UNet, forward and backward: {_seconds(figures.bare)}"
    for kind, name in KIND_NAMES.items():
        if kind in figures.steps:
            yield (
                f"{name}: {_seconds(figures.steps[kind])}, {_ratio(figures.ratios[kind])}, "
                f"{figures.images_per_second[kind]:.2f} images/s"
            )
    yield f"waiting for a batch: {100 * figures.loader_share.median:.2f} % of a step"
    counts = ", ".join(
        f"{KIND_NAMES[kind]} {count} ({count / figures.bare_operations:.3f})"
        for kind, count in figures.operations.items()
    )
    yield f"operations on this device: frozen UNet {figures.bare_operations}, {counts}"
    yield f"clipping and optimizer: {figures.update_operations} operations"
    yield f"values read from the device in a step that logs nothing: {figures.host_syncs}"
    yield memory_line(figures.memory)


@_lines.register
def _(figures: FullSizeFigures) -> Iterable[str]:
    checkpointing = "with" if figures.gradient_checkpointing else "without"
    yield (
        f"{figures.architecture}, batch 1, {figures.resolution_px} px, {checkpointing} gradient checkpointing, "
        f"mixed precision {figures.mixed_precision}: {figures.step_seconds:.1f} s a step"
    )
    yield memory_line(figures.memory)


@_lines.register
def _(figures: GenerationFigures) -> Iterable[str]:
    yield f"batch {figures.batch_size}, {figures.steps} steps: {figures.images_per_second:.2f} images/s"
    yield f"bare pipeline: {figures.bare_images_per_second:.2f} images/s; ours takes {_ratio(figures.ratio)} its time"


@_lines.register
def _(figures: Throughput) -> Iterable[str]:
    yield f"{figures.per_second:.1f} in a second, {figures.batch} at a time: {_seconds(figures.seconds)}"


def _seconds(found: Timing) -> str:
    return (
        f"{1000 * found.median:.1f} ms (quartiles {1000 * found.quartile_1:.1f} to {1000 * found.quartile_3:.1f}, "
        f"n {found.n})"
    )


def _ratio(found: Ratio) -> str:
    return f"{found.value:.3f} times [{found.low:.3f}, {found.high:.3f}]"


def machine_line(facts: Mapping[str, object]) -> str:
    """Where the figures were taken, in one line."""
    versions = facts["versions"]
    assert isinstance(versions, Mapping), "machine_facts gives versions by package"
    packages = ", ".join(f"{name} {versions.get(name)}" for name in ("torch", "diffusers", "peft"))
    return (
        f"{facts['device']}, {facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, "
        f"load {facts['load']}; {packages}"
    )
