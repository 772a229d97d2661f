"""What made an evaluation folder: the frozen plan in short, the commands, and the environment they ran in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from evenhand.evaluation.folder import load_images
from evenhand.evaluation.plan import Plan
from evenhand.files import read_json
from evenhand.run import NOT_RESULTS

# An experiment is a choice of settings; the others only name the run's folder, watch it or start it.
NAMING_KEYS = {*NOT_RESULTS, "num_processes", "cache", "read_batch_size"} - {"experiment"}
REPORT_PROVENANCE = "provenance.report.json"
# Declared by whoever made the plan, beside the keys that every plan has.
PLAN_EXTRAS = ("suite", "rows", "excluded", "seen", "training_captions", "audit_pairs", "mde")


def reproduction(plan: Plan, folder: Path) -> dict[str, Any]:  # Any: JSON
    """The block ``reproduction`` of ``results.json``: nothing in it depends on the folder's place or on the time."""
    images: dict[str, int] = {}
    for arm, _, _ in load_images(folder):
        images[arm] = images.get(arm, 0) + 1
    return {
        "report_command": "python evaluate/report.py run=<this folder>",
        "runs": [_made_by(path) for path in sorted(folder.glob("provenance*.json")) if path.name != REPORT_PROVENANCE],
        "plan": {
            "tier": plan.tier,
            "alpha": plan.alpha,
            "prompts": {suite: len(plan.in_suite(suite)) for suite in plan.suites},
            "images": images,
            "margins": dict(plan.margins),
            "guard_rule": plan.guard_rule,
            "generation": _generation(plan),
            "dose": None if plan.dose is None else asdict(plan.dose),
            "readers": [name for name in (plan.reader, *plan.second_readers) if name],
            "training_reader": plan.training_reader,
            **{name: plan.extra.get(name) for name in PLAN_EXTRAS},
        },
    }


def _generation(plan: Plan) -> dict[str, Any] | None:  # Any: JSON
    if plan.generation is None:
        return None
    content = asdict(plan.generation)
    seeds, arm = content.pop("seeds"), dict(content.pop("arm"))
    if arm:
        arm.pop("instructions", None)  # one for each image: they stand in the plan
        content["arm"] = arm
    return {**content, "seeds_per_prompt": sorted({len(values) for values in seeds.values()})}


def as_object(value: object) -> Mapping[str, Any]:  # Any: JSON
    """A JSON object; an empty one where another tool wrote something else."""
    return value if isinstance(value, Mapping) else {}


def _made_by(path: Path) -> dict[str, Any]:  # Any: JSON
    """What a program wrote down of itself; another tool's file may lack any of it."""
    content = as_object(read_json(path))
    inputs = as_object(content.get("inputs"))
    return {
        "file": path.name,
        "command": _command(content.get("command")),
        "inputs": {name: as_object(entry).get("sha256") for name, entry in inputs.items()},
        **{name: content.get(name) for name in ("seeds", "git", "versions", "python", "device")},
    }


def _command(words: object) -> str | None:
    """The command line that gives the same results, wherever it is run: without what only names or starts the run."""
    if not isinstance(words, list) or not words:
        return None
    program = PurePosixPath(str(words[0]))
    kept = [
        str(word) for word in words[1:] if str(word).lstrip("+").partition("=")[0].partition(".")[0] not in NAMING_KEYS
    ]
    return shlex.join(["python", "/".join(program.parts[-2:]), *kept])


def facts(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:  # Any: JSON
    """Names and values of a nested object as lines of a page; what is not known is left out."""
    for name, value in node.items():
        words = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from facts(value, f"{words}: ")
        elif isinstance(value, list | tuple):
            yield words, ", ".join(str(each) for each in value)
        elif value is not None:
            yield words, str(value)
