"""Adapters that reach the target by other means: one image again and again, copies of the training set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evenhand.analysis.results import Results, analyse_folder
from evenhand.evaluation.folder import IMAGES_FILE, READINGS_FILE, load_images, load_readings
from evenhand.files import write_jsonl_atomic
from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import excludes, shift_of
from evenhand.honesty.folders import ARMS, SHIFT, Labels, analysed, drawn, two_shares
from evenhand.honesty.outcome import Figure, Outcome, exactly, true
from evenhand.honesty.painted import (
    NUM_PROMPTS,
    NUM_SEEDS,
    individuals,
    paint_training_set,
    painted_folder,
    painted_plan,
)
from evenhand.honesty.verdicts import refusal


def _labels(rng: np.random.Generator, base: float, adapted: float) -> dict[str, Labels]:
    return {
        arm: drawn(rng, two_shares(np.full(NUM_PROMPTS, share)), num_seeds=NUM_SEEDS)
        for arm, share in zip(ARMS, (base, adapted), strict=True)
    }


def _guard(results: Results, name: str) -> Figure:
    """Whether a guard held: 1, 0, or not a number when it was not judged."""
    held = [guard.passed for guard in results.guards if guard.name == name]
    return Figure(label=name, value=float(all(held)) if held else float("nan"))


def _held(label: str, results: Results, name: str, *, expected: bool) -> Figure:
    value = _guard(results, name).value
    return Figure(label=f"{label}: {name} holds", value=value, low=float(expected), high=float(expected))


def check_duplicate(bench: Bench) -> Outcome:
    """Every image twice: refused, so that n cannot grow by copying."""
    folder, rng = bench.folder("duplicate"), np.random.default_rng(bench.seed)
    plan = painted_plan()
    results = painted_folder(folder, plan, _labels(rng, 0.8, 0.5), {arm: individuals(rng) for arm in ARMS})
    readings, images = load_readings(folder), list(load_images(folder).values())
    lines = refusal(lambda: analysed(plan, [*readings, *readings]))
    copies = [replace(image, seed=image.seed + NUM_SEEDS) for image in images]
    write_jsonl_atomic(folder / IMAGES_FILE, [*images, *copies])
    write_jsonl_atomic(
        folder / READINGS_FILE, [*readings, *(replace(row, seed=row.seed + NUM_SEEDS) for row in readings)]
    )
    seeds = refusal(lambda: analyse_folder(folder))
    return Outcome(
        figures=(
            true("every reading twice: refused", lines is not None, note=lines or ""),
            true("every image again under another seed: refused", seeds is not None, note=seeds or ""),
            exactly(
                "control: images counted once", shift_of(results, "gap", attribute="two").n_images, len(images) / 2
            ),
        )
    )


def check_collapse(bench: Bench) -> Outcome:
    """One image of each value, on target: not even-handed but broken."""
    folder, rng = bench.folder("collapse"), np.random.default_rng(bench.seed)
    plan = painted_plan()
    labels = _labels(rng, 0.5, 0.5)
    one_each = labels["adapted"] + 1
    honest = painted_folder(folder / "honest", plan, labels, {arm: individuals(rng) for arm in ARMS})
    broken = painted_folder(folder / "broken", plan, labels, {"base": individuals(rng), "adapted": one_each})
    words = [verdict.verdict for verdict in broken.verdicts if verdict.arm == SHIFT]
    return Outcome(
        figures=(
            _held("one image a value", broken, "diversity", expected=False),
            _held("one image a value", broken, "near_duplicates", expected=False),
            true("  verdict is harm", words == ["harm"], note=", ".join(words)),
            _held("control: as diverse as base", honest, "diversity", expected=True),
            _held("control: as diverse as base", honest, "near_duplicates", expected=True),
        )
    )


def check_composition_only(bench: Bench) -> Outcome:
    """The same pictures in another mixture: the score moves by the scorer's opinion, and that is no loss of quality."""
    folder, rng = bench.folder("composition-only"), np.random.default_rng(bench.seed)
    plan = painted_plan()
    results = painted_folder(folder, plan, _labels(rng, 0.9, 0.4), {arm: individuals(rng) for arm in ARMS})
    within = shift_of(results, "image_text_within", attribute="two")
    raw = next(
        estimate
        for estimate in results.estimates
        if estimate.name == "image_text" and estimate.arm == SHIFT and estimate.concept is None
    )
    return Outcome(
        figures=(
            true("score within values: interval holds 0", within.low is not None and not excludes(within)),
            _held("score within values", results, "image_text", expected=True),
            Figure(label="naive: whole score, upper end", value=raw.high or 0.0, high=-1e-9, note="it fell"),
        )
    )


def check_copycat(bench: Bench) -> Outcome:
    """Outputs that are training images come back as copies, and the guard says so."""
    folder, rng = bench.folder("copycat"), np.random.default_rng(bench.seed)
    plan = painted_plan()
    labels = _labels(rng, 0.8, 0.5)
    training, own_JK = paint_training_set(folder / "training", plan, rng)
    copied = np.take_along_axis(own_JK, labels["adapted"], axis=1)
    own = {"base": individuals(rng), "adapted": np.where(rng.random(copied.shape) < 0.3, copied, individuals(rng))}
    copies = painted_folder(folder / "copies", plan, labels, own, training=training)
    honest = painted_folder(folder / "honest", plan, labels, {arm: individuals(rng) for arm in ARMS}, training=training)
    return Outcome(
        figures=(
            _held("30 % are training images", copies, "copies", expected=False),
            _held("control: own images", honest, "copies", expected=True),
        )
    )
