"""Weights on rows by their values, so that pictures come out in the target's shares; found by a reader while training.

What minimises a loss on rows of the target's shares need not give pictures in these shares: a sampler of few steps, and
a base that knows one value better than another, tilt them, for all concepts alike. On tinytown an adapter whose first
prediction is even to a hundredth gives about 40 % women in 20 steps. So every ``every_steps`` steps pictures of the
training captions are made and read, and each cell v of values gets a weight w_v in the loss,

    log w_v += min(1/2, 2/n) (log wanted_v - log seen_v),    n = 1, 2, ... the number of this look,

with ``wanted`` the shares of the values among the rows of the concepts whose pictures were read, and ``seen`` those
read, with one more picture of ``wanted`` (stochastic approximation; Robbins and Monro 1951). Pictures answer to weights
some looks later, and the first looks see an adapter that has learned little: 2/n forgets what they said, where 1/n, a
plain mean over the looks, would carry it to the end. Then the weights are scaled to a mean of 1 over the set's rows,
none beyond ``MOST_WEIGHT`` times more or less. There is one weight for a cell of values, whatever the concept: it can
correct the tilt that concepts share, and cannot learn a concept by heart. The weighted loss has the minimiser of shares
in proportion to w_v pi_v. The reader has a say in the adapter, so it cannot judge it.

Letters: B batch, N pictures of a look, K cells of values.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evenhand.bases.checkpoint import quiet_loading
from evenhand.interfaces import LoadedBase, Reader, SamplingSettings, Tracker
from evenhand.records import Example, SubjectReading
from evenhand.seeds import MAX_SEED, derive
from evenhand.training.loaded_validation import undisturbed
from evenhand.training.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MOST_WEIGHT = 4.0
LEAST_READ = 0.5  # of the pictures; with fewer, the weights stay
MOST_GAIN = 0.5  # of what a look asks for
HALVINGS = 60  # of an interval, down to the last bits of a float

Cell = tuple[tuple[str, str], ...]


def no_calibration() -> None:
    """Training without calibration: every row weighs the same."""


class Calibration:
    """See the file's head. Pictures are made from ``first_step`` on, ``num_images`` each time, in ``steps`` steps.

    ``size_px`` None is the base's own. ``evaluated_by`` is the reader that will evaluate the adapter.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        evaluated_by: str,
        first_step: int,
        every_steps: int,
        num_images: int,
        batch_size: int,
        steps: int,
        guidance: float,
        size_px: int | None,
    ) -> None:
        counts = {"first_step": first_step, "every_steps": every_steps, "num_images": num_images}
        for name, value in {**counts, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value} (calibration.{name})")
        if reader.name == evaluated_by:
            raise ValueError(
                f"the reader {reader.name} will evaluate (calibration.evaluated_by), so it may not decide about "
                "weights: take another reader for the calibration"
            )
        SamplingSettings(steps=steps, guidance=guidance, height_px=size_px or 1, width_px=size_px or 1)
        self.reader = reader
        self.first_step, self.every_steps = first_step, every_steps
        self.num_images, self.batch_size = num_images, batch_size
        self.steps, self.guidance, self.size_px = steps, guidance, size_px

    def sampling(self, *, default_px: int) -> SamplingSettings:
        """How the pictures are made."""
        side_px = self.size_px or default_px
        return SamplingSettings(steps=self.steps, guidance=self.guidance, height_px=side_px, width_px=side_px)

    def check(self, examples: Sequence[Example], settings: TrainSettings) -> None:
        """Raise ValueError unless the reader reads what all rows show, these differ, and a look changes anything."""
        if settings.shard_base:
            raise ValueError(
                "train.shard_base=true and a calibration, whose processes make different numbers of pictures, do not "
                "go together: leave one of them out"
            )
        if self.first_step >= settings.steps:
            raise ValueError(
                f"a calibration that begins after step {self.first_step} changes nothing in a training of "
                f"{settings.steps} steps: set calibration.first_step lower, or calibration=none"
            )
        for example in examples:
            self._check_row(example, names=sorted(examples[0].labels))
        if len({cell_of(example.labels) for example in examples}) < 2:
            raise ValueError("all rows have the same values, so there are no shares to calibrate: set calibration=none")

    def _check_row(self, example: Example, *, names: Sequence[str]) -> None:
        cure = "choose another reader (calibration.reader), or calibration=none"
        for name, value in example.labels.items():
            if name not in self.reader.attributes:
                raise ValueError(
                    f"row {example.file_name} has a label of {name}, which the reader {self.reader.name} does not "
                    f"read: {cure}"
                )
            if value not in self.reader.attributes[name]:
                raise ValueError(
                    f"row {example.file_name} has the label {name}={value}, and the reader {self.reader.name} reads "
                    f"{', '.join(self.reader.attributes[name])}: {cure}"
                )
        if not names or sorted(example.labels) != names:
            raise ValueError(
                f"row {example.file_name} has labels of {', '.join(sorted(example.labels)) or 'nothing'}, and the "
                f"first row of {', '.join(names) or 'nothing'}: a calibration needs labels of the same attributes on "
                "all rows: label them, or set calibration=none"
            )

    def load(
        self, base: LoadedBase, examples: Sequence[Example], *, seed: int, accelerator: Accelerator, tracker: Tracker
    ) -> LoadedCalibration:
        """The calibration of a training on these rows."""
        return LoadedCalibration(self, base, examples, seed=seed, accelerator=accelerator, tracker=tracker)


