"""An evaluation from its choices to its images: run folder, base, frozen plan, checks, and processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from evenhand.cache import open_cache
from evenhand.captions.quotas import TargetChoice
from evenhand.evaluation.forecast import duration, forecast
from evenhand.evaluation.plan import Plan, Sequential, freeze_plan
from evenhand.evaluation.question import (
    EvaluationSettings,
    Question,
    TierChoice,
    ask,
    plan_evaluation,
)
from evenhand.evaluation.suites import Suites
from evenhand.evaluation.training_set import TrainingSet
from evenhand.generation.arms import Work, finish_images
from evenhand.generation.check import check_adapter, check_disk, take_stock
from evenhand.generation.environment import environment_of
from evenhand.generation.given import Given, given_arm
from evenhand.generation.processes import Crew, best_number
from evenhand.generation.second_arm import Asked, SecondArm
from evenhand.generation.sequential import until_settled
from evenhand.interfaces import Base, LoadedBase, Reader, SamplingSettings
from evenhand.processes import leave_group_at_exit
from evenhand.records import Attribute
from evenhand.run import NOT_RESULTS, Run

log = logging.getLogger(__name__)

# The adapter and its captions count by their content, the device by its kind: all of them are in the plan. The training
# set is compared with images that are there.
NOT_IN_THE_IMAGES = (
    *NOT_RESULTS,
    "adapter",
    "adapters",
    "training_captions",
    "training_set",
    "device",
    "num_processes",
    "cache",
    "read_batch_size",
)
# While the first process reads a round's images, the others wait for it.
PATIENCE = timedelta(days=1)
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All that a program knows before it loads a model, by the names of conf/evaluate.yaml, which says what each means.

    ``device`` is cpu or auto, a GPU where there is one. On a CPU, ``num_threads`` of each process is a part of what
    decides the last bits of an image, and ``num_processes`` (None: as many as pay) is not. ``cache`` keeps the base's
    images for other adapters. One of ``arm``, ``adapter`` and ``adapters`` is what is measured. ``sequential`` stops
    early, ``sequential_width`` says at which interval at the latest.
    """

    evaluation: EvaluationSettings
    attribute: Attribute
    target: TargetChoice
    joint_target: TargetChoice | None
    suite: Suites
    tier: TierChoice
    reader: Reader
    second_readers: Mapping[str, Reader]
    base: Base
    sampling: SamplingSettings
    arm: SecondArm | None
    adapter: Path | None
    adapters: Sequence[Mapping[str, Any]]  # Any: YAML, checked by given_arm
    training_captions: Path | None
    check_base: bool
    run_folder: Path
    seed: int
    sequential: bool
    sequential_width: float | None
    device: str
    num_threads: int
    num_processes: int | None
    cache: bool

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {self.device!r}")
        if self.num_threads < 1:
            raise ValueError(f"num_threads must be >= 1, got {self.num_threads}")
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"num_processes must be >= 1, or null for as many as pay, got {self.num_processes}")
        if self.sequential_width is not None and not self.sequential:
            raise ValueError(f"sequential_width={self.sequential_width} is for sequential=true")

    @property
    def given(self) -> Given:
        """What is measured; ValueError for none or several, and for files that are not there."""
        return given_arm(arm=self.arm, adapter=self.adapter, adapters=self.adapters, check_base=self.check_base)

    def training_set(self, named: str | None, *, scored: bool) -> TrainingSet:
        """The images that must not come back as copies."""
        return self.given.training_set(named, scored=scored)

    @property
    def rule(self) -> Sequential | None:
        """When to stop early."""
        return Sequential(width=self.sequential_width) if self.sequential else None

    @property
    def readers(self) -> tuple[Reader, ...]:
        """The reader of the headline, then those that are held against it."""
        return (self.reader, *self.second_readers.values())

    def question(self) -> Question:
        """What is asked of the adapter; ValueError when choices don't fit each other or the adapter is not there."""
        given = self.given
        named = given.training_reader(self.evaluation.training_reader, judge=self.reader.name)
        return ask(
            replace(self.evaluation, training_reader=named),
            attribute=self.attribute,
            target=self.target,
            suites=self.suite,
            reader=self.reader,
            tier=self.tier,
            second_readers=self.readers[1:],
            joint_target=self.joint_target,
            captions=given.training_captions(self.training_captions),
        )


