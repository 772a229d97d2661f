"""How a training ended: result.json in the run folder, for whoever started it."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from evenhand.files import read_json, write_json_atomic

RESULT_FILE = "result.json"
OBJECTIVES = ("loss", "validation", "distance_sq")
EVALUATION = Path("evaluation") / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The loss over the last logged steps, the best score of the validation, and what it took.

    ``validation`` is the score of the weights that were kept, which are those of step ``kept_step``. ``peak_bytes`` is
    the main process's memory, ``peak_device_bytes`` its accelerator's.
    """

    loss: float | None
    validation: float | None
    steps: int
    kept_step: int
    num_processes: int
    peak_bytes: int
    peak_device_bytes: int | None

    def write(self, folder: Path) -> None:
        """Leave it in the run folder."""
        write_json_atomic(folder / RESULT_FILE, self)

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """What a finished run left; ValueError when there is nothing."""
        return cls(**read_json(folder / RESULT_FILE))


def peaks() -> tuple[int, int | None]:
    """The most memory that this process has had so far: on the host, and on its accelerator if it has one."""
    import torch

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return host, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def check_objective(objective: str, *, validates: bool, measures: bool) -> None:
    """Raise ValueError for an objective that the run will not have."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    if objective == "validation" and not validates:
        raise ValueError(
            "objective=validation needs a validation that scores: set validation=, e.g. validation=tinytown"
        )
    if objective == "distance_sq" and not measures:
        raise ValueError("objective=distance_sq needs a measurement: set measure, e.g. measure={tier:quick}")


def objective_of(folder: Path, objective: str) -> float:
    """What a sweeper is told about a finished run: loss and squared distance to the target fall, a validation rises."""
    if objective == "distance_sq":
        results = read_json(folder / EVALUATION)
        wanted = {"name": objective, "arm": "adapted", "concept": None, **results["primary"]}
        values = [row["value"] for row in results["estimates"] if all(row[key] == wanted[key] for key in wanted)]
        value = values[0] if values else None
    else:
        value = getattr(Outcome.read(folder), objective)
    if value is None:
        cure = (
            ": measure more than one seed of each prompt (measure={tier: quick})" if objective == "distance_sq" else ""
        )
        raise ValueError(f"{folder} has no {objective} to give as the objective{cure}")
    return float(value)