class LoadedCalibration:
    """The weights as they stand, the same in all processes, and the look that changes them."""

    def __init__(
        self,
        choice: Calibration,
        base: LoadedBase,
        examples: Sequence[Example],
        *,
        seed: int,
        accelerator: Accelerator,
        tracker: Tracker,
    ) -> None:
        self._choice = choice
        self._base = base
        self._examples = examples
        self._seed = seed
        self._accelerator = accelerator
        self._tracker = tracker
        self._sampling = choice.sampling(default_px=base.resolution_px)
        with quiet_loading():
            self._reader = choice.reader.load(device=accelerator.device)
        self.cells: tuple[Cell, ...] = tuple(sorted({cell_of(example.labels) for example in examples}))
        self._place = {cell: index for index, cell in enumerate(self.cells)}
        self._shares = _shares_of_concepts(examples, self.cells)
        self._all_shares_K = np.mean([self._shares[example.concept] for example in examples], axis=0)
        self._log_weights_K = np.zeros(len(self.cells))
        self._num_looks = 0

    def is_due(self, step: int) -> bool:
        """Whether to look after so many steps."""
        first, every = self._choice.first_step, self._choice.every_steps
        return step >= first and (step - first) % every == 0

    def weights_B(self, labels: Sequence[Mapping[str, str]]) -> torch.Tensor:
        """The weight of each row."""
        import torch

        weights_K = self.weights_K
        found = torch.tensor([weights_K[self._place[cell_of(each)]] for each in labels], dtype=torch.float32)
        return found.to(self._accelerator.device)

    def look(self, step: int) -> None:
        """Make and read pictures with the weights as they are, and change the weights; a collective."""
        rows = self._rows(step)
        counts_NK = self._summed(self._read(rows, step))
        read_N = counts_NK.sum(axis=1)
        unread = float((read_N == 0).mean())
        if 1 - unread < LEAST_READ:
            log.warning(
                "calibration after step %d: nothing was read of %d of %d pictures, so weights stay as they are: look "
                "at pictures (validation=), or begin later (calibration.first_step)",
                step, (read_N == 0).sum(), len(rows),
            )  # fmt: skip
            self._tell(step, {"unread": unread})
            return
        wanted_K = read_N @ np.stack([self._shares[self._examples[row].concept] for row in rows]) / read_N.sum()
        seen_K = counts_NK.sum(axis=0) / read_N.sum()
        self._num_looks += 1
        gain = min(MOST_GAIN, 2 / self._num_looks)
        changed_K = self._log_weights_K + gain * _log_ratio(wanted_K, seen_K, num_read=int(read_N.sum()))
        self._log_weights_K = _scaled(changed_K, self._all_shares_K)
        self._tell(step, {"unread": unread, **self._figures("seen", seen_K), **self._figures("weight", self.weights_K)})
        said = ", ".join(
            f"{_words(cell)} {seen:.2f} of {wanted:.2f}, weight now {weight:.2f}"
            for cell, seen, wanted, weight in zip(self.cells, seen_K, wanted_K, self.weights_K, strict=True)
        )
        log.info("calibration after step %d: %s, unread %.2f", step, said, unread)

    @property
    def weights_K(self) -> NDArray[np.float64]:
        """The weight of each of ``cells``."""
        weights: NDArray[np.float64] = np.exp(self._log_weights_K)
        return weights

    def state(self) -> dict[str, Any]:  # Any: JSON
        """What a checkpoint keeps."""
        return {"log_weights": self._log_weights_K.tolist(), "num_looks": self._num_looks}

    def restore(self, state: Mapping[str, Any]) -> None:  # Any: JSON
        """Go back to where a checkpoint was written."""
        self._log_weights_K, self._num_looks = np.array(state["log_weights"]), state["num_looks"]

    def _rows(self, step: int) -> list[int]:
        """Rows spread evenly over the set, whose captions are pictured: a function of the seed and the step."""
        num, count = len(self._examples), self._choice.num_images
        offset = derive(self._seed, "calibration", step) / (MAX_SEED + 1)
        return [int((number + offset) / count * num) % num for number in range(count)]

    def _read(self, rows: Sequence[int], step: int) -> NDArray[np.int64]:
        """How many subjects of each picture are in each cell: this process's share, and zeros for the others."""
        counts_NK = np.zeros((len(rows), len(self.cells)), dtype=np.int64)
        size, rank, world = self._choice.batch_size, self._accelerator.process_index, self._accelerator.num_processes
        with undisturbed(self._base):
            for start in range(rank * size, len(rows), world * size):
                numbers = range(start, min(start + size, len(rows)))
                made = self._base.generate(
                    [self._examples[rows[number]].text for number in numbers],
                    [derive(self._seed, "calibration", step, number) for number in numbers],
                    self._sampling,
                )
                read = self._reader.read([each.image for each in made])
                for number, readings in zip(numbers, read, strict=True):
                    counts_NK[number] = self._counted(readings)
        return counts_NK

    def _counted(self, readings: Sequence[SubjectReading]) -> list[int]:
        """How many subjects of a picture are in each cell; those that are not wholly read are in none."""
        names = [name for name, _ in self.cells[0]]
        found: dict[int, dict[str, str]] = {}
        for reading in readings:
            if reading.attribute in names and reading.value is not None:
                found.setdefault(reading.subject, {})[reading.attribute] = reading.value
        cells = [cell_of(values) for values in found.values()]
        return [cells.count(cell) for cell in self.cells]

    def _figures(self, what: str, values_K: NDArray[np.float64]) -> dict[str, float]:
        """A value of each cell under its name."""
        return {f"{what}/{_words(cell)}": float(value) for cell, value in zip(self.cells, values_K, strict=True)}

    def _tell(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of a look; only the main process does."""
        if self._accelerator.is_main_process:
            self._tracker.log({f"calibration/{name}": value for name, value in figures.items()}, step=step)

    def _summed(self, counts_NK: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum over all processes, of which each holds its own part and zeros."""
        import torch

        if self._accelerator.num_processes == 1:
            return counts_NK
        tensor = torch.from_numpy(counts_NK).to(self._accelerator.device)
        summed: NDArray[np.int64] = self._accelerator.reduce(tensor, reduction="sum").cpu().numpy()
        return summed


def _log_ratio(wanted_K: NDArray[np.float64], seen_K: NDArray[np.float64], *, num_read: int) -> NDArray[np.float64]:
    """log wanted - log seen, with one more picture of what is wanted; 0 where nothing is."""
    asked_K = wanted_K > 0
    smoothed_K = (num_read * seen_K + wanted_K) / (num_read + 1)
    ratio_K = np.zeros_like(wanted_K)
    ratio_K[asked_K] = np.log(wanted_K[asked_K]) - np.log(smoothed_K[asked_K])
    return ratio_K


def _scaled(log_weights_K: NDArray[np.float64], shares_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same weights times one number, cut to the bounds, so that their mean over rows of these shares is 1."""
    most = float(np.log(MOST_WEIGHT))
    low, high = float(-log_weights_K.max() - most), float(-log_weights_K.min() + most)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        mean = float(shares_K @ np.exp(np.clip(log_weights_K + middle, -most, most)))
        low, high = (middle, high) if mean < 1 else (low, middle)
    scaled: NDArray[np.float64] = np.clip(log_weights_K + (low + high) / 2, -most, most)
    return scaled


def _words(cell: Cell) -> str:
    return " ".join(value for _, value in cell)


def cell_of(labels: Mapping[str, str]) -> Cell:
    """The values of a row in the order of their attributes' names."""
    return tuple(sorted(labels.items()))


def _shares_of_concepts(examples: Sequence[Example], cells: Sequence[Cell]) -> dict[str, NDArray[np.float64]]:
    """For each concept the shares of the cells among its rows."""
    counts: dict[str, Counter[Cell]] = {}
    for example in examples:
        counts.setdefault(example.concept, Counter())[cell_of(example.labels)] += 1
    return {
        concept: np.array([found[cell] for cell in cells], dtype=np.float64) / found.total()
        for concept, found in counts.items()
    }
