"""Scores with known composition and cost; the formula by hand and from statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.oaxaca import OaxacaBlinder

from evenhand.stats.decomposition import UNREAD, Asked, Cell, Split, split_change
from evenhand.stats.intervals import mean_interval
from tests.stats.bands import assert_held, holds

LEVEL = 0.95


def cell(*groups: tuple[int, float, int]) -> Cell:
    """Images in groups: the value they show, their score, and how many they are."""
    values = [value for value, _, count in groups for _ in range(count)]
    return Cell(np.array([score for _, score, count in groups for _ in range(count)]), np.array(values))


def test_split_by_hand() -> None:
    found = split([[cell((0, 20.0, 9), (1, 30.0, 1))], [cell((0, 19.0, 5), (1, 31.0, 5))]])
    assert found.composition.value == pytest.approx(-0.4 * 19.5 + 0.4 * 30.5)
    assert found.within.value == pytest.approx(-1.0 * 0.7 + 1.0 * 0.3)
    assert found.total.value == pytest.approx((0.5 * 19 + 0.5 * 31) - (0.9 * 20 + 0.1 * 30))


def scene(rng: np.random.Generator, count: int, cost: float, after: float = 0.5, n: int = 16) -> list[list[Cell]]:
    """A scorer that likes value 1 by 1.5; the adapter shows it in ``after`` of images, not in 6 %, at a cost."""
    level = rng.normal(25, 2, count)
    arms = []
    for share, loss in ((0.06, 0.0), (after, cost)):
        values = (rng.random((count, n)) < share).astype(int)
        scores = level[:, None] + 1.5 * values - loss + rng.normal(0, 1, (count, n))
        arms.append([Cell(one, two) for one, two in zip(scores, values, strict=True)])
    return arms


def names(count: int) -> list[str]:
    return [f"p{row}" for row in range(count)]


def split(arms: list[list[Cell]], **more: object) -> Split:
    return split_change(*arms, names(len(arms[0])), num_values=2, level=LEVEL, **more)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("cost", [0.0, 0.5])
@pytest.mark.parametrize("count", [8, 40])
def test_cost_within_values_and_composition_are_covered(count: int, cost: float) -> None:
    rng = np.random.default_rng(1)
    splits = [split(scene(rng, count, cost)) for _ in range(120)]
    assert_held([holds(found.within, -cost) for found in splits])
    assert_held([holds(found.composition, 1.5 * 0.44) for found in splits])


def test_an_adapter_that_only_shows_others_costs_nothing_though_the_score_moves() -> None:
    """Control: with the scorer's liking turned round the raw score falls as much."""
    arms = scene(np.random.default_rng(2), 40, 0.0)
    found = split(arms)
    assert holds(found.within, 0)
    assert found.total.low is not None
    assert found.total.low > 0.3
    assert found.total.value == pytest.approx((found.within.value or 0) + (found.composition.value or 0))
    turned = split([[Cell(-part.scores_N, part.values_N) for part in arm] for arm in arms])
    assert turned.total.value == pytest.approx(-(found.total.value or 0))


def test_one_prompt_with_all_values_in_both_arms_is_kitagawas_split() -> None:
    """statsmodels' two-fold decomposition is Kitagawa's with dummies; at the mean of both arms' scores."""
    rng = np.random.default_rng(3)
    base, adapted = (arm[0] for arm in scene(rng, 1, 0.5, n=300))
    found = split([[base], [adapted]])
    assert found.within.low is None
    endog = np.concatenate([adapted.scores_N, base.scores_N])
    values = np.concatenate([adapted.values_N, base.values_N])
    exog = np.stack([np.repeat([1.0, 0.0], 300), values, np.ones(600)], axis=1)
    model = OaxacaBlinder(endog, exog, 0, hasconst=True, swap=False)
    unexplained, explained, _ = model.two_fold(two_fold_type="self_submitted", submitted_weight=0.5).params
    assert abs(found.composition.value or 0) == pytest.approx(abs(explained), rel=1e-6)
    assert abs(found.within.value or 0) == pytest.approx(abs(unexplained), rel=1e-6)


def test_values_that_one_arm_lacks_take_the_change_of_other_prompts() -> None:
    """The second prompt shows 0 before and 1 after; in the first both lose one point."""
    both, worse = cell((0, 10.0, 2), (1, 20.0, 2)), cell((0, 9.0, 2), (1, 19.0, 2))
    found = split([[both, cell((0, 10.0, 4))], [worse, cell((1, 19.0, 4))]])
    assert found.within.value == pytest.approx(-1)
    assert found.total.value == pytest.approx((-1 + 9) / 2)


def test_values_that_no_prompt_shows_in_both_arms_take_the_score_of_images_asked_for() -> None:
    """Value 1 was 21 when asked for and is 19 now: half of the images lose 2. Value 0, 10 before, would be 9 now."""
    arms = [[cell((0, 10.0, 4))], [cell((1, 19.0, 4))]]
    asked = Asked(np.array([[np.nan, 21.0]]), np.array([[9.0, np.nan]]))
    assert split(arms, asked=asked).within.value == pytest.approx(0.5 * -2 + 0.5 * -1)
    # Control: where a prompt shows a value in both arms, nobody is asked.
    seen = [[cell((0, 10.0, 2), (1, 20.0, 2))], [cell((0, 9.0, 2), (1, 19.0, 2))]]
    assert split(seen, asked=asked) == split(seen)


def test_images_that_were_not_read_are_a_cost_and_no_other_mix() -> None:
    """Half of the adapter's images are spoilt, score 4 and show nothing; those that show something lost nothing."""
    found = split([[cell((0, 10.0, 2), (1, 20.0, 2))], [cell((0, 10.0, 1), (1, 20.0, 1), (UNREAD, 4.0, 2))]])
    assert found.composition.value == pytest.approx(0)
    assert found.within.value == pytest.approx((10 + 20 + 4 + 4) / 4 - 15)


def test_nothing_shared_is_not_split_and_nothing_scored_is_not_estimable() -> None:
    found = split([[cell((0, 1.0, 3))] * 2, [cell((1, 1.0, 3))] * 2])
    assert found.total.value == 0
    assert found.within.value is None
    empty = Cell(np.zeros(0), np.zeros(0, dtype=np.intp))
    assert split([[empty], [cell((0, 1.0, 3))]]).total.value is None
    assert split([[], []]).total.value is None


def test_without_composition_it_is_the_t_interval_of_prompts() -> None:
    rng = np.random.default_rng(4)
    base = [Cell(rng.normal(size=6), np.zeros(6, dtype=np.intp)) for _ in range(5)]
    adapted = [Cell(rng.normal(size=6), np.zeros(6, dtype=np.intp)) for _ in range(5)]
    change = np.array([new.scores_N.mean() - old.scores_N.mean() for old, new in zip(base, adapted, strict=True)])
    expected = mean_interval(change, names(5), level=LEVEL)
    assert split([base, adapted]).within[:3] == pytest.approx(expected[:3])
