"""Pseudo-targets against a search of every assignment, and against cases whose answer is plain."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from evenhand.methods.transport import pseudo_targets


def probs_of(woman: list[float]) -> np.ndarray:
    return np.array([[share, 1 - share] for share in woman])


@pytest.mark.parametrize("seed", range(6))
def test_one_draw_is_matched_at_the_least_cost_of_all_assignments(seed) -> None:
    random = np.random.default_rng(seed)
    probs = random.dirichlet([0.7] * 3, size=5)
    found = pseudo_targets(probs, np.array([0.5, 0.3, 0.2]), num_draws=1, seed=seed)
    drawn = sorted(found.cell_N.tolist())

    def cost(cells) -> float:
        return sum(np.sqrt(((row - np.eye(3)[cell]) ** 2).sum()) for row, cell in zip(probs, cells, strict=True))

    assert cost(found.cell_N) == pytest.approx(min(cost(cells) for cells in permutations(drawn)))
    assert (found.confidence_N == 1).all()


def test_pictures_that_show_the_target_keep_what_they_show() -> None:
    found = pseudo_targets(probs_of([0.99] * 20 + [0.01] * 20), np.array([0.5, 0.5]), num_draws=400, seed=0)
    assert found.cell_N.tolist() == [0] * 20 + [1] * 20
    assert found.confidence_N.mean() > 0.85  # a draw of 40 has 20 +- 3.2 of each, so a few are moved in each


def test_of_pictures_that_all_show_one_value_the_nearest_half_should_change() -> None:
    """Sixteen men, the later ones less surely: eight should be women, and at the border it depends on the draw."""
    woman = np.linspace(0.01, 0.3, 16)
    found = pseudo_targets(probs_of(woman.tolist()), np.array([0.5, 0.5]), num_draws=2000, seed=0)
    assert found.cell_N[:7].tolist() == [1] * 7
    assert found.cell_N[9:].tolist() == [0] * 7
    assert found.confidence_N[[0, 15]].min() > 0.99
    assert found.confidence_N[7:9].max() < 0.65
    # the i-th least womanly picture is a man where at least i + 1 of the 16 drawn are
    from scipy.stats import binom

    wanted = [max(binom.sf(index, 16, 0.5), binom.cdf(index, 16, 0.5)) for index in range(16)]
    np.testing.assert_allclose(found.confidence_N, wanted, atol=0.05)


def test_a_target_of_one_value_asks_it_of_every_picture() -> None:
    found = pseudo_targets(probs_of([0.9, 0.1, 0.5]), np.array([0.0, 1.0]), num_draws=10, seed=3)
    assert found.cell_N.tolist() == [1, 1, 1]
    assert (found.confidence_N == 1.0).all()  # ten times 0.1 would be less


def test_draws_follow_the_shares() -> None:
    """With one picture the confidence is the larger share itself, whatever the picture shows."""
    found = pseudo_targets(probs_of([0.02]), np.array([0.7, 0.3]), num_draws=20000, seed=1)
    assert found.cell_N.tolist() == [0]
    assert found.confidence_N[0] == pytest.approx(0.7, abs=0.015)


def test_the_answer_is_a_function_of_the_seed() -> None:
    probs = np.random.default_rng(0).dirichlet([1.0, 1.0], size=9)
    first, again, other = (
        pseudo_targets(probs, np.array([0.5, 0.5]), num_draws=7, seed=seed).confidence_N for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_pictures_there_are_no_targets() -> None:
    assert len(pseudo_targets(np.zeros((0, 2)), np.array([0.5, 0.5]), num_draws=3, seed=0).cell_N) == 0
