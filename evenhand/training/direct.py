"""An adapter from a method that solves for it at once: what takes the place of the loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from evenhand.adapters.file import DOWN, UP
from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.placement import UNET, placements_of
from evenhand.adapters.settings import LoraSettings
from evenhand.data.rows import METADATA_NAME, Split
from evenhand.interfaces import Base, DirectMethod, LoadedBase, Solution, Tracker
from evenhand.training.fit import FitResult
from evenhand.training.settings import TrainSettings

log = logging.getLogger(__name__)

# Settings that do nothing without steps, and are off unless they are chosen.
ONLY_OF_STEPS = (
    "caption_dropout",
    "noise_offset",
    "gradient_checkpointing",
    "compile",
    "shard_base",
)


def check_direct(
    method: DirectMethod,
    splits: Mapping[str, Split],
    *,
    base: Base,
    lora: LoraSettings,
    settings: TrainSettings,
    validation: Any,  # Any: what conf/validation names, None for none
) -> None:
    """Raise ValueError for an adapter that the method cannot make, rows it cannot use, and what only steps have."""
    if lora.targets != method.targets:
        raise ValueError(
            f"method {method.name} changes {method.targets} alone, got lora.targets={lora.targets} "
            f"(lora={method.targets})"
        )
    if lora.text_encoder != "none":
        raise ValueError(f"method {method.name} has nothing for the text encoder (lora.text_encoder=none)")
    if lora.variant == "dora":
        raise ValueError(f"method {method.name} solves for a sum, and a DoRA is none (lora.variant=lora)")
    if validation is not None or settings.keep == "best" or settings.ema_decay is not None:
        raise ValueError(
            f"method {method.name} takes no steps: there is nothing to validate, choose or average "
            "(validation=none train.keep=last train.ema_decay=null)"
        )
    for name in ONLY_OF_STEPS:
        if value := getattr(settings, name):
            raise ValueError(f"method {method.name} takes no steps, and has no use for train.{name}={value}: leave it")
    method.check({name: split.examples for name, split in splits.items()})
    for split in splits.values():
        if named := sorted({example.explicit for example in split.examples} - {""}):
            base.check_captions(named, where=str(split.folder / METADATA_NAME))


def solve(
    base: LoadedBase,
    method: DirectMethod,
    splits: Mapping[str, Split],
    *,
    lora: LoraSettings,
    seed: int,
    tracker: Tracker,
) -> tuple[Adapter, FitResult]:
    """The adapter that the method solves for, on the base. Every process finds the same one."""
    log.info("%s takes no steps: batches, timesteps and the optimizer are not used", method.name)
    rows = {name: split.examples for name, split in splits.items()}
    solution = method.solve(base, rows, ranks=placements_of(base, lora)[UNET].ranks)
    adapter = attach(base, lora, seed=seed)
    put(adapter, solution)
    tracker.log(solution.figures, step=0)
    log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in solution.figures.items()))
    return adapter, FitResult(step=0, loss=solution.figures["loss"], finished=True, kept_step=0)


def put(adapter: Adapter, solution: Solution) -> None:
    """Make the adapter add what a solution says, whatever its scale is."""
    import torch

    keyed = adapter.keyed()
    with torch.no_grad():
        for module, (down_RI, up_OR) in solution.factors.items():
            keyed[UNET, module, DOWN].copy_(down_RI)
            keyed[UNET, module, UP].copy_(up_OR / adapter.placements[UNET].scale(module))
