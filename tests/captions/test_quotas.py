"""Quotas against statements that hold for any right answer, a brute-force search of small tables, and hand counts."""

from __future__ import annotations

import itertools
import math
import random
import time
from fractions import Fraction

import pytest

from evenhand.captions.quotas import Cell, allocate, cell_name, cell_shares, cells_of, check_feasible, joint_attribute
from evenhand.records import Attribute, Target


def attribute(name: str, *values: str) -> Attribute:
    return Attribute(
        name=name,
        values=values,
        forms={value: f"{value} {{}}" for value in values},
        words=dict.fromkeys(values, ()),
    )


PRESENTATION = attribute("presentation", "woman", "man")
SKIN = attribute("skin", "light", "medium", "dark")


def random_shares(rng: random.Random, *, num_concepts: int, num_cells: int) -> dict[str, list[Fraction]]:
    table = {}
    for number in range(num_concepts):
        weights = [rng.randint(0, 5) for _ in range(num_cells - 1)] + [1]
        table[f"c{number}"] = [Fraction(weight, sum(weights)) for weight in weights]
    return table


def flat(num_cells: int) -> list[Cell]:
    """The cells of one attribute."""
    return [(str(number),) for number in range(num_cells)]


def rounded(wanted: Fraction, got: int) -> bool:
    return math.floor(wanted) <= got <= math.ceil(wanted)


def is_right(shares: dict[str, list[Fraction]], cells: list[Cell], counts: dict[str, list[int]], count: int) -> bool:
    """The definition: concepts exact; cells, and totals over concepts or later attributes, rounded down or up."""
    for depth in range(len(cells[0]) + 1):
        for prefix in {cell[:depth] for cell in cells}:
            members = [number for number, cell in enumerate(cells) if cell[:depth] == prefix]
            wanted = {concept: sum(row[number] for number in members) * count for concept, row in shares.items()}
            got = {concept: sum(row[number] for number in members) for concept, row in counts.items()}
            if not all(rounded(Fraction(wanted[concept]), got[concept]) for concept in shares):
                return False
            if not rounded(Fraction(sum(wanted.values())), sum(got.values())):
                return False
    return True


@pytest.mark.parametrize("seed", range(30))
def test_every_cell_is_within_one_of_its_quota_per_concept_and_overall(seed: int) -> None:
    rng = random.Random(seed)
    num_cells, count = rng.randint(2, 12), rng.randint(1, 50)
    shares = random_shares(rng, num_concepts=rng.randint(1, 30), num_cells=num_cells)
    assert is_right(shares, flat(num_cells), allocate(shares, cells=flat(num_cells), count=count, seed=seed), count)


@pytest.mark.parametrize("seed", range(30))
def test_values_of_the_first_attributes_are_within_one_as_well(seed: int) -> None:
    rng = random.Random(seed)
    cells = list(itertools.product("ab", "wxyz"[: rng.randint(2, 4)], "pq"))
    shares = random_shares(rng, num_concepts=rng.randint(1, 12), num_cells=len(cells))
    counts = allocate(shares, cells=cells, count=17, seed=seed)
    assert is_right(shares, cells, counts, 17)


def test_sixteen_images_in_six_cells_are_still_eight_women_and_eight_men() -> None:
    cells = list(itertools.product(("woman", "man"), ("light", "medium", "dark")))
    shares = {f"c{number}": [Fraction(1, 6)] * 6 for number in range(20)}
    for row in allocate(shares, cells=cells, count=16, seed=0).values():
        assert sum(row[:3]) == sum(row[3:]) == 8
        assert set(row) == {2, 3}


@pytest.mark.parametrize("seed", range(20))
def test_a_small_table_gets_one_of_the_roundings_that_a_full_search_finds(seed: int) -> None:
    shares = random_shares(random.Random(seed), num_concepts=3, num_cells=3)
    exact = [[share * 5 for share in row] for row in shares.values()]
    choices = [itertools.product(*({math.floor(quota), math.ceil(quota)} for quota in row)) for row in exact]
    found = {
        table
        for table in itertools.product(*choices)
        if is_right(shares, flat(3), dict(zip(shares, map(list, table), strict=True)), 5)
    }
    got = allocate(shares, cells=flat(3), count=5, seed=seed)
    assert tuple(tuple(row) for row in got.values()) in found


def test_the_check_itself_finds_a_wrong_table() -> None:
    shares = {"a": [Fraction(1, 2)] * 2, "b": [Fraction(1, 2)] * 2}
    assert is_right(shares, flat(2), {"a": [2, 1], "b": [1, 2]}, 3)
    assert not is_right(shares, flat(2), {"a": [2, 1], "b": [2, 1]}, 3)  # four of six in one cell
    assert not is_right(shares, flat(2), {"a": [3, 0], "b": [1, 2]}, 3)


def test_large_remainders_are_rounded_up() -> None:
    shares = {"a": [Fraction(39, 100), Fraction(61, 100)]}
    assert allocate(shares, cells=flat(2), count=10, seed=0) == {"a": [4, 6]}  # 3.9 and 6.1


