"""The work of a validation: images of fixed prompts and seeds, read by a cheap reader, and one declared score.

All processes make their share of the images and get the same score; the first one writes ``<run>/validation``:

    plan.json           what is made and read; a change of it makes everything anew
    base.png base.json  the same images by the base without the adapter, once
    step-00000100.png   a row for each prompt, a column for each seed
    scores.jsonl        a line for each step

A step whose line is there already, for the very weights, is not made again, so that a resumed training loses nothing.
Images and readings are added up over the processes as plain tensors: nothing is pickled, no file is shared, and a
process without a share takes part like any other. Nothing of the training is touched: modes, random numbers and
gradients are afterwards as they were.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from evenhand.bases.checkpoint import quiet_loading
from evenhand.files import atomic_path, read_json, read_jsonl, sha256_json, write_json_atomic, write_jsonl_atomic
from evenhand.interfaces import LoadedBase, LoadedReader, Reader, Tracker
from evenhand.records import Attribute, Target, target_json
from evenhand.training.validation_grid import CELL_PX, Cells, cell, draw_grid
from evenhand.training.validation_prompts import PlannedImages
from evenhand.training.validation_scores import Counts, Score, Seen, count, see

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

log = logging.getLogger(__name__)

PLAN_FILE, BASE_FILE, BASE_GRID, SCORES_FILE = "plan.json", "base.json", "base.png", "scores.jsonl"


class Weights(Protocol):
    """What is validated."""

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The adapter's weights by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """How images become a score."""

    attribute: Attribute
    targets: tuple[Target, ...]
    reader: Reader
    score: Score


class LoadedValidation:
    """A validation that ``fit`` calls, in all processes at the same steps."""

    needs_encoders = True

    def __init__(
        self,
        base: LoadedBase,
        adapter: Weights,
        images: PlannedImages,
        judge: Judge | None,
        *,
        every_steps: int,
        accelerator: Accelerator,
        tracker: Tracker,
        folder: Path,
    ) -> None:
        self.every_steps = every_steps
        self.base_score: float | None = None
        self._base = base
        self._adapter = adapter
        self._planned = images
        self._images = images.images()
        self._sampling = images.sampling(default_px=base.resolution_px)
        self._judge = judge
        with quiet_loading():
            self._reader: LoadedReader | None = None if judge is None else judge.reader.load(device=accelerator.device)
        self._accelerator = accelerator
        self._tracker = tracker
        self._folder = folder
        plan = self._plan()
        self._plan_sha256 = sha256_json(plan)
        if accelerator.is_main_process:
            write_json_atomic(folder / PLAN_FILE, plan)

    def run(self, step: int) -> float | None:
        """The score of the weights as they are; None without a judge, or where too little could be read."""
        started, is_main = time.monotonic(), self._accelerator.is_main_process
        weights = _sha256(self._adapter.tensors()) if is_main else ""
        base_row = self._base_row() if is_main else None
        row = self._row(step, weights) if is_main else None
        base_known, step_known = self._from_main([base_row is not None, row is not None])
        if not base_known:
            base_row = self._made("base", self._folder / BASE_GRID, adapted=False)
            if is_main:
                write_json_atomic(self._folder / BASE_FILE, base_row)
        if not step_known:
            made = self._made(f"step {step}", self._grid_path(step), adapted=True)
            if is_main:
                row = {"step": step, **made, "adapter_sha256": weights}
                self._add(row)
        if is_main:
            assert row is not None
            assert base_row is not None
            self.base_score = base_row["score"]
            self._tell(row, base_row, seconds=time.monotonic() - started)
        score = None if row is None else row["score"]
        (score,) = self._from_main([math.nan if score is None else score])
        return None if math.isnan(score) else score

    def _plan(self) -> dict[str, Any]:  # Any: JSON
        judge = self._judge
        read = None if judge is None else {
            "attribute": judge.attribute.name,
            "values": list(judge.attribute.values),
            "targets": [target_json(target) for target in judge.targets],
            "reader": {"name": judge.reader.name, "revision": judge.reader.revision},
            "score": repr(judge.score),
        }  # fmt: skip
        return {
            "images": [asdict(image) for image in self._images],
            "expects": [dict(entry.prompt.expects or {}) for entry in self._planned.prompts],
            "sampling": asdict(self._sampling),
            "batch_size": self._planned.batch_size,
            "base": {"unet": self._base.fingerprint, "encoders": self._base.encoders_fingerprint},
            "read": read,
        }

    def _made(self, title: str, grid_path: Path, *, adapted: bool) -> dict[str, Any]:  # Any: JSON
        """Make, read and draw all images: what was seen and its score, on the main process; elsewhere nothing."""
        with undisturbed(self._base), nullcontext() if adapted else self._base.without_adapter():
            cells_NHW3, counts_NK1 = self._share()
        cells_NHW3, counts_NK1 = (self._summed(array) for array in (cells_NHW3, counts_NK1))
        if not self._accelerator.is_main_process:
            return {}
        row: dict[str, Any] = {"score": None, "plan_sha256": self._plan_sha256}  # Any: JSON
        if self._judge is not None:
            seen = self._seen(counts_NK1)
            against = seen if not adapted else Seen(**read_json(self._folder / BASE_FILE)["seen"])
            row = {**row, "score": self._judge.score.of(seen, against), "seen": asdict(seen)}
            title = f"{title}   {_in_words(row)}"
        grid = draw_grid(title, self._images, cells_NHW3, self._tags(counts_NK1))
        with atomic_path(grid_path) as temporary:
            grid.save(temporary)
        return row

    def _share(self) -> tuple[Cells, Counts]:
        """This process's share of the images as grid cells, and what was read of them; zeros for the others."""
        judge, size = self._judge, self._planned.batch_size
        num_values = 0 if judge is None else len(judge.attribute.values)
        cells_NHW3 = np.zeros((len(self._images), CELL_PX, CELL_PX, 3), dtype=np.uint8)
        counts_NK1 = np.zeros((len(self._images), num_values + 1), dtype=np.int64)
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        for start in range(rank * size, len(self._images), world * size):
            batch = self._images[start : start + size]
            made = self._base.generate([image.text for image in batch], [image.seed for image in batch], self._sampling)
            for number, generated in enumerate(made, start=start):
                cells_NHW3[number] = cell(generated.image)
            if judge is not None and self._reader is not None:
                read = self._reader.read([generated.image for generated in made])
                for number, readings in enumerate(read, start=start):
                    counts_NK1[number] = count(readings, judge.attribute)
        return cells_NHW3, counts_NK1

    def _seen(self, counts_NK1: Counts) -> Seen:
        assert self._judge is not None
        return see(
            [entry.prompt for entry in self._planned.prompts],
            [image.row for image in self._images],
            counts_NK1,
            attribute=self._judge.attribute,
            targets=self._judge.targets,
        )

    def _tags(self, counts_NK1: Counts) -> list[str]:
        """What was read of each image, in words."""
        if self._judge is None:
            return [""] * len(self._images)
        values = self._judge.attribute.values
        return [
            ", ".join(
                value if number == 1 else f"{number} {value}"
                for value, number in zip(values, counts[:-1].tolist(), strict=True)
                if number
            )
            or "unread"
            for counts in counts_NK1
        ]

    def _grid_path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.png"

    def _base_row(self) -> dict[str, Any] | None:  # Any: JSON
        """What was seen of the base under this plan, if an earlier session looked."""
        path = self._folder / BASE_FILE
        if not path.is_file() or not (self._folder / BASE_GRID).is_file():
            return None
        row: dict[str, Any] = read_json(path)  # Any: JSON
        return row if row["plan_sha256"] == self._plan_sha256 else None

    def _row(self, step: int, weights: str) -> dict[str, Any] | None:  # Any: JSON
        """The line of a step, if these very weights were validated under this plan."""
        for row in read_jsonl(self._folder / SCORES_FILE):
            same = (row["step"], row["adapter_sha256"], row["plan_sha256"]) == (step, weights, self._plan_sha256)
            if same and self._grid_path(step).is_file():
                return row
        return None

    def _add(self, row: dict[str, Any]) -> None:  # Any: JSON
        path = self._folder / SCORES_FILE
        rows = {other["step"]: other for other in read_jsonl(path)} | {row["step"]: row}
        write_jsonl_atomic(path, [rows[step] for step in sorted(rows)])

    def _tell(self, row: Mapping[str, Any], base_row: Mapping[str, Any], *, seconds: float) -> None:  # Any: JSON
        """Log a step's numbers. Only the main process does."""
        if self._judge is None:
            return
        metrics = Seen(**row["seen"]).metrics()
        if row["score"] is not None:
            metrics["score"] = row["score"]
        self._tracker.log({f"validation/{name}": value for name, value in metrics.items()}, step=row["step"])
        log.info(
            "validation after step %d: %s; the base: %s; %.0f s",
            row["step"], _in_words(row), _in_words(base_row), seconds,
        )  # fmt: skip

    def _from_main(self, numbers: Sequence[float]) -> list[float]:
        """The main process's numbers, in every process."""
        own = np.array(numbers if self._accelerator.is_main_process else [0.0] * len(numbers), dtype=np.float64)
        found: list[float] = self._summed(own).tolist()
        return found

    def _summed(self, array: Any) -> Any:  # Any: an array of any type; numpy's generics would say no more
        """The sum over all processes, of which each holds its own part and zeros."""
        import torch

        if self._accelerator.num_processes == 1:
            return array
        tensor = torch.from_numpy(array).to(self._accelerator.device)
        return self._accelerator.reduce(tensor, reduction="sum").cpu().numpy()


def _in_words(row: Mapping[str, Any]) -> str:  # Any: JSON
    """A line of scores.jsonl for people."""
    seen = Seen(**row["seen"])
    score = "no score" if row["score"] is None else f"score {row['score']:.3f}"
    shares = [f"{value} {share:.2f}" for value, share in (seen.shares or {}).items()]
    shown = [] if seen.shown is None else [f"stated values shown {seen.shown:.2f}"]
    return ", ".join([score, *shares, *shown, f"unread {seen.unread:.2f}"])


def _sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}:{tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def undisturbed(base: LoadedBase) -> Iterator[None]:
    """Inside, the base's modules are in evaluation mode; modes and random numbers are afterwards as before."""
    import torch

    roots = [base.unet, *base.text_encoders.values()]
    training = [module for root in roots for module in root.modules() if module.training]
    for root in roots:
        root.eval()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
