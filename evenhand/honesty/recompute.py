"""The headline recomputed from the two files alone: JSON, NumPy and a t quantile, and nothing of evenhand.stats."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from evenhand.analysis.results import analyse_folder
from evenhand.evaluation.folder import READINGS_FILE
from evenhand.evaluation.plan import PLAN_FILE, freeze_plan
from evenhand.files import write_jsonl_atomic
from evenhand.honesty.bench import Bench
from evenhand.honesty.outcome import Figure, Outcome, exactly
from evenhand.honesty.verdicts import shifted

TOLERANCE = 1e-9
# One arm's shares and squared distances have intervals of other kinds, which are no matter of ten lines.
OTHER_INTERVALS = ("distance_sq",)

Headline = dict[tuple[str, str], tuple[float, ...]]


def recomputed(folder: Path) -> Headline:
    """(name, arm) -> value, or value and both ends, of the primary attribute on the primary suite."""
    plan = json.loads((folder / PLAN_FILE).read_text())
    rows = [json.loads(line) for line in (folder / READINGS_FILE).read_text().splitlines()]
    attribute, suite = plan["primary"]["attribute"], plan["primary"]["suite"]
    values = next(entry["values"] for entry in plan["attributes"] if entry["name"] == attribute)
    target = np.array(next(entry["shares"] for entry in plan["targets"] if entry["attribute"] == attribute))
    ids = [prompt["id"] for prompt in plan["prompts"] if prompt["suite"] == suite]
    seen = {(r["arm"], r["prompt_id"], r["seed"]): r["value"] for r in rows if r["attribute"] == attribute}
    base, adapted = plan["arms"]
    found: Headline = {}
    quantities: dict[str, dict[str, list[float]]] = {}
    for arm in (base, adapted, "pairs of base", "pairs of adapted"):
        for prompt in ids:
            counts = _counts(seen, prompt, arm, values, (base, adapted))
            for name, number in _quantities(counts, target, values).items():
                quantities.setdefault(name, {}).setdefault(arm, []).append(number)
    for name, by_arm in quantities.items():
        for arm in (base, adapted):
            found[name, arm] = _t_interval(np.array(by_arm[arm]), plan["alpha"])
        change = np.array(by_arm["pairs of adapted"]) - np.array(by_arm["pairs of base"])
        found[name, "shift"] = _t_interval(change, plan["alpha"])
    return found


def _counts(seen: Any, prompt: str, arm: str, values: list[str], arms: tuple[str, str]) -> Any:  # Any: JSON, an array
    """How often each value was read; with "pairs of", among the seeds that were read in both arms."""
    place = arms[arm.endswith(arms[1])]
    seeds = [seed for one, name, seed in seen if one == place and name == prompt]
    if arm.startswith("pairs of "):
        seeds = [seed for seed in seeds if all(seen[one, prompt, seed] is not None for one in arms)]
    read = [seen[place, prompt, seed] for seed in seeds]
    return np.array([read.count(value) for value in values], dtype=np.float64)


def _quantities(counts: Any, target: Any, values: list[str]) -> dict[str, float]:  # Any: arrays
    n = counts.sum()
    p = counts / n
    return {
        **{f"share:{value}": float(share) for value, share in zip(values, p, strict=True)},
        "gap": float(p.max() - p.min()),
        "tv": float(np.abs(p - target).sum() / 2),
        "distance_sq": float(np.sum((p - target) ** 2) - np.sum(p * (1 - p)) / (n - 1)),
        "entropy": float(-sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))),
    }


def _t_interval(numbers: Any, alpha: float) -> tuple[float, float, float]:  # Any: an array
    half = stats.t.ppf(1 - alpha / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers))
    return float(numbers.mean()), float(numbers.mean() - half), float(numbers.mean() + half)


def check_recompute(bench: Bench) -> Outcome:
    """The report's headline is what forty independent lines make of the same two files."""
    folder = bench.folder("recompute")
    plan, readings = shifted(np.random.default_rng(bench.seed))
    freeze_plan(plan, folder)
    write_jsonl_atomic(folder / READINGS_FILE, readings)
    results = analyse_folder(folder)
    worst, num_intervals, missing = 0.0, 0, []
    for (name, arm), numbers in recomputed(folder).items():
        estimate = results.find(name, suite=plan.primary.suite, arm=arm, attribute=plan.primary.attribute)
        if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
            missing.append(f"{name} {arm}")
            continue
        value, low, high = numbers
        worst = max(worst, abs(value - estimate.value))
        if arm == "shift" or (name not in OTHER_INTERVALS and not name.startswith("share:")):
            low, high = (low, high) if arm == "shift" else (max(0.0, low), min(1.0, high))
            worst, num_intervals = max(worst, abs(low - estimate.low), abs(high - estimate.high)), num_intervals + 1
    return Outcome(
        figures=(
            Figure(label="largest difference", value=worst, high=TOLERANCE),
            exactly("numbers that the report lacks", len(missing), 0, note=", ".join(missing[:3])),
            Figure(label="intervals recomputed", value=num_intervals, low=10),
        )
    )
