"""A validation of a tiny base: three neutral prompts and two that state a value, read by mean colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from evenhand.adapters.lora import Adapter
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.suites import Suites
from evenhand.evaluation.targets import Uniform
from evenhand.readers.planted import Planted
from evenhand.records import Attribute
from evenhand.training.loaded_validation import LoadedValidation
from evenhand.training.validation import TargetValidation
from evenhand.training.validation_scores import TargetScore

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("female",), "man": ("male",)},
)
TEMPLATE = "a portrait of {a_concept} with a hat"
NUM_IMAGES = 3 * 3 + 2 * 2
SIDE_PX = 32
RED = 90  # of 255


class Remember:
    """A tracker that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.lines.append((step, dict(metrics)))

    def close(self) -> None:
        pass


def tiny_suite(*, concepts: tuple[str, ...] = ("mechanic", "doctor", "nurse"), template: str = TEMPLATE) -> Suites:
    """Neutral prompts of three concepts, and both values of the first one."""
    return Suites(
        concepts={"people": concepts, "told": concepts[:1]},
        groups=[
            {"suite": "heldout", "concepts": "people", "templates": [template]},
            {"suite": "explicit", "concepts": "told", "templates": [template], "name": "presentation"},
        ],
        num_seeds={"heldout": 3, "explicit": 2},
    )


def color_reader(*, name: str = "colors", max_distance: float = 1e3) -> Planted:
    """Reads a woman where a picture is redder than the tiny VAE's pictures are on average."""
    colors = {"presentation": {"woman": (RED + 1, 143, 148), "man": (RED - 1, 143, 148)}}
    return Planted(name=name, colors=colors, max_distance=max_distance, confusion=0.0, abstain=0.0, seed=0)


def tiny_choice(**changes: Any) -> TargetValidation:
    """The choice, as a YAML would make it."""
    arguments: dict[str, Any] = {
        "every_steps": 2,
        "suite": tiny_suite(),
        "attribute": PRESENTATION,
        "target": Uniform(),
        "reader": color_reader(),
        "score": TargetScore(obedience_weight=1.0, unread_weight=1.0),
        "evaluated_by": "another",
        "evaluation_suites": ["tinytown"],
        "steps": 2,
        "guidance": 2.0,
        "size_px": SIDE_PX,
        "batch_size": 4,
        "seed": 0,
    }
    return TargetValidation(**{**arguments, **changes})


def tiny_validation(
    base: LoadedStableDiffusion, adapter: Adapter, folder: Path, tracker: Remember | None = None, **changes: Any
) -> LoadedValidation:
    """The loaded validation of a run folder, in one process."""
    return tiny_choice(**changes).load(
        base, adapter, accelerator=Accelerator(cpu=True), tracker=tracker or Remember(), folder=folder
    )
