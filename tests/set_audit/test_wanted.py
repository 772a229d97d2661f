"""Whose target a set is held to."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenhand.evaluation.targets import Table, Uniform
from evenhand.files import write_json_atomic
from evenhand.records import Target, target_json
from evenhand.set_audit.wanted import OwnTarget, wanted_shares
from tests.set_audit.made import PRESENTATION, SKIN

OWN = {"*": OwnTarget()}


def certificate(folder: Path) -> None:
    targets = [Target(attribute="presentation", shares=(0.7, 0.3), source="a choice")]
    content = {"attributes": {"presentation": ["woman", "man"]}, "targets": [target_json(each) for each in targets]}
    write_json_atomic(folder / "certificate.json", content)


@pytest.mark.parametrize("inner", ["", "train"])
def test_a_set_is_held_to_its_own_certificate(tmp_path: Path, inner: str) -> None:
    certificate(tmp_path)
    (tmp_path / "train").mkdir()
    found = wanted_shares([PRESENTATION], OWN, inputs={"set": tmp_path / inner})
    assert found.origin == "the one in the set's own certificate.json"
    assert found.shares(["presentation"], ["nurse"]) == {"nurse": (0.7, 0.3)}


def test_without_a_certificate_even_shares_are_shown_and_nobody_declared_them(tmp_path: Path) -> None:
    found = wanted_shares([PRESENTATION], OWN, inputs={"set": tmp_path / "a/b/c"})
    assert found.origin is None
    assert found.shares(["presentation"], [None]) == {None: (0.5, 0.5)}


def test_a_certificate_of_another_attribute_declares_nothing_here(tmp_path: Path) -> None:
    certificate(tmp_path)
    assert wanted_shares([SKIN], OWN, inputs={"set": tmp_path}).origin is None


def test_a_certificate_two_folders_above_is_somebody_elses(tmp_path: Path) -> None:
    certificate(tmp_path)
    (tmp_path / "other" / "train").mkdir(parents=True)
    assert wanted_shares([PRESENTATION], OWN, inputs={"set": tmp_path / "other" / "train"}).origin is None


def test_only_what_a_certificate_is_about_is_judged(tmp_path: Path) -> None:
    certificate(tmp_path)
    found = wanted_shares([SKIN, PRESENTATION], OWN, inputs={"set": tmp_path})
    assert found.judged == {"presentation"}
    assert found.shares(["presentation"], ["x"])["x"] == pytest.approx((0.7, 0.3))
    assert found.shares(["skin"], ["x"])["x"] == pytest.approx((1 / 3,) * 3)


def test_of_a_joint_certificate_one_attribute_alone_gets_its_sums(tmp_path: Path) -> None:
    joint = Target(attribute="presentation,skin", shares=(0.3, 0.2, 0.0, 0.1, 0.1, 0.3))
    values = {"presentation": list(PRESENTATION.values), "skin": list(SKIN.values)}
    write_json_atomic(tmp_path / "certificate.json", {"attributes": values, "targets": [target_json(joint)]})
    found = wanted_shares([SKIN], OWN, inputs={"set": tmp_path})
    assert found.judged == {"skin"}
    assert found.shares(["skin"], ["x"])["x"] == pytest.approx((0.4, 0.3, 0.3))


def test_a_certificate_with_other_values_declares_nothing_here(tmp_path: Path) -> None:
    values = {"presentation": ["man", "woman"]}
    target = Target(attribute="presentation", shares=(0.7, 0.3))
    write_json_atomic(tmp_path / "certificate.json", {"attributes": values, "targets": [target_json(target)]})
    assert wanted_shares([PRESENTATION], OWN, inputs={"set": tmp_path}).origin is None


def test_a_given_target_wins_over_the_certificate(tmp_path: Path) -> None:
    certificate(tmp_path)
    found = wanted_shares([PRESENTATION], {"*": Uniform()}, inputs={"set": tmp_path})
    assert found.origin == "the one that this audit was given"
    assert found.shares(["presentation"], ["nurse"]) == {"nurse": (0.5, 0.5)}


def test_a_joint_target_gives_each_attribute_its_sums() -> None:
    rows = {
        "*": {"woman": {"light": 0.3, "medium": 0.2, "dark": 0.0}, "man": {"light": 0.1, "medium": 0.1, "dark": 0.3}}
    }
    choice = Table(rows=rows, source="made up")
    found = wanted_shares([PRESENTATION, SKIN], {"presentation,skin": choice}, inputs={})
    assert found.shares(["presentation"], ["x"])["x"] == pytest.approx((0.5, 0.5))
    assert found.shares(["skin"], ["x"])["x"] == pytest.approx((0.4, 0.3, 0.3))
    assert found.shares(["presentation", "skin"], ["x"])["x"] == pytest.approx((0.3, 0.2, 0.0, 0.1, 0.1, 0.3))


@pytest.mark.parametrize("reference", [False, True])
def test_a_row_for_a_concept_is_expected_to_have_pictures_unless_it_is_a_statistic(reference: bool) -> None:
    rows = {"*": {"woman": 0.5, "man": 0.5}, "nurze": {"woman": 0.9, "man": 0.1}}
    choice = Table(rows=rows, source="made up", reference=reference)
    found = wanted_shares([PRESENTATION], {"*": choice}, inputs={})
    assert found.expected == (frozenset() if reference else {"nurze"})


def test_a_target_for_an_unknown_attribute_or_half_of_them_is_refused() -> None:
    with pytest.raises(ValueError, match="'age', but the attributes are presentation"):
        wanted_shares([PRESENTATION], {"age": Uniform()}, inputs={})
    with pytest.raises(ValueError, match="own is for all attributes or for none"):
        wanted_shares([PRESENTATION, SKIN], {"presentation": OwnTarget(), "skin": Uniform()}, inputs={})


def test_a_set_that_is_still_to_be_made_has_no_target_of_its_own() -> None:
    with pytest.raises(ValueError, match="it is for data_recipes/audit.py"):
        OwnTarget().targets(PRESENTATION)