class Session:
    """A frozen plan and its loaded base, in this process and, as a context manager, in those that it starts."""

    def __init__(self, request: Request, config: Mapping[str, Any]) -> None:  # Any: YAML
        question, given = request.question(), request.given

        import torch
        from accelerate import PartialState

        if request.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda, but torch sees no GPU; device=auto takes the CPU then")
        cache = open_cache() if request.cache else None
        torch.set_num_threads(request.num_threads)
        leave_group_at_exit()
        self._state = PartialState(cpu=request.device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
        self.device: torch.device = self._state.device
        self.is_main = self._state.process_index == 0
        self._run = Run.open(
            request.run_folder,
            config=config,
            seeds={"evaluation": request.seed},
            inputs=given.inputs,
            is_main=self.is_main,
            device=self.device.type,
            world_size=self._state.num_processes,
            not_results=NOT_IN_THE_IMAGES,
        )
        dtype = getattr(torch, question.settings.dtype)
        self._request = request
        self._base: LoadedBase = request.base.load(device=self.device, dtype=dtype)
        plan = plan_evaluation(
            question,
            self._base,
            sampling=request.sampling,
            adapter_sha256="",
            seed=request.seed,
            device=self.device.type,
            environment=environment_of(self._base, self.device),
            sequential=request.rule,
        )
        self.plan = with_arm(plan, given, request)
        if self.is_main:
            freeze_plan(self.plan, request.run_folder)
        self.folder = request.run_folder
        self._work = Work(
            plan=self.plan,
            folder=request.run_folder,
            cache=cache,
            arm=given.arm,
        )

    def forecast(self) -> list[str]:
        """What the plan costs and what it can find."""
        return forecast(self.plan, num_cached=take_stock(self._work).num_ready).lines()

    def __enter__(self) -> Session:
        rank, num_ranks = self._state.process_index, self._state.num_processes
        self._crew = Crew(
            self._work,
            self._base,
            self._request.base,
            num_processes=self._check() if self.is_main else 1,
            num_threads=self._request.num_threads,
            rank=rank,
            num_ranks=num_ranks,
        )
        return self

    def _check(self) -> int:
        """Check disk and adapter when images are to be made; how many processes are to make them."""
        stock, request, num_ranks = take_stock(self._work), self._request, self._state.num_processes
        if not stock.num_new and not stock.num_cached:
            return 1
        check_disk(self._work, stock)
        seconds = check_adapter(self._work, self._base) * stock.num_new_batches
        num_processes = request.num_processes or 1
        if request.num_processes is None and num_ranks == 1 and self.device.type == "cpu":
            unet_bytes = sum(weight.nbytes for weight in self._base.unet.parameters())
            num_processes = best_number(seconds=seconds, num_threads=request.num_threads, unet_bytes=unet_bytes)
        together = max(num_processes, num_ranks)
        log.info(
            "checked; %d images take about %s, processes: %d", stock.num_new, duration(seconds / together), together
        )
        return num_processes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._crew.__exit__(kind, error, traceback)

    def rounds(self) -> Iterator[int | None]:
        """How many rounds of the pair's images are to be made and read next; see ``until_settled``."""
        return until_settled(self.plan, self.folder, is_main=self.is_main, wait=self._state.wait_for_everyone)

    def make(self, arms: Sequence[str], num_rounds: int | None = None) -> None:
        """Make what is missing of the arms' first rounds (None: all); their records are then in plan order."""
        self._crew.make(arms=arms, num_rounds=num_rounds)
        self._state.wait_for_everyone()
        if self.is_main:
            finish_images(self.plan, self.folder, arms=arms, num_rounds=num_rounds)

    def finish(self) -> None:
        """Write into the provenance that the run came to its end."""
        self._run.finish()


def with_arm(plan: Plan, given: Given, request: Request) -> Plan:
    """The plan with what its second arm is, and what that does for each image."""
    facts = dict(given.arm.facts(Asked(plan=plan, suites=request.suite, attribute=request.attribute)))
    assert plan.generation is not None
    arm = {"name": given.arm.name, **facts} if facts else {}
    generation = replace(plan.generation, adapter_sha256=given.sha256(facts), arm=arm)
    return replace(plan, arms=(plan.arms[0], given.arm.name), generation=generation)
