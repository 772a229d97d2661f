"""One training from its parts to the adapter folder: what every process of it does, after everything was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evenhand
from evenhand.adapters.card import AdapterCard, first_captions
from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.placement import placements_of
from evenhand.adapters.settings import LoraSettings
from evenhand.data.augmentation import CaptionAugmentation, CaptionPair
from evenhand.data.batches import Batches
from evenhand.data.images import ImageSettings
from evenhand.data.rows import Split, check_explicit, check_labels, check_split
from evenhand.data.timesteps import Timesteps
from evenhand.evaluation.overlap import write_captions
from evenhand.files import read_jsonl
from evenhand.interfaces import Base, DirectMethod, LoadedBase, Method, SamplingMethod
from evenhand.launch import Launch
from evenhand.processes import folder_lock
from evenhand.records import Example
from evenhand.run import RunPlan, check_place
from evenhand.trackers import TrackerChoice, open_tracker
from evenhand.training.batches import make_batches
from evenhand.training.calibration import Calibration
from evenhand.training.direct import check_direct, solve
from evenhand.training.fit import FitResult, fit
from evenhand.training.learner import Optim
from evenhand.training.loaded_validation import SCORES_FILE
from evenhand.training.outcome import Outcome, peaks
from evenhand.training.processes import start_accelerator, weights_dtype
from evenhand.training.settings import TrainSettings
from evenhand.training.state import CHECKPOINTS, latest_checkpoint
from evenhand.training.validation import FOLDER as VALIDATION

if TYPE_CHECKING:
    from accelerate import Accelerator

ADAPTER_FOLDER = "adapter"
FLOAT_BYTES = 4
TENSORS_OF_A_CHECKPOINT = 4  # the weights, the two moments of Adam, and a moving average
# Of one rank of attention LoRA on Stable Diffusion 1.5. A guess before a model is loaded; counted again when one is.
LEAST_PARAMETERS_OF_A_RANK = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The parts of a training, chosen and checked; nothing is loaded yet."""

    name: str
    base: Base
    lora: LoraSettings
    method: Method | DirectMethod
    timesteps: Timesteps
    augmentation: CaptionAugmentation | None
    settings: TrainSettings
    optim: Optim
    images: ImageSettings
    calibration: Calibration | None
    validation: Any  # Any: what conf/validation names, None for none
    tracker: TrackerChoice
    launch: Launch
    seed: int
    cache_folder: Path

    @property
    def scores(self) -> bool:
        """Whether the validation gives a score."""
        return self.validation is not None and bool(self.validation.scores)

    @property
    def inputs(self) -> dict[str, Path]:
        """The files and folders that it reads beside the curated set, by name."""
        return {} if self.augmentation is None else {"captions": self.augmentation.captions}

    def check(self, splits: Mapping[str, Split]) -> None:
        """Raise ValueError for parts that do not fit each other, or the processes that there will be."""
        num_processes = self.launch.world_size()
        if not isinstance(self.method, DirectMethod):
            self.settings.check(
                uses_preserve=self.method.uses_preserve,
                validates=self.scores,
                num_processes=num_processes,
                max_rows=self.method.max_rows,
                makes_pictures=isinstance(self.method, SamplingMethod),
                rows_per_noise=self.method.rows_per_noise,
            )
            if self.method.virtual_concepts and self.lora.text_encoder != "none":
                raise ValueError(
                    "virtual concepts are words that the base's own text encoders read, so these cannot be trained "
                    "with them: set method.virtual_concepts=0, or lora.text_encoder=none"
                )
        if self.augmentation is not None and not self.method.uses_explicit:
            raise ValueError(
                f"augmentation pairs neutral with explicit captions, which method {self.method.name} does not use: set "
                "augmentation=none, or choose method=distill"
            )
        for split in splits.values():
            check_split(split, base=self.base, num_processes=num_processes)
        if isinstance(self.method, DirectMethod):
            check_direct(
                self.method,
                splits,
                base=self.base,
                lora=self.lora,
                settings=self.settings,
                validation=self.validation,
            )
        elif isinstance(self.method, SamplingMethod):
            self.method.check({name: split.examples for name, split in splits.items()})
        elif self.method.uses_explicit:
            check_explicit(splits["train"], base=self.base, method=self.method.name)
            if self.augmentation is not None:
                self.augmentation.check(splits["train"].examples, base=self.base)
        if not isinstance(self.method, DirectMethod) and self.method.coupled_noise:
            check_labels(splits["train"])
        if self.calibration is not None:
            if isinstance(self.method, DirectMethod | SamplingMethod):
                raise ValueError(
                    f"calibration weighs the rows of a loss, and method {self.method.name} has none: set "
                    "calibration=none"
                )
            self.calibration.check(splits["train"].examples, self.settings)
        if self.validation is not None:
            self.validation.check({text for texts in self._captions(splits).values() for text in texts})

    def check_place(self, folder: Path, *, num_parameters: int | None = None) -> None:
        """Raise ValueError when the run folder cannot be written to, or cannot hold the checkpoints."""
        size = FLOAT_BYTES * (num_parameters or self.lora.rank * LEAST_PARAMETERS_OF_A_RANK)
        # one more checkpoint than is kept while it is being written; the best one; the adapter
        needed = size * (TENSORS_OF_A_CHECKPOINT * (self.settings.keep_checkpoints + 1) + 2)
        check_place(folder, needed_bytes=needed)

    def run(self, splits: Mapping[str, Split], plan: RunPlan) -> None:
        """Train to the end and write the adapter and result.json; SystemExit when a signal said to stop before."""
        accelerator = start_accelerator(self.settings.mixed_precision)
        self.launch.check_world(accelerator.num_processes)
        base = self.base.load(device=accelerator.device, dtype=weights_dtype(self.settings.mixed_precision))
        placements_of(base, self.lora)  # raises where there is nothing to adapt
        plan.check_models({"base": base.fingerprint})
        if isinstance(self.method, SamplingMethod):
            self.method.prepare(base)
        with folder_lock(plan.folder) if accelerator.is_main_process else nullcontext():
            run = plan.open(
                is_main=accelerator.is_main_process,
                device=str(accelerator.device),
                world_size=accelerator.num_processes,
                models={"base": base.fingerprint},
            )
            if isinstance(self.method, DirectMethod):
                adapter, result = self._solve(base, self.method, splits, plan, accelerator)
            else:
                batches = self._batches(base, self.method, splits, accelerator)
                adapter = attach(base, self.lora, seed=self.seed)
                self.check_place(plan.folder, num_parameters=sum(p.numel() for p in adapter.parameters.values()))
                result = self._fit(base, adapter, self.method, batches, splits["train"].examples, plan, accelerator)
            if not result.finished:
                raise SystemExit(
                    f"stopped after step {result.step} of {self.settings.steps}: the same command goes on from there"
                )
            if accelerator.is_main_process:
                self._save(base, adapter, splits, plan, result)
                _outcome(result, plan.folder, accelerator.num_processes).write(plan.folder)
                run.finish()
            accelerator.end_training()

    def _solve(
        self,
        base: LoadedBase,
        method: DirectMethod,
        splits: Mapping[str, Split],
        plan: RunPlan,
        accelerator: Accelerator,
    ) -> tuple[Adapter, FitResult]:
        is_main = accelerator.is_main_process
        tracker = open_tracker(self.tracker, plan.folder, config=plan.config, is_main=is_main)
        solved = solve(base, method, splits, lora=self.lora, seed=self.seed, tracker=tracker)
        tracker.close()
        return solved

    def _batches(
        self, base: LoadedBase, method: Method, splits: Mapping[str, Split], accelerator: Accelerator
    ) -> Batches:
        trains_text = self.lora.text_encoder != "none"
        batches = make_batches(
            base,
            splits,
            settings=self.settings,
            images=self.images,
            cache_folder=self.cache_folder,
            seed=self.seed,
            accelerator=accelerator,
            timesteps=self.timesteps,
            augmentation=self.augmentation,
            method=method,
            embed_text=base.embed_text if trains_text else None,
        )
        needed = method.needs_encoders or method.virtual_concepts > 0 or self.calibration is not None
        if not trains_text and self.validation is None and not needed:
            base.release_encoders()
        return batches

    def _fit(
        self,
        base: LoadedBase,
        adapter: Adapter,
        method: Method,
        batches: Batches,
        examples: Sequence[Example],
        plan: RunPlan,
        accelerator: Accelerator,
    ) -> FitResult:
        folder, is_main = plan.folder, accelerator.is_main_process
        resume = latest_checkpoint(folder / CHECKPOINTS, config_sha256=plan.config_sha256)
        after_step = 0 if resume is None else resume.step
        tracker = open_tracker(self.tracker, folder, config=plan.config, after_step=after_step, is_main=is_main)
        validation = None
        if self.validation is not None:
            validation = self.validation.load(base, adapter, accelerator=accelerator, tracker=tracker, folder=folder)
        calibration = None
        if self.calibration is not None:
            calibration = self.calibration.load(
                base, examples, seed=self.seed, accelerator=accelerator, tracker=tracker
            )
        result = fit(
            base,
            adapter,
            method,
            batches,
            settings=self.settings,
            optim=self.optim,
            accelerator=accelerator,
            tracker=tracker,
            folder=folder,
            config_sha256=plan.config_sha256,
            resume=resume,
            validation=validation,
            calibration=calibration,
        )
        tracker.close()
        return result

    def _save(
        self, base: LoadedBase, adapter: Adapter, splits: Mapping[str, Split], plan: RunPlan, result: FitResult
    ) -> None:
        """The adapter with its cards."""
        card = AdapterCard(
            name=self.name,
            base=base.name,
            base_model=self.base.model,
            base_license=self.base.license,
            method=self.method.name,
            steps=result.kept_step,
            seed=self.seed,
            concepts=tuple(sorted(self._concepts(splits))),
            prompts=first_captions(splits["train"].examples),
            data_sha256=plan.inputs["data"]["sha256"],
            config_sha256=plan.config_sha256,
            training_readers=self._training_readers(),
            version=evenhand.__version__,
        )
        path = adapter.save(plan.folder / ADAPTER_FOLDER, card)
        write_captions(path.parent, self._captions(splits))

    def _others(self, splits: Mapping[str, Split]) -> list[CaptionPair]:
        """The captions beside the set's that are trained on."""
        return [] if self.augmentation is None else self.augmentation.alternatives(splits["train"].examples).pairs()

    def _concepts(self, splits: Mapping[str, Split]) -> set[str]:
        """The concepts whose neutral captions are trained on."""
        own = {example.concept for example in splits["train"].examples}
        return own | {pair.concept for pair in self._others(splits)}

    def _captions(self, splits: Mapping[str, Split]) -> dict[str, list[str]]:
        """All captions that the adapter is trained on, by split."""
        captions = {name: [row.text for row in split.examples] for name, split in splits.items()}
        captions["train"] += [pair.text for pair in self._others(splits)]
        return captions

    def _training_readers(self) -> tuple[str, ...]:
        """The readers that had a say in the weights: in the loss, or in the choice of the best checkpoint."""
        chose = (self.validation.reader_name,) if self.settings.keep == "best" else ()
        weighed = () if self.calibration is None else (self.calibration.reader.name,)
        return tuple(dict.fromkeys((*self.method.training_readers, *weighed, *chose)))


def _outcome(result: FitResult, folder: Path, num_processes: int) -> Outcome:
    host, device = peaks()
    rows = read_jsonl(folder / VALIDATION / SCORES_FILE)
    kept = [row["score"] for row in rows if row["step"] == result.kept_step]
    return Outcome(
        loss=result.loss,
        validation=kept[-1] if kept else None,
        steps=result.step,
        kept_step=result.kept_step,
        num_processes=num_processes,
        peak_bytes=host,
        peak_device_bytes=device,
    )