def test_a_sixty_twentyfive_fifteen_target_is_met_exactly_overall() -> None:
    # By hand: 10 images are 6, 2.5 and 1.5; over two concepts that is exactly 12, 5 and 3.
    shares = {"a": [Fraction(3, 5), Fraction(1, 4), Fraction(3, 20)]}
    shares["b"] = shares["a"]
    got = allocate(shares, cells=flat(3), count=10, seed=0)
    assert [sum(column) for column in zip(*got.values(), strict=True)] == [12, 5, 3]
    assert [row[0] for row in got.values()] == [6, 6]


def test_the_odd_image_depends_on_the_seed_and_on_nothing_else() -> None:
    shares = {f"c{number}": [Fraction(1, 2)] * 2 for number in range(20)}
    first, again, other = (allocate(shares, cells=flat(2), count=3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_separate_targets_multiply_and_floats_become_exact_shares() -> None:
    targets = [
        Target(attribute="presentation", shares=(0.6, 0.4)),
        Target(attribute="skin", shares=(0.333333, 0.333333, 0.333334)),
    ]
    assert sum(cell_shares([PRESENTATION, SKIN], targets, ["judge"])["judge"]) == 1
    exact = cell_shares([PRESENTATION], targets[:1], ["judge"])
    assert exact == {"judge": [Fraction(3, 5), Fraction(2, 5)]}


def test_a_joint_target_is_taken_as_it_is() -> None:
    joint = joint_attribute([PRESENTATION, SKIN])
    assert joint.values[:2] == ("woman,light", "woman,medium")
    shares = (0.5, 0.0, 0.1, 0.1, 0.1, 0.2)
    target = Target(attribute=joint.name, shares=shares)
    exact = [Fraction(s).limit_denominator(100) for s in shares]
    assert cell_shares([PRESENTATION, SKIN], [target], ["judge"]) == {"judge": exact}


def test_a_joint_target_names_its_attributes_in_any_order() -> None:
    # By hand: skin first, so light is (0.5, 0.0), medium (0.1, 0.1), dark (0.1, 0.2) of women and men.
    target = Target(attribute="skin,presentation", shares=(0.5, 0.0, 0.1, 0.1, 0.1, 0.2))
    exact = cell_shares([PRESENTATION, SKIN], [target], ["judge"])["judge"]
    assert [float(share) for share in exact] == [0.5, 0.1, 0.1, 0.0, 0.1, 0.2]


def test_a_concepts_own_target_replaces_the_general_one() -> None:
    targets = [
        Target(attribute="presentation", shares=(0.5, 0.5)),
        Target(attribute="presentation", shares=(0.2, 0.8), concept="judge"),
    ]
    assert cell_shares([PRESENTATION], targets, ["judge", "nurse"]) == {
        "judge": [Fraction(1, 5), Fraction(4, 5)],
        "nurse": [Fraction(1, 2), Fraction(1, 2)],
    }


def test_a_concept_that_is_left_alone_has_no_shares() -> None:
    even = [Target(attribute=name, shares=(1 / count,) * count) for name, count in (("presentation", 2), ("skin", 3))]
    alone = [Target(attribute=name, shares=(), concept="judge") for name in ("presentation", "skin")]
    assert set(cell_shares([PRESENTATION, SKIN], [*even, *alone], ["judge", "nurse"])) == {"nurse"}
    with pytest.raises(ValueError, match="'judge': presentation is to stay as the base has it, but skin has shares"):
        cell_shares([PRESENTATION, SKIN], [*even, alone[0]], ["judge", "nurse"])


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ([], "attribute presentation has no target"),
        ([Target(attribute="presentation", shares=(0.5, 0.5))] * 2, "attribute presentation has 2 targets"),
        (
            [Target(attribute="age", shares=(0.5, 0.5))],
            "target for attribute 'age', but the attributes are presentation",
        ),
        ([Target(attribute="presentation", shares=(0.5, 0.2, 0.3))], r"needs 2 shares, one for each of \(woman; man\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_by_name(targets: list[Target], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        cell_shares([PRESENTATION], targets, ["judge"])


def test_a_cell_that_would_get_less_than_one_image_is_named() -> None:
    shares = {"judge": [Fraction(19, 20), Fraction(1, 20)]}
    with pytest.raises(
        ValueError, match=r"quota of judge, cell presentation=man: 0\.05 of 16 .* images_per_concept >= 20"
    ):
        check_feasible([PRESENTATION], shares, count=16)
    check_feasible([PRESENTATION], shares, count=20)
    shares["nurse"] = [Fraction(1, 40), Fraction(39, 40)]
    with pytest.raises(ValueError, match=r"1 more cells are too small.; needs images_per_concept >= 40"):
        check_feasible([PRESENTATION], shares, count=16)
    check_feasible([PRESENTATION], {"judge": [Fraction(1), Fraction(0)]}, count=1)  # a cell nobody asked for


def test_cells_are_named_in_the_attributes_order() -> None:
    cells = cells_of([PRESENTATION, SKIN])
    assert len(cells) == 6
    assert cell_name([PRESENTATION, SKIN], cells[2]) == "presentation=woman, skin=dark"


def test_two_hundred_concepts_with_24_cells_are_allocated_in_seconds() -> None:
    cells = list(itertools.product("ab", "wxyz", "pqr"))
    shares = random_shares(random.Random(0), num_concepts=200, num_cells=24)
    start = time.process_time()
    counts = allocate(shares, cells=cells, count=37, seed=0)
    assert time.process_time() - start < 10  # measured: 1 s
    assert is_right(shares, cells, counts, 37)
