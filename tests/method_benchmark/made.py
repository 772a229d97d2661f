"""Runs of a benchmark as the programs leave them, with shares that the test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.method_benchmark.measured import Measured, Sampling, Scores
from evenhand.method_benchmark.plan import Benchmark, Competitor, Run
from evenhand.records import Guard
from tests.folders import drawn_readings, plan_row, prompt_row, write_folder

NUM_PROMPTS, NUM_SEEDS = 12, 16
PROMPTS = [prompt_row("heldout", f"job{number:02d}") for number in range(NUM_PROMPTS)]
BASE_SHARES = {row["id"]: 0.9 if place % 2 else 0.1 for place, row in enumerate(PROMPTS)}
MEGABYTES = 2


def estimate_row(name: str, arm: str, value: float, *, suite: str = "heldout", attribute: str = "presentation") -> Any:
    ends = {"low": value - 0.1, "high": value + 0.1}
    return {
        "name": name,
        "suite": suite,
        "concept": None,
        "attribute": attribute,
        "arm": arm,
        "value": value,
        **ends,
    } | {"how": "made up"}


def a_run(
    home: Path,
    name: str,
    seed: int | None,
    share: float,
    *,
    passed: bool = True,
    changes: Mapping[str, Any] | None = None,
    estimates: tuple[Any, ...] = (),
    killed: bool = False,
) -> Run:
    """A run whose adapted arm shows the first value in ``share`` of its images."""
    folder = home / (name if seed is None else f"{name}-s{seed}")
    rng = np.random.default_rng([len(name), seed or 0])
    shares = {"base": BASE_SHARES, "adapted": dict.fromkeys(BASE_SHARES, share)}
    readings = drawn_readings(PROMPTS, shares, num_seeds=NUM_SEEDS, rng=rng)
    write_folder(folder / "evaluation", plan_row(PROMPTS) | dict(changes or {}), readings)
    guard = {"name": "fixed", "suite": "fixed", "value": 0.01, "low": 0.0, "high": 0.015, "margin": 0.02}
    guards = [{**guard, "passed": passed, "evidence": "no harm shown"}]
    results = {"guards": guards, "estimates": list(estimates)}
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    if seed is not None:
        (folder / "training" / "adapter").mkdir(parents=True)
        sessions = [{"wall_seconds": 700.0}, *([{"wall_seconds": None}] if killed else [])]
        git = {"commit": "abc", "dirty": False}
        provenance = {"wall_seconds": 700.0, "world_size": 2, "sessions": sessions, "git": git}
        (folder / "training" / "provenance.json").write_text(json.dumps(provenance))
        weights = folder / "training" / "adapter" / "pytorch_lora_weights.safetensors"
        weights.write_bytes(b"0" * MEGABYTES * 1_000_000)
    return run_of(name, seed, folder)


def run_of(name: str, seed: int | None, folder: Path) -> Run:
    kind = "baseline" if seed is None else "method"
    return Run(competitor=Competitor(name=name, kind=kind), case="occupations", seed=seed, folder=folder)


def drawn(
    name: str,
    seed: int | None,
    scores: np.ndarray,
    ids: list[str],
    *,
    passed: bool = True,
    sampling: Sampling | None = None,
    noise: float = 0.0,
) -> Measured:
    """A run in memory, with these squared distances."""
    guard = Guard(
        name="fixed", suite="fixed", value=0.0, low=0.0, high=0.0, margin=0.02, passed=passed, evidence="inconclusive"
    )
    return Measured(
        run=run_of(name, seed, Path(f"{name}-{seed}")),
        primary=("heldout", "presentation"),
        scores={
            ("heldout", "presentation"): Scores(
                base=dict.fromkeys(ids, 0.9),
                adapted=dict(zip(ids, map(float, scores), strict=True)),
                base_noise=dict.fromkeys(ids, noise),
                adapted_noise=dict.fromkeys(ids, noise),
                concepts=dict(zip(ids, ids, strict=True)),
            )
        },
        guards=(guard,),
        quality={},
        bars={},
        cost=None,
        question="one",
        asked=dict.fromkeys(ids, "the same"),
        num_values={"presentation": 2},
        sampling=sampling,
        level=0.95,
        commit=None,
    )


def the_benchmark(home: Path, **changes: Any) -> Benchmark:
    settings: dict[str, Any] = {
        "cases": ("occupations",),
        "methods": ("curated",),
        "arms": ("none",),
        "seeds": (0, 1, 2),
        "seeds_of": None,
        "ours": None,
        "ours_in": None,
        "only": (),
        "without": (),
        "bars": {},
        "num_processes": 1,
        "budget_seconds": 600.0,
        "build": (),
        "train": (),
        "of_method": None,
        "of_arm": None,
        "of_case": None,
        "evaluate": (),
        "evaluation_seed": 0,
        "level": 0.95,
        "run_folder": home,
        "results_folder": None,
    }
    return Benchmark(**(settings | changes))
