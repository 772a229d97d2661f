"""What a training step costs: its time over the bare pass's, its operations, its wait for data, its memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evenhand.adapters.lora import attach, detach
from evenhand.benchmark.probe import CACHED, LOG_EVERY_STEPS, PASSES, REST, UPDATE, Probe, StepPlan
from evenhand.benchmark.timing import Ratio, Timing, ratio, timing
from evenhand.benchmark.training_set import write_noise_set
from evenhand.compose import Config, compose_config
from evenhand.data.batches import Batches
from evenhand.data.rows import TRAIN, read_split
from evenhand.files import read_json
from evenhand.interfaces import DirectMethod, LoadedBase
from evenhand.trackers import JsonlTracker
from evenhand.training.batches import make_batches
from evenhand.training.fit import MEMORY_FILE, fit

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

NUM_IMAGES = 16
# The method without its second part: what every trainer of a LoRA does. Weights that are drawn bear small steps only.
PLAIN_TRAINING = ("method.preserve_weight=0", "train.preserve_batch_size=0", "data=none", "optim.learning_rate=1e-5")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What was measured. ``ratios`` are those of each kind of step to the bare pass before it.

    ``loader_share`` is of the cached step's time; ``update_operations`` those of clipping and the optimizer;
    ``host_syncs`` is how often the loop read a value from the device in a step that it does not log.
    """

    plan: StepPlan
    num_tensors: int
    bare: Timing
    steps: dict[str, Timing]
    ratios: dict[str, Ratio]
    images_per_second: dict[str, float]
    loader_share: Timing
    bare_operations: int
    operations: dict[str, int]
    update_operations: int
    host_syncs: int
    memory: dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTraining:
    """What train/lora.py would be given, but for its set, which is noise."""

    config: Config
    resolution_px: int
    num_images: int

    def batches(self, base: LoadedBase, *, folder: Path, accelerator: Accelerator, seed: int) -> Batches:
        """The batches of the set, encoded and cached in ``folder``."""
        data = write_noise_set(folder / "set", num_images=self.num_images, px=self.resolution_px, seed=seed)
        return make_batches(
            base,
            {TRAIN: read_split(data, TRAIN)},
            settings=self.config.build("train"),
            images=self.config.build("images"),
            cache_folder=folder / "cache",
            seed=seed,
            accelerator=accelerator,
            timesteps=self.config.build("timesteps"),
            method=self.config.build("method"),
        )


def training_of_noise(
    *, steps: int, batch_size: int, resolution_px: int, num_images: int, overrides: Sequence[str]
) -> NoiseTraining:
    """The config of a training that writes nothing on its way; ``overrides`` are those that train/lora.py takes."""
    config = compose_config(
        "train",
        [
            *PLAIN_TRAINING,
            f"train.steps={steps}",
            f"train.batch_size={batch_size}",
            f"train.log_every_steps={LOG_EVERY_STEPS}",
            f"train.checkpoint_every_steps={steps}",
            f"images.resolution_px={resolution_px}",
            *overrides,
        ],
    )
    lora = config.build("lora")
    if lora.text_encoder != "none":
        raise ValueError(f"the benchmark trains the UNet alone, got lora.text_encoder={lora.text_encoder} (training)")
    method = config.build("method")
    if isinstance(method, DirectMethod) or method.uses_explicit:
        raise ValueError(
            f"the benchmark trains in steps, on noise without explicit captions; method {method.name} cannot "
            "(training.method)"
        )
    return NoiseTraining(config=config, resolution_px=resolution_px, num_images=num_images)


def measure_steps(
    base: LoadedBase,
    plan: StepPlan,
    *,
    folder: Path,
    accelerator: Accelerator,
    seed: int,
    overrides: Sequence[str],
) -> StepFigures:
    """Train on ``base`` as train/lora.py would with these ``overrides``, and measure it; the base is as before then."""
    training = training_of_noise(
        steps=plan.num_steps,
        batch_size=plan.batch_size,
        resolution_px=plan.resolution_px,
        num_images=NUM_IMAGES,
        overrides=overrides,
    )
    config, bare = training.config, bare_copy(base)
    batches = training.batches(base, folder=folder, accelerator=accelerator, seed=seed)
    adapter = attach(base, config.build("lora"), seed=seed)
    probe = Probe(batches, base, bare, plan)
    tracker = JsonlTracker(folder / "metrics.jsonl")
    with _watched(accelerator, probe):
        fit(
            base,
            adapter,
            config.build("method"),
            cast(Batches, probe),  # the loop asks for no more than a probe has
            settings=config.build("train"),
            optim=config.build("optim"),
            accelerator=accelerator,
            tracker=tracker,
            folder=folder,
            config_sha256="benchmark",
            resume=None,
            validation=None,
        )
    tracker.close()
    figures = _figures(probe, num_tensors=len(adapter.parameters), memory=read_json(folder / MEMORY_FILE))
    detach(base)
    return figures


def bare_copy(base: LoadedBase) -> LoadedBase:
    """The base with a UNet of its own modules and the same weights: an adapter put on the one is not on the other."""
    weights = {id(weight): weight for weight in (*base.unet.parameters(), *base.unet.buffers())}
    bare = copy.copy(base)
    bare.unet = copy.deepcopy(base.unet, cast(dict[int, Any], weights))  # Any: as deepcopy's memo is typed
    return bare


@contextmanager
def _watched(accelerator: Accelerator, probe: Probe) -> Iterator[None]:
    """Inside, the probe is told when a backward ends and when an optimizer has stepped."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    backward = accelerator.backward

    def backward_then_tell(loss: torch.Tensor) -> None:
        backward(loss)
        probe.enter(UPDATE)

    handle = register_optimizer_step_post_hook(lambda *_: probe.enter(REST))
    accelerator.backward = backward_then_tell
    try:
        yield
    finally:
        accelerator.backward = backward
        handle.remove()


def _figures(probe: Probe, *, num_tensors: int, memory: dict[str, Any]) -> StepFigures:  # Any: JSON
    seconds = {kind: probe.seconds(kind) for kind in probe.plan.kinds}
    steps = {kind: timing([each.step for each in taken]) for kind, taken in seconds.items()}
    own = probe.counters[CACHED]
    return StepFigures(
        plan=probe.plan,
        num_tensors=num_tensors,
        bare=timing([each.bare for taken in seconds.values() for each in taken]),
        steps=steps,
        ratios={
            kind: ratio([each.step for each in taken], [each.bare for each in taken]) for kind, taken in seconds.items()
        },
        images_per_second={kind: probe.plan.batch_size / steps[kind].median for kind in steps},
        loader_share=timing([each.loader / each.step for each in seconds[CACHED]]),
        bare_operations=probe.bare_counter.total(),
        operations={kind: counter.total(PASSES) for kind, counter in probe.counters.items()},
        update_operations=own.total(UPDATE),
        host_syncs=own.syncs(PASSES, UPDATE, REST),
        memory=memory,
    )
