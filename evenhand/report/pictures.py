"""What a report shows besides numbers: a dot plot of shares, and same-seed pairs of images as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evenhand.evaluation.folder import ImageKey, load_images
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate, ImageRecord, Prompt
from evenhand.report.results import Results

# The plot is drawn at phone width, so that its letters keep their size there.
PLOT_WIDTH, LABEL_WIDTH, RIGHT_MARGIN, ROW_HEIGHT, PLOT_TOP = 400, 158, 22, 26, 34
THUMBNAIL_PX = 128
KEEP_PNG_PX = 96
JPEG_QUALITY = 85
MAX_CONCEPTS, PAIRS_PER_CONCEPT, MAX_GUARD_PAIRS = 12, 6, 12
GUARD_SUITES = ("explicit", "fixed", "unrelated", "groups", "scene")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One arm's share in a row, in plot units."""

    arm: str
    x: float
    low_x: float
    high_x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotRow:
    """One concept of a plot, with a dot for each arm."""

    concept: str
    y: float
    dots: tuple[Dot, ...]
    target_x: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Shares of one value for every concept of a suite."""

    title: str
    suite: str
    rows: tuple[PlotRow, ...]
    width: int
    height: int
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two arms' images of one (prompt, seed)."""

    seed: int
    base_uri: str
    adapted_uri: str
    base_alt: str
    adapted_alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Pairs of one heading."""

    heading: str
    pairs: tuple[Pair, ...]


def _x(share: float) -> float:
    return round(LABEL_WIDTH + share * (PLOT_WIDTH - LABEL_WIDTH - RIGHT_MARGIN), 1)


def share_plots(plan: Plan, results: Results) -> list[Plot]:
    """A plot of the primary attribute for every suite that leaves it open, with the first value's share."""
    attribute = plan.primary.attribute
    value = plan.attributes[attribute][0]
    suites = [plan.primary.suite, *(suite for suite in plan.suites if suite != plan.primary.suite)]
    plots = []
    for suite in suites:
        found: dict[str, dict[str, Estimate]] = {}
        for estimate in results.estimates:
            if (estimate.name, estimate.suite, estimate.attribute) != (f"share:{value}", suite, attribute):
                continue
            if estimate.concept is not None and estimate.value is not None and estimate.arm in plan.arms:
                found.setdefault(estimate.concept, {})[estimate.arm] = estimate
        if found:
            plots.append(_plot(plan, suite, attribute, value, found))
    return plots


def _plot(plan: Plan, suite: str, attribute: str, value: str, found: Mapping[str, Mapping[str, Estimate]]) -> Plot:
    base_arm = plan.arms[0]

    def base_share(concept: str) -> float:
        estimate = found[concept].get(base_arm)
        return 0.0 if estimate is None or estimate.value is None else estimate.value

    rows = []
    for index, concept in enumerate(sorted(found, key=base_share)):
        y = PLOT_TOP + index * ROW_HEIGHT + ROW_HEIGHT / 2
        target = plan.target(attribute, concept)
        dots = tuple(
            _dot(estimate, y + (-5 if estimate.arm == base_arm else 5)) for estimate in found[concept].values()
        )
        target_x = None if target is None else _x(target[0])
        rows.append(PlotRow(concept=concept, y=y, dots=dots, target_x=target_x))
    level = f"{100 * plan.level:.0f} % intervals"
    return Plot(
        title=f"Share of {value} in perceived {attribute}, by concept of suite {suite}, with {level}",
        suite=suite,
        rows=tuple(rows),
        width=PLOT_WIDTH,
        height=PLOT_TOP + len(rows) * ROW_HEIGHT + 8,
        ticks=tuple((_x(share), f"{100 * share:.0f} %") for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
    )


def _dot(estimate: Estimate, y: float) -> Dot:
    assert estimate.value is not None
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    text = f"{estimate.concept}, {estimate.arm}: {estimate.value:.2f} ({low:.2f} to {high:.2f}), n={estimate.n_images}"
    return Dot(arm=estimate.arm, x=_x(estimate.value), low_x=_x(low), high_x=_x(high), y=y, text=text)


def data_uri(path: Path) -> str:
    """An image as a data URI: small ones as they are, large ones as a thumbnail."""
    with Image.open(path) as image:
        if max(image.size) <= KEEP_PNG_PX:
            return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def grids(plan: Plan, folder: Path) -> list[Grid]:
    """Same-seed pairs: for each concept of the headline, and one of each prompt that must not change.

    The pairs are the first of the plan, whose seeds are hashes: nobody picked them. None where there are no images.
    """
    records = load_images(folder)
    if plan.generation is None:
        return []
    result = []
    for prompt in plan.in_suite(plan.primary.suite)[:MAX_CONCEPTS]:
        pairs = [_pair(plan, folder, records, prompt, seed) for seed in plan.generation.seeds[prompt.id]]
        result.append(Grid(heading=prompt.text, pairs=tuple(pair for pair in pairs[:PAIRS_PER_CONCEPT] if pair)))
    for suite in GUARD_SUITES:
        prompts = plan.in_suite(suite)
        step = max(1, len(prompts) // MAX_GUARD_PAIRS)
        firsts = [_pair(plan, folder, records, entry, plan.generation.seeds[entry.id][0]) for entry in prompts[::step]]
        result.append(Grid(heading=f"suite {suite}", pairs=tuple(pair for pair in firsts[:MAX_GUARD_PAIRS] if pair)))
    return [grid for grid in result if grid.pairs]


def _pair(plan: Plan, folder: Path, records: Mapping[ImageKey, ImageRecord], prompt: Prompt, seed: int) -> Pair | None:
    base, adapted = (records.get((arm, prompt.id, seed)) for arm in plan.arms)
    if base is None or adapted is None or not ((folder / base.path).is_file() and (folder / adapted.path).is_file()):
        return None
    return Pair(
        seed=seed,
        base_uri=data_uri(folder / base.path),
        adapted_uri=data_uri(folder / adapted.path),
        base_alt=f"{prompt.text}, {plan.arms[0]}, seed {seed}",
        adapted_alt=f"{prompt.text}, {plan.arms[1]}, seed {seed}",
    )
