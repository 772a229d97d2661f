"""From choices to a plan: which prompts, which seeds, which attributes are read, and what would be a failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from evenhand.captions.quotas import TargetChoice, joint_attribute, targets_of
from evenhand.evaluation.forecast import expected_effect
from evenhand.evaluation.overlap import TrainingCaptions, without_overlap
from evenhand.evaluation.plan import JOINT, Dose, GenerationPlan, Plan, Primary, Sequential
from evenhand.evaluation.suites import PlannedPrompt, Suites
from evenhand.evaluation.tiers import Choice, WholeSuite
from evenhand.interfaces import LoadedBase, Reader, SamplingSettings
from evenhand.records import Attribute, Target
from evenhand.seeds import derive

BASE_ARM, ADAPTED_ARM = "base", "adapted"
DTYPES = ("float32", "float16", "bfloat16")


class TierChoice(Protocol):
    """What conf/tier names."""

    name: str | None
    audit_pairs: int

    def choose(self, prompts: Sequence[PlannedPrompt], *, shared_rows: Mapping[str, Sequence[str]]) -> Choice:
        """The prompts that are asked, with their number of seeds."""


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
    joints: tuple[tuple[str, ...], ...]
    dose_scales: tuple[float, ...]
    dose_num_seeds: int
    sigma_between: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "joints", tuple(tuple(names) for names in self.joints))
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for name, margin in self.margins.items():
            if not 0 <= margin < 1:
                raise ValueError(f"margins.{name} must be at least 0 and below 1, got {margin}")
        if self.dose_scales:
            Dose(scales=self.dose_scales, num_seeds=self.dose_num_seeds)  # refuses scales that cannot be
        if not 0 <= self.sigma_between < 1:
            raise ValueError(f"sigma_between must be at least 0 and below 1, got {self.sigma_between}")

    @property
    def dose(self) -> Dose | None:
        """The dose as a plan has it; None where no other scale is asked for."""
        return Dose(scales=self.dose_scales, num_seeds=self.dose_num_seeds) if self.dose_scales else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of an adapter, as far as it is known before any model is loaded.

    ``extra`` is what a plan says of where its prompts come from: suite, rows of the tier, overlap with the training.
    """

    settings: EvaluationSettings
    attribute: Attribute
    targets: tuple[Target, ...]
    prompts: tuple[PlannedPrompt, ...]
    attributes: Mapping[str, tuple[str, ...]]
    reader: str
    second_readers: tuple[str, ...]
    tier: str | None
    extra: Mapping[str, Any]  # Any: JSON


def ask(
    settings: EvaluationSettings,
    *,
    attribute: Attribute,
    target: TargetChoice,
    suites: Suites,
    reader: Reader,
    tier: TierChoice | None = None,
    second_readers: Sequence[Reader] = (),
    joint_target: TargetChoice | None = None,
    captions: TrainingCaptions | None = None,
) -> Question:
    """Check that the choices fit each other; ValueError before anything is loaded when they do not.

    ``captions`` are those that the adapter was trained on, None where they are not known. What a tier takes does not
    depend on them, so that two adapters are asked the same but for what is excluded.
    """
    tier = WholeSuite() if tier is None else tier
    choice = tier.choose(suites.prompts({attribute.name: attribute}), shared_rows=suites.shared_rows)
    prompts, extra = choice.prompts, _origin(suites, tier, choice, captions)
    if captions is not None:
        overlap = without_overlap(prompts, captions, headline_suite=settings.primary_suite)
        prompts, extra = overlap.prompts, {**extra, "excluded": list(overlap.excluded), "seen": overlap.seen}
    expected = [name for entry in prompts for name in entry.prompt.expects or {}]
    joined = [name for names in settings.joints for name in names]
    names = dict.fromkeys([attribute.name, *settings.side_attributes, *settings.guard_attributes, *expected, *joined])
    attributes = {name: _declared(name, attribute, reader) for name in names}
    for other in second_readers:
        _declared(attribute.name, attribute, other)
    _check_names([reader, *second_readers])
    return Question(
        settings=settings,
        attribute=attribute,
        targets=(
            *targets_of(target, attribute, concepts=suites.concepts),
            *_joint_targets(settings.joints, attributes, joint_target, suites.concepts),
        ),
        prompts=prompts,
        attributes=attributes,
        reader=reader.name,
        second_readers=tuple(other.name for other in second_readers),
        tier=tier.name,
        extra=extra,
    )


def _origin(
    suites: Suites, tier: TierChoice, choice: Choice, captions: TrainingCaptions | None
) -> dict[str, Any]:  # Any: JSON
    """What a plan says of where its prompts come from."""
    origin: dict[str, Any] = {"training_captions": None if captions is None else captions.facts()}  # Any: JSON
    if suites.name is not None:
        origin["suite"] = {"name": suites.name, "version": suites.version}
    if choice.rows:
        origin["rows"] = [{**asdict(row), "suites": list(row.suites)} for row in choice.rows]
    if tier.audit_pairs:
        origin["audit_pairs"] = tier.audit_pairs
    return origin


def _check_names(readers: Sequence[Reader]) -> None:
    names = [reader.name for reader in readers]
    if len(set(names)) != len(names):
        raise ValueError(f"readers must differ, got {', '.join(names)}; a second opinion of the same reader is none")


def _joint_targets(
    joints: Sequence[Sequence[str]],
    attributes: Mapping[str, Sequence[str]],
    choice: TargetChoice | None,
    concepts: Collection[str],
) -> list[Target]:
    """The targets of joint attributes, whose values are all combinations; none where none is chosen."""
    if choice is None:
        return []
    targets: list[Target] = []
    for names in joints:
        parts = [_unworded(name, attributes[name]) for name in names]
        targets += targets_of(choice, joint_attribute(parts, joint=JOINT), concepts=concepts)
    return targets


def _unworded(name: str, values: Sequence[str]) -> Attribute:
    """An attribute of which no caption is made."""
    values = tuple(values)
    return Attribute(name=name, values=values, forms=dict.fromkeys(values, "{}"), words=dict.fromkeys(values, ()))


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
    question: Question,
    base: LoadedBase,
    *,
    sampling: SamplingSettings,
    adapter_sha256: str,
    seed: int,
    device: str,
    environment: Mapping[str, Any] | None = None,  # Any: JSON
    sequential: Sequential | None = None,
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
        environment=environment or {},
    )
    plan = Plan(
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
        second_readers=question.second_readers,
        joints=settings.joints,
        tier=question.tier,
        dose=settings.dose,
        sequential=sequential,
        training_reader=settings.training_reader,
        generation=generation,
        extra=question.extra,
    )
    effect = expected_effect(plan, sigma_between=settings.sigma_between)
    return plan if effect is None else replace(plan, extra={**plan.extra, "mde": asdict(effect)})
