"""One training from its parts to the adapter folder: what every process of it does, after everything was checked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evenhand
from evenhand.adapters.card import AdapterCard, first_captions
from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.placement import placements_of
from evenhand.adapters.settings import LoraSettings
from evenhand.data.batches import Batches
from evenhand.data.images import ImageSettings
from evenhand.data.rows import Split, check_split
from evenhand.evaluation.overlap import write_captions
from evenhand.files import read_jsonl
from evenhand.interfaces import Base, LoadedBase, Method
from evenhand.launch import Launch
from evenhand.processes import folder_lock
from evenhand.run import RunPlan, check_place
from evenhand.trackers import TrackerChoice, open_tracker
from evenhand.training.batches import make_batches
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
    method: Method
    settings: TrainSettings
    optim: Optim
    images: ImageSettings
    validation: Any  # Any: what conf/validation names, None for none
    tracker: TrackerChoice
    launch: Launch
    seed: int
    cache_folder: Path

    @property
    def scores(self) -> bool:
        """Whether the validation gives a score."""
        return self.validation is not None and bool(self.validation.scores)

    def check(self, splits: Mapping[str, Split]) -> None:
        """Raise ValueError for parts that do not fit each other, or the processes that there will be."""
        num_processes = self.launch.world_size()
        uses_preserve = self.method.uses_preserve
        self.settings.check(uses_preserve=uses_preserve, validates=self.scores, num_processes=num_processes)
        for split in splits.values():
            check_split(split, base=self.base, num_processes=num_processes)
        if self.validation is not None:
            self.validation.check({row.text for split in splits.values() for row in split.examples})

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
        with folder_lock(plan.folder) if accelerator.is_main_process else nullcontext():
            run = plan.open(
                is_main=accelerator.is_main_process,
                device=str(accelerator.device),
                world_size=accelerator.num_processes,
                models={"base": base.fingerprint},
            )
            batches = self._batches(base, splits, accelerator)
            adapter = attach(base, self.lora, seed=self.seed)
            self.check_place(plan.folder, num_parameters=sum(p.numel() for p in adapter.parameters.values()))
            result = self._fit(base, adapter, batches, plan, accelerator)
            if not result.finished:
                raise SystemExit(
                    f"stopped after step {result.step} of {self.settings.steps}: the same command goes on from there"
                )
            if accelerator.is_main_process:
                self._save(base, adapter, splits, plan, result)
                _outcome(result, plan.folder, accelerator.num_processes).write(plan.folder)
                run.finish()
            accelerator.end_training()

    def _batches(self, base: LoadedBase, splits: Mapping[str, Split], accelerator: Accelerator) -> Batches:
        trains_text = self.lora.text_encoder != "none"
        batches = make_batches(
            base,
            splits,
            settings=self.settings,
            images=self.images,
            cache_folder=self.cache_folder,
            seed=self.seed,
            accelerator=accelerator,
            embed_text=base.embed_text if trains_text else None,
        )
        if not trains_text and self.validation is None:
            base.release_encoders()
        return batches

    def _fit(
        self, base: LoadedBase, adapter: Adapter, batches: Batches, plan: RunPlan, accelerator: Accelerator
    ) -> FitResult:
        folder, is_main = plan.folder, accelerator.is_main_process
        resume = latest_checkpoint(folder / CHECKPOINTS, config_sha256=plan.config_sha256)
        after_step = 0 if resume is None else resume.step
        tracker = open_tracker(self.tracker, folder, config=plan.config, after_step=after_step, is_main=is_main)
        validation = None
        if self.validation is not None:
            validation = self.validation.load(base, adapter, accelerator=accelerator, tracker=tracker, folder=folder)
        result = fit(
            base,
            adapter,
            self.method,
            batches,
            settings=self.settings,
            optim=self.optim,
            accelerator=accelerator,
            tracker=tracker,
            folder=folder,
            config_sha256=plan.config_sha256,
            resume=resume,
            validation=validation,
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
            concepts=tuple(sorted({example.concept for example in splits["train"].examples})),
            prompts=first_captions(splits["train"].examples),
            data_sha256=plan.inputs["data"]["sha256"],
            config_sha256=plan.config_sha256,
            training_readers=(self.validation.reader_name,) if self.settings.keep == "best" else (),
            version=evenhand.__version__,
        )
        path = adapter.save(plan.folder / ADAPTER_FOLDER, card)
        write_captions(path.parent, {name: [row.text for row in split.examples] for name, split in splits.items()})


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
