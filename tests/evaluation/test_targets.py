"""Targets from YAML: expected shares are written by hand, as a reader of the file would work them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenhand.captions.quotas import TargetChoice, joint_attribute
from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.evaluation.targets import Conditional, LeftAlone, Table, Uniform
from evenhand.paths import conf_folder
from evenhand.records import Attribute, Target, target_json


def attribute(name: str, *values: str) -> Attribute:
    forms = {value: f"{value} {{}}" for value in values}
    return Attribute(name=name, values=values, forms=forms, words=dict.fromkeys(values, ()))


PRESENTATION = attribute("presentation", "woman", "man")
SKIN = attribute("skin", "light", "medium", "dark")
GLASSES = attribute("glasses", "worn", "absent")
BOTH = joint_attribute([PRESENTATION, SKIN])
EVEN = Table(rows={"*": {"woman": 0.5, "man": 0.5}}, source="even")
LIGHT_WOMEN = {"light": 0.2, "medium": 0.1, "dark": 0.3}
DARK_MEN = {"light": 0.1, "medium": 0.1, "dark": 0.2}
SKIN_GIVEN = {
    "woman": {"light": 0.5, "medium": 0.3, "dark": 0.2},
    "man": {"light": 0.8, "medium": 0.1, "dark": 0.1},
}


def table(row: Any, **arguments: Any) -> Table:
    return Table(**{"rows": {"*": row}, "source": "a survey", **arguments})


def test_shares_by_name_are_put_into_the_order_of_the_values() -> None:
    (target,) = table({"dark": 0.5, "light": 0.2, "medium": 0.3}).targets(SKIN)
    assert target == Target(attribute="skin", shares=(0.2, 0.3, 0.5), source="a survey")


def test_a_list_is_in_the_order_of_the_values() -> None:
    assert table([0.2, 0.3, 0.5]).targets(SKIN)[0].shares == (0.2, 0.3, 0.5)


def test_a_joint_row_is_nested_in_the_order_of_its_attributes() -> None:
    joint = table({"man": DARK_MEN, "woman": LIGHT_WOMEN})
    assert joint.targets(BOTH)[0].shares == (0.2, 0.1, 0.3, 0.1, 0.1, 0.2)
    turned = joint_attribute([SKIN, PRESENTATION])
    with pytest.raises(ValueError, match="unknown skin 'man'"):
        joint.targets(turned)


def test_the_cells_of_three_attributes_are_named() -> None:
    three = joint_attribute([PRESENTATION, SKIN, GLASSES])
    leaf = {"worn": 0.05, "absent": 0.05}
    row = {"woman": dict.fromkeys(SKIN.values, leaf), "man": dict.fromkeys(SKIN.values, leaf)}
    row["man"] = {**row["man"], "dark": {"worn": 0.5, "absent": 0}}
    assert table(row).targets(three)[0].shares == (0.05,) * 10 + (0.5, 0.0)


def test_percentages_and_counts_become_shares() -> None:
    percent = table({"woman": 89.9, "man": 10.1}, unit="percent").targets(PRESENTATION)[0]
    assert percent.shares == pytest.approx((0.899, 0.101))
    rounded = table({"light": 33.3, "medium": 33.3, "dark": 33.3}, unit="percent").targets(SKIN)[0]
    assert rounded.shares == pytest.approx((1 / 3,) * 3)
    assert table({"woman": 300, "man": 100}, unit="count").targets(PRESENTATION)[0].shares == (0.75, 0.25)


def test_the_origin_of_shares_goes_with_them() -> None:
    (target,) = table([0.5, 0.5], year=2000, population="everyone").targets(PRESENTATION)
    assert (target.source, target.year, target.population) == ("a survey", 2000, "everyone")
    assert target_json(target) == {
        "attribute": "presentation",
        "concept": "*",
        "shares": [0.5, 0.5],
        "source": "a survey",
        "year": 2000,
        "population": "everyone",
    }
    assert set(target_json(Uniform().targets(PRESENTATION)[0])) == {"attribute", "concept", "shares", "source"}


def test_a_row_that_says_base_leaves_its_concept_alone() -> None:
    general, nurse = Table(rows={"*": [0.5, 0.5], "nurse": "base"}, source="x", year=2000).targets(PRESENTATION)
    assert not general.leaves_alone
    assert nurse.leaves_alone
    assert (nurse.concept, nurse.shares, nurse.source, nurse.year) == ("nurse", (), "base", None)
    assert LeftAlone().targets(SKIN)[0].leaves_alone


def test_a_conditional_target_is_the_product_of_what_is_given_and_its_rows() -> None:
    given = Table(rows={"*": {"woman": 0.5, "man": 0.5}, "nurse": {"woman": 0.25, "man": 0.75}}, source="x")
    rows: dict[str, Any] = {
        "*": SKIN_GIVEN,
        "judge": {value: {"light": 1, "medium": 0, "dark": 0} for value in ("woman", "man")},
    }
    targets = Conditional(given=given, rows=rows, source="y", year=1999).targets(BOTH)
    shares = {target.concept: target.shares for target in targets}
    assert shares["*"] == pytest.approx((0.25, 0.15, 0.1, 0.4, 0.05, 0.05))
    assert shares["nurse"] == pytest.approx((0.125, 0.075, 0.05, 0.6, 0.075, 0.075))
    assert shares["judge"] == pytest.approx((0.5, 0, 0, 0.5, 0, 0))
    assert {(target.source, target.year) for target in targets} == {("y", 1999)}


def test_a_conditional_target_may_be_given_by_another_one() -> None:
    three = joint_attribute([PRESENTATION, SKIN, GLASSES])
    first = Conditional(given=EVEN, rows={"*": SKIN_GIVEN}, source="x")
    worn = {"worn": 0.1, "absent": 0.9}
    rows = {"*": {"woman": dict.fromkeys(SKIN.values, worn), "man": {tone: [0.2, 0.8] for tone in SKIN.values}}}
    (target,) = Conditional(given=first, rows=rows, source="y").targets(three)
    # By hand: 0.5 x 0.5 x 0.1, 0.5 x 0.5 x 0.9, ...; men last: 0.5 x 0.1 x 0.2 and 0.5 x 0.1 x 0.8.
    assert target.shares[:2] == pytest.approx((0.025, 0.225))
    assert target.shares[-2:] == pytest.approx((0.01, 0.04))
    assert sum(target.shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"*": [0.5, 0.5], "nurse": "base"}, {"*": SKIN_GIVEN}),
        ({"*": [0.5, 0.5]}, {"*": SKIN_GIVEN, "nurse": "base"}),
    ],
)
def test_a_conditional_target_leaves_alone_what_one_of_its_halves_leaves_alone(given: Any, rows: Any) -> None:
    targets = Conditional(given=Table(rows=given, source="x"), rows=rows, source="y").targets(BOTH)
    assert {target.concept: target.leaves_alone for target in targets} == {"*": False, "nurse": True}


def test_a_conditional_target_on_a_statistic_may_name_more_concepts_too() -> None:
    assert Conditional(given=table([0.5, 0.5], reference=True), rows={"*": SKIN_GIVEN}, source="x").reference
    assert not Conditional(given=EVEN, rows={"*": SKIN_GIVEN}, source="x").reference


def shares(**given: float) -> Callable[[], object]:
    return lambda: table(given).targets(PRESENTATION)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shares(woman=0.5, man=0.4), r"row '\*': shares must sum to 1, got 0.9 from woman 0.5, man 0.4"),
        (shares(woman=60, man=40), "shares must sum to 1, got 100 .*; these are percentages: set unit: percent"),
        (
            shares(woman=0.5, men=0.5),
            "target of presentation, row '\\*': unknown presentation 'men'; did you mean 'man'",
        ),
        (shares(woman=1), "target of presentation, row '\\*': no share for man; write 0 where none is wanted"),
        (lambda: table({"woman": 60, "man": 30}, unit="percent"), "percentages must sum to 100, got 90"),
        (lambda: table({"woman": 0, "man": 0}, unit="count"), r"nothing was counted .woman, man are all 0."),
        (lambda: table({"woman": -0.5, "man": 1.5}), "the share of woman must be a number >= 0, got -0.5"),
        (lambda: table({"woman": "half", "man": 0.5}), "the share of woman must be a number >= 0, got 'half'"),
        (lambda: table({"woman": True, "man": 0.5}), "the share of woman must be a number >= 0, got True"),
        (lambda: table({"woman": float("nan"), "man": 0.5}), "the share of woman must be a number >= 0, got nan"),
        (lambda: table("bsae"), "must be shares by value, a list of shares, or base, got 'bsae'"),
        (lambda: table([0.5, 0.5], rows={}), "rows is empty"),
        (lambda: table([0.5, 0.5], source=" "), "source is empty"),
        (lambda: table([0.2, 0.3, 0.5]).targets(PRESENTATION), "needs 2 shares, one for each of .'woman', 'man'."),
        (
            lambda: table({"woman": LIGHT_WOMEN, "man": {"light": 0.2, "medium": 0.2}}).targets(BOTH),
            r"target of presentation,skin, row '\*': no share for man, dark",
        ),
        (lambda: table({"woman": 0.5, "man": 0.5}).targets(BOTH), r"row '\*', woman: must be shares by skin"),
        (lambda: table({"woman": LIGHT_WOMEN, "man": DARK_MEN}).targets(PRESENTATION), "needs 2 shares"),
        (lambda: Conditional(given=EVEN, rows={"*": SKIN_GIVEN}, source="x").targets(SKIN), "two or more attributes"),
        (
            lambda: Conditional(given=EVEN, rows={"nurse": SKIN_GIVEN}, source="x").targets(BOTH),
            r"row '\*': no shares of skin given presentation",
        ),
        (
            lambda: Conditional(
                given=EVEN, rows={"*": {**SKIN_GIVEN, "man": {"light": 0.5, "medium": 0, "dark": 0}}}, source="x"
            ).targets(BOTH),
            r"row '\*', given man: shares must sum to 1, got 0.5",
        ),
    ],
)
def test_what_cannot_be_a_target_is_refused_with_its_place(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


CHOICES = sorted(
    path.stem for path in (conf_folder() / "target").glob("*.yaml") if "evenhand.evaluation.targets" in path.read_text()
)


@pytest.mark.parametrize("name", CHOICES)
def test_every_target_of_conf_fits_the_attribute_that_its_head_names(name: str) -> None:
    head = (conf_folder() / "target" / f"{name}.yaml").read_text().split("_target_")[0]
    named = [word.removeprefix("attribute=") for word in head.split() if word.startswith("attribute=")]
    config = compose_config("evaluate", [f"target={name}", *(f"attribute={word}" for word in named)])
    choice: TargetChoice = config.build("target")
    declared: Attribute = config.build("attribute")
    targets = choice.targets(declared)
    assert targets
    for target in targets:
        target.check(declared)


def test_the_census_table_holds_what_was_counted() -> None:
    """By hand: in jobs.json of vega-datasets, 3,505,260 of 3,908,701 nurses of 2000 are women."""
    choice = build(compose_config("build", ["target=us_census_2000"]).plain["target"])
    rows = {target.concept: target for target in choice.targets(PRESENTATION)}
    assert rows["nurse"].shares[0] == pytest.approx(0.89678, abs=1e-5)
    assert rows["nurse"].year == 2000
    assert rows["*"].leaves_alone
    assert len(rows) > 40


def test_shares_by_name_do_not_depend_on_the_order_of_the_values() -> None:
    """The trap that shares by name close: the same rows, the attribute's values in another order."""
    turned = attribute("presentation", "man", "woman")
    row = {"woman": 0.9, "man": 0.1}
    assert table(row).targets(PRESENTATION)[0].shares == (0.9, 0.1)
    assert table(row).targets(turned)[0].shares == (0.1, 0.9)
