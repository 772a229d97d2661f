"""A curated set's images in a second: made, read and written, beside the bare pipeline that only makes them."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.benchmark.throughput import GenerationFigures
from evenhand.benchmark.timing import Clock, in_turn, ratio, timing
from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.interfaces import LoadedBase, LoadedReader, Reader, SamplingSettings
from evenhand.processes import OneProcess
from evenhand.recipes.attempts import BudgetSpent
from evenhand.recipes.self_generated import SelfGenerated

if TYPE_CHECKING:
    import torch

NUM_BATCHES = 3  # of one reading: the first waits for nothing, and the last is written with nothing behind it
CONCEPT = "mechanic"
# One round: what is refused is not tried again, so that every reading is of as many images.
ONE_ROUND = ("recipe=tinytown_self", "recipe.preserve=null", "recipe.max_attempts_factor=1", "recipe.plan.seed=0")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A base or a reader that is loaded already."""

    part: Any  # Any: either
    name: str

    def load(self, **_: object) -> Any:  # Any: either
        """The part."""
        return self.part


def measure_build(
    base: LoadedBase,
    reader: Reader,
    sampling: SamplingSettings,
    *,
    batch_size: int,
    pairs: int,
    folder: Path,
    device: torch.device,
) -> GenerationFigures:
    """Make batches in turn by a recipe's build and by the bare pipeline, which gets the same captions and seeds."""
    import torch

    recipe = _recipe(base, reader, reader.load(device=device), sampling, batch_size=batch_size)
    pipeline: Any = base.pipeline  # type: ignore[attr-defined]  # both kinds of base hold one; Any: no types
    slots = recipe.plan.slots

    def bare() -> None:
        for start in range(0, len(slots), batch_size):
            batch = slots[start : start + batch_size]
            pipeline(
                prompt=[slot.explicit for slot in batch],
                height=sampling.height_px,
                width=sampling.width_px,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[torch.Generator().manual_seed(slot.index) for slot in batch],
            )

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place, suppress(BudgetSpent):
            for _ in recipe.build(Path(place), device=device, ranks=OneProcess()):
                pass

    turns = in_turn(bare, ours, pairs=pairs, clock=Clock(device))
    return GenerationFigures(
        batch_size=batch_size,
        steps=sampling.steps,
        ratio=ratio(turns.second, turns.first),
        images_per_second=len(slots) / timing(turns.second).median,
        bare_images_per_second=len(slots) / timing(turns.first).median,
    )


def _recipe(
    base: LoadedBase, reader: Reader, loaded_reader: LoadedReader, sampling: SamplingSettings, *, batch_size: int
) -> SelfGenerated:
    """A recipe for one concept, whose models are loaded."""
    sizes = (f"recipe.batch_size={batch_size}", f"recipe.plan.images_per_concept={NUM_BATCHES * batch_size}")
    node = compose_config("build", [*ONE_ROUND, *sizes]).plain["recipe"]
    node["plan"]["concepts"] = [CONCEPT]
    recipe = build(node, key="recipe")
    assert isinstance(recipe, SelfGenerated)
    recipe.sampling = sampling
    recipe.base = _Loaded(base, base.name)  # type: ignore[assignment]  # of a base, its load is all that build calls
    recipe.readers = (_Loaded(loaded_reader, reader.name),)  # type: ignore[assignment]  # as above
    return recipe
