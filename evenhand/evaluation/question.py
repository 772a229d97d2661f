"""From choices to a plan: which prompts, which seeds, which attributes are read, and what would be a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from evenhand.evaluation.plan import GenerationPlan, Plan, Primary
from evenhand.evaluation.suites import PlannedPrompt, Suites
from evenhand.interfaces import LoadedBase, Reader, SamplingSettings
from evenhand.records import Attribute, Target
from evenhand.seeds import derive

BASE_ARM, ADAPTED_ARM = "base", "adapted"
DTYPES = ("float32", "float16", "bfloat16")


class TargetChoice(Protocol):
    """What conf/target names."""

    def targets(self, attribute: Attribute) -> tuple[Target, ...]:
        """The targets of an attribute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What conf/evaluate.yaml decides; its comments say what each means."""

    primary_suite: str
    side_attributes: tuple[str, ...]
    guard_attributes: tuple[str, ...]
    alpha: float
    guard_rule: str
    margins: Mapping[str, float]
    batch_size: int
    adapter_scale: float
    dtype: str
    training_reader: str | None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for name, margin in self.margins.items():
            if not 0 <= margin < 1:
                raise ValueError(f"margins.{name} must be at least 0 and below 1, got {margin}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of an adapter, as far as it is known before any model is loaded."""

    settings: EvaluationSettings
    attribute: Attribute
    targets: tuple[Target, ...]
    prompts: tuple[PlannedPrompt, ...]
    attributes: Mapping[str, tuple[str, ...]]
    reader: str

    @property
    def num_images(self) -> int:
        """How many images an arm makes."""
        return sum(entry.num_seeds for entry in self.prompts)


def ask(
    settings: EvaluationSettings, *, attribute: Attribute, target: TargetChoice, suites: Suites, reader: Reader
) -> Question:
    """Check that the choices fit each other; ValueError before anything is loaded when they do not."""
    prompts = tuple(suites.prompts({attribute.name: attribute}))
    expected = [name for entry in prompts for name in entry.prompt.expects or {}]
    names = dict.fromkeys([attribute.name, *settings.side_attributes, *settings.guard_attributes, *expected])
    attributes = {name: _declared(name, attribute, reader) for name in names}
    return Question(
        settings=settings,
        attribute=attribute,
        targets=target.targets(attribute),
        prompts=prompts,
        attributes=attributes,
        reader=reader.name,
    )


def _declared(name: str, attribute: Attribute, reader: Reader) -> tuple[str, ...]:
    """The values of an attribute, as the reader declares them."""
    if name not in reader.attributes:
        raise ValueError(f"reader {reader.name} does not read {name!r}; it reads {', '.join(reader.attributes)}")
    values = reader.attributes[name]
    if name != attribute.name:
        return values
    if set(values) != set(attribute.values):
        raise ValueError(
            f"attribute {name} has values {list(attribute.values)}, but reader {reader.name} reads {list(values)}"
        )
    return attribute.values


def plan_evaluation(
    question: Question, base: LoadedBase, *, sampling: SamplingSettings, adapter_sha256: str, seed: int, device: str
) -> Plan:
    """The plan of one adapter on one base. A prompt's seeds depend on the root seed and its id alone."""
    settings = question.settings
    seeds = {
        entry.prompt.id: tuple(derive(seed, entry.prompt.id, index) for index in range(entry.num_seeds))
        for entry in question.prompts
    }
    generation = GenerationPlan(
        seeds=seeds,
        batch_size=settings.batch_size,
        steps=sampling.steps,
        guidance=sampling.guidance,
        height_px=sampling.height_px,
        width_px=sampling.width_px,
        dtype=settings.dtype,
        device=device,
        base=base.name,
        base_fingerprint=base.fingerprint,
        encoders_fingerprint=base.encoders_fingerprint,
        adapter_sha256=adapter_sha256,
        adapter_scale=settings.adapter_scale,
    )
    return Plan(
        alpha=settings.alpha,
        paired=True,
        arms=(BASE_ARM, ADAPTED_ARM),
        primary=Primary(attribute=question.attribute.name, suite=settings.primary_suite),
        attributes=question.attributes,
        targets=question.targets,
        prompts=tuple(entry.prompt for entry in question.prompts),
        margins=settings.margins,
        guard_attributes=settings.guard_attributes,
        guard_rule=settings.guard_rule,
        reader=question.reader,
        training_reader=settings.training_reader,
        generation=generation,
    )
