"""The plan of an evaluation: frozen and hashed before the first image, and all that an analysis may know beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from evenhand.files import read_json, sha256_json, write_json_atomic
from evenhand.records import ANY_CONCEPT, Prompt, Target, target_json

PLAN_VERSION = 1
PLAN_FILE = "plan.json"
GUARD_RULES = ("point", "interval")
# A joint attribute is named by its parts: "presentation × skin", with values "woman × light", "woman × medium", ...
JOINT = " × "
ABSENT = "absent"
MAX_DIFFERENCES_SHOWN, MAX_VALUE_CHARACTERS = 4, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The one comparison that the headline is about."""

    attribute: str
    suite: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """What decides the pixels. ``seeds`` lists the seeds of each prompt id; ``batch_size`` is part of the layout.

    ``environment`` is whatever else can change a pixel: sampler, versions of packages, attention, machine, threads.
    ``arm`` says what the second arm is where that is more than the file of ``adapter_sha256``: a stack of adapters with
    their weights, or a baseline with what it does for each image (``instructions``, in the order of the seeds).
    """

    seeds: Mapping[str, tuple[int, ...]]
    batch_size: int
    steps: int
    guidance: float
    height_px: int
    width_px: int
    dtype: str
    device: str
    base: str
    base_fingerprint: str
    encoders_fingerprint: str
    adapter_sha256: str
    adapter_scale: float
    environment: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    arm: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """Images are made in rounds, one seed of every prompt, until the change of the headline share is certain.

    ``width``: also until its confidence sequence is this narrow; None: certainty alone, or the last seed, ends it.
    """

    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not 0 < self.width < 2:
            raise ValueError(f"plan: the width of a sequential run must be between 0 and 2, got {self.width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """The adapter at other ``scales`` than its own, on the first ``num_seeds`` seeds of every primary prompt."""

    scales: tuple[float, ...]
    num_seeds: int

    def __post_init__(self) -> None:
        if self.num_seeds < 1 or not self.scales or 0.0 in self.scales or len(set(self.scales)) != len(self.scales):
            raise ValueError(
                f"plan: a dose needs different scales other than 0 (the base) and num_seeds >= 1, got {self}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``attributes`` maps names to declared values in order; ``guard_attributes`` are read for guards only.

    ``guard_rule``: a guard passes when its change (``point``), or its interval's worse end (``interval``), is within
    its margin. ``reader`` gives the headline, ``second_readers`` are held against it. ``joints`` names the combinations
    of attributes whose cells are estimated as well. ``dose`` asks for arms at other scales of the adapter,
    ``sequential`` for images in rounds until the answer is certain.
    """

    alpha: float
    paired: bool
    arms: tuple[str, str]
    primary: Primary
    attributes: Mapping[str, tuple[str, ...]]
    targets: tuple[Target, ...]
    prompts: tuple[Prompt, ...]
    margins: Mapping[str, float]
    version: int = PLAN_VERSION
    guard_attributes: tuple[str, ...] = ()
    guard_rule: str = "point"
    reader: str | None = None
    second_readers: tuple[str, ...] = ()
    joints: tuple[tuple[str, ...], ...] = ()
    tier: str | None = None
    dose: Dose | None = None
    sequential: Sequential | None = None
    training_reader: str | None = None
    generation: GenerationPlan | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # Any: what other tools wrote into their plan

    def __post_init__(self) -> None:
        if self.version != PLAN_VERSION:
            raise ValueError(f"plan: version {self.version} is unknown; this evenhand reads {PLAN_VERSION}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"plan: alpha must be between 0 and 1, got {self.alpha}")
        if len(self.arms) != 2 or self.arms[0] == self.arms[1]:
            raise ValueError(f"plan: arms must be two names, the reference first, got {list(self.arms)}")
        if self.guard_rule not in GUARD_RULES:
            raise ValueError(f"plan: guard_rule must be one of {', '.join(GUARD_RULES)}, got {self.guard_rule!r}")
        if self.primary.attribute not in self.attributes:
            raise ValueError(
                f"plan: primary attribute {self.primary.attribute!r} is not one of {sorted(self.attributes)}"
            )
        suites = {prompt.suite for prompt in self.prompts}
        if self.primary.suite not in suites:
            raise ValueError(f"plan: no prompt of the primary suite {self.primary.suite!r}; there are {sorted(suites)}")
        ids = [prompt.id for prompt in self.prompts]
        if len(set(ids)) != len(ids):
            raise ValueError(f"plan: prompt ids must differ; repeated: {sorted({i for i in ids if ids.count(i) > 1})}")
        self._check_values()

    @property
    def dose_arms(self) -> dict[str, float]:
        """The arms of the dose with their scales: ``adapted@0.5``; the adapter's own scale is the arm ``adapted``."""
        scales = self.dose.scales if self.dose is not None else ()
        own = None if self.generation is None else self.generation.adapter_scale
        return {f"{self.arms[1]}@{scale:g}": scale for scale in scales if scale != own}

    @property
    def joint_attributes(self) -> dict[str, tuple[str, ...]]:
        """Every declared cell of each joint, in order, whether or not it was ever seen."""
        return {
            JOINT.join(names): tuple(JOINT.join(cell) for cell in product(*(self.attributes[name] for name in names)))
            for names in self.joints
        }

    def _check_values(self) -> None:
        for names in self.joints:
            if len(set(names)) != len(names) or len(names) < 2 or not set(names) <= set(self.attributes):
                raise ValueError(f"plan: a joint needs two or more of {sorted(self.attributes)}, got {list(names)}")
        for target in self.targets:
            values = {**self.attributes, **self.joint_attributes}.get(target.attribute)
            if values is None or (not target.leaves_alone and len(values) != len(target.shares)):
                raise ValueError(f"plan: target {target} does not fit the attributes {dict(self.attributes)}")
        for prompt in self.prompts:
            for attribute, value in (prompt.expects or {}).items():
                if value not in self.attributes.get(attribute, ()):
                    raise ValueError(
                        f"plan: prompt {prompt.id} expects {attribute}={value}, which is not declared; "
                        f"attributes: { {name: list(values) for name, values in self.attributes.items()} }"
                    )

    @property
    def level(self) -> float:
        """The level of every interval."""
        return 1 - self.alpha

    def target(self, attribute: str, concept: str) -> tuple[float, ...] | None:
        """The wanted shares for a concept: its own row, else the row of all concepts, else None.

        None as well where the concept is to stay as the base has it: there is no distance to such a target.
        """
        return self._shares(attribute, concept) or None

    def leaves_alone(self, attribute: str, concept: str) -> bool:
        """Whether the attribute's target is that the concept stays as the base has it."""
        return self._shares(attribute, concept) == ()

    def _shares(self, attribute: str, concept: str) -> tuple[float, ...] | None:
        rows = {target.concept: target.shares for target in self.targets if target.attribute == attribute}
        return rows.get(concept, rows.get(ANY_CONCEPT))

    def in_suite(self, suite: str) -> tuple[Prompt, ...]:
        """The prompts of a suite, in the plan's order."""
        return tuple(prompt for prompt in self.prompts if prompt.suite == suite)

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that have a prompt, in the plan's order."""
        return tuple(dict.fromkeys(prompt.suite for prompt in self.prompts))


def plan_json(plan: Plan) -> dict[str, Any]:  # Any: JSON
    """A plan as it stands in ``plan.json``."""
    content: dict[str, Any] = {  # Any: JSON
        "version": plan.version,
        "alpha": plan.alpha,
        "paired": plan.paired,
        "arms": list(plan.arms),
        "primary": asdict(plan.primary),
        "attributes": [{"name": name, "values": list(values)} for name, values in plan.attributes.items()],
        "targets": [target_json(target) for target in plan.targets],
        "prompts": [
            {**asdict(prompt), "expects": dict(prompt.expects) if prompt.expects else None} for prompt in plan.prompts
        ],
        "margins": dict(plan.margins),
    }
    if plan.guard_attributes:
        content["guard_attributes"] = list(plan.guard_attributes)
    for name, value in (("reader", plan.reader), ("tier", plan.tier), ("training_reader", plan.training_reader)):
        if value is not None:
            content[name] = value
    if plan.second_readers:
        content["second_readers"] = list(plan.second_readers)
    if plan.joints:
        content["joints"] = [list(names) for names in plan.joints]
    if plan.dose is not None:
        content["dose"] = {"scales": list(plan.dose.scales), "num_seeds": plan.dose.num_seeds}
    if plan.sequential is not None:
        content["sequential"] = {"width": plan.sequential.width}
    if plan.generation is not None:
        seeds = {prompt: list(values) for prompt, values in plan.generation.seeds.items()}
        content["generation"] = {**asdict(plan.generation), "seeds": seeds}
        if not plan.generation.arm:
            del content["generation"]["arm"]
    return {**content, "guard_rule": plan.guard_rule, **plan.extra}


def parse_plan(content: Mapping[str, Any], where: str) -> Plan:  # Any: JSON
    """A plan from the content of a ``plan.json``; ValueError names the file and what is wrong with it."""
    known = {"version", "alpha", "paired", "arms", "primary", "attributes", "targets", "prompts", "margins"}
    missing = known - set(content)
    if missing:
        raise ValueError(f"{where}: missing {sorted(missing)}")
    optional = {"guard_attributes", "guard_rule", "reader", "second_readers", "joints", "tier", "dose"}
    optional |= {"sequential", "training_reader", "generation"}
    try:
        generation, dose, sequential = content.get("generation"), content.get("dose"), content.get("sequential")
        return Plan(
            version=content["version"],
            alpha=content["alpha"],
            paired=content["paired"],
            arms=(content["arms"][0], content["arms"][1]),
            primary=Primary(**content["primary"]),
            attributes={entry["name"]: tuple(entry["values"]) for entry in content["attributes"]},
            targets=tuple(Target(**target) for target in content["targets"]),
            prompts=tuple(Prompt(**prompt) for prompt in content["prompts"]),
            margins=content["margins"],
            guard_attributes=tuple(content.get("guard_attributes", ())),
            guard_rule=content.get("guard_rule", "point"),
            reader=content.get("reader"),
            second_readers=tuple(content.get("second_readers", ())),
            joints=tuple(tuple(names) for names in content.get("joints", ())),
            tier=content.get("tier"),
            dose=None if dose is None else Dose(scales=tuple(dose["scales"]), num_seeds=dose["num_seeds"]),
            sequential=None if sequential is None else Sequential(**sequential),
            training_reader=content.get("training_reader"),
            generation=None if generation is None else _generation(generation),
            extra={key: value for key, value in content.items() if key not in known | optional},
        )
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{where}: not a plan: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _generation(content: Mapping[str, Any]) -> GenerationPlan:  # Any: JSON
    seeds = {prompt: tuple(values) for prompt, values in content["seeds"].items()}
    return GenerationPlan(**{**content, "seeds": seeds})


def plan_sha256(folder: Path) -> str:
    """sha256 of the canonical JSON of a folder's plan."""
    return sha256_json(read_json(folder / PLAN_FILE))


def load_plan(folder: Path) -> Plan:
    """The plan of an evaluation folder."""
    path = folder / PLAN_FILE
    return parse_plan(read_json(path), str(path))


def freeze_plan(plan: Plan, folder: Path) -> str:
    """Write the plan, once; its sha256. ValueError when the folder was made under another plan."""
    content = plan_json(plan)
    path = folder / PLAN_FILE
    digest = sha256_json(content)
    if path.is_file():
        frozen = plan_sha256(folder)
        if frozen != digest:
            raise ValueError(
                f"{path} was frozen as {frozen[:12]}, but this configuration plans {digest[:12]}: "
                f"{_differences(read_json(path), content)}; choose another run name or go back to that configuration"
            )
        return digest
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, content)
    return digest


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:  # Any: JSON
    before, after = dict(_leaves(old)), dict(_leaves(new))
    names = [name for name in {**before, **after} if before.get(name, ABSENT) != after.get(name, ABSENT)]
    shown = [f"{name} ({_brief(before.get(name, ABSENT))} -> {_brief(after.get(name, ABSENT))})" for name in names]
    more = [f"and {len(shown) - MAX_DIFFERENCES_SHOWN} more"] if len(shown) > MAX_DIFFERENCES_SHOWN else []
    return f"different are {', '.join([*shown[:MAX_DIFFERENCES_SHOWN], *more])}"


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:  # Any: JSON
    """Dotted names and values of a plan's content; a list is one value."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}..."
