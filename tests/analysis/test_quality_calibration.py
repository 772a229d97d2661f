"""How often the guards over image scores err when nothing happened, and how often their interval covers the truth.

The truth is the mean that the test draws scores around; a run is a folder in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from evenhand.analysis.image_text import score_change
from evenhand.analysis.scored import ScoredImages, concepts
from evenhand.analysis.variety import diversity_cells, duplicates, relative_change
from evenhand.evaluation.folder import ImageKey
from evenhand.evaluation.plan import parse_plan
from evenhand.evaluation.scoring import FeatureTable
from evenhand.stats.intervals import mean_interval
from tests.folders import ARMS, plan_row
from tests.planted_scores import MARGINS, looks, pictures, portraits, text_of

NUM_PROMPTS, NUM_SEEDS, NUM_RUNS = 8, 8, 120
MEANS = {"woman": 0.4, "man": 0.6}
# Of a nominal 5 % in NUM_RUNS runs, what 99.9 % of correct procedures stay below.
MOST_MISSES = int(stats.binom.ppf(0.999, NUM_RUNS, 0.05))


def drawn(rng: np.random.Generator, *, changes: Sequence[float], same_mix: bool) -> ScoredImages:
    """Two arms of new people; in prompt j everyone's score changes by ``changes[j]``."""
    prompts = portraits(NUM_PROMPTS)
    rows, keys = {arm: [] for arm in ARMS}, {arm: [] for arm in ARMS}  # type: ignore[var-annotated]  # arrays, keys
    values: dict[ImageKey, str | None] = {}
    for number, prompt in enumerate(prompts):
        base_share = rng.beta(1, 4)
        shares = (base_share, base_share if same_mix else rng.uniform(0.4, 0.6))
        for arm, share in zip(ARMS, shares, strict=True):
            shown = ["woman" if draw < share else "man" for draw in rng.random(NUM_SEEDS)]
            scores_N = np.array([MEANS[value] for value in shown]) + 0.05 * rng.normal(size=NUM_SEEDS)
            scores_N += changes[number] if arm == "adapted" else 0.0
            rows[arm].append(pictures(text_of(number), scores_N, looks(rng, shown)))
            keys[arm] += [(prompt["id"], seed) for seed in range(NUM_SEEDS)]
            values |= {(arm, prompt["id"], seed): value for seed, value in enumerate(shown)}
    table = FeatureTable(
        scorer="planted",
        keys={arm: tuple(keys[arm]) for arm in ARMS},
        images_ND={arm: np.concatenate(rows[arm]) for arm in ARMS},
        prompts=tuple(prompt["id"] for prompt in prompts),
        text_PD=np.stack([text_of(number) for number in range(NUM_PROMPTS)]),
    )
    return ScoredImages(parse_plan(plan_row(prompts, margins=MARGINS), "plan"), table, values)


@pytest.mark.parametrize("change", [0.0, -0.03])
def test_the_interval_of_the_part_within_values_covers_its_truth(change: float) -> None:
    rng = np.random.default_rng(20)
    misses, moved = 0, 0
    for _ in range(NUM_RUNS):
        changes = change + 0.02 * rng.normal(size=NUM_PROMPTS)
        found = score_change(drawn(rng, changes=changes, same_mix=False), "heldout", level=0.95)
        assert found.within.low is not None
        assert found.within.high is not None
        misses += not found.within.low <= change <= found.within.high
        assert found.total.high is not None
        moved += found.total.high < change  # control: the raw change does not cover the truth
    assert misses <= MOST_MISSES
    assert moved > NUM_RUNS / 4


def test_new_people_of_the_same_kind_seldom_look_less_diverse_or_alike() -> None:
    rng = np.random.default_rng(21)
    less, alike = 0, 0
    for _ in range(NUM_RUNS):
        images = drawn(rng, changes=np.zeros(NUM_PROMPTS), same_mix=True)
        change = relative_change(diversity_cells(images, "heldout"), level=0.95)
        assert change.low is not None
        assert change.high is not None
        less += not change.low <= 0 <= change.high
        found = duplicates(images, "heldout")
        assert found is not None
        rise = mean_interval(found.adapted_J - found.base_J, concepts(found.prompts), level=0.95)
        assert rise.value is not None
        alike += rise.value > MARGINS["near_duplicates"]
    assert less <= MOST_MISSES
    assert alike == 0
