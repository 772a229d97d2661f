from __future__ import annotations

import pytest

from evenhand.sources.columns import Columns, check_use

COLUMNS = Columns(
    text="caption",
    concept="job",
    labels={"presentation": "gender", "season": "labels.season"},
    license="rights",
    values={"presentation": {"0": "woman", "1": "man"}, "concept": {"RN": "nurse"}},
)
ROW = {"caption": "x", "job": "RN", "gender": 0, "labels": {"season": "winter"}, "rights": "cc0-1.0"}


def test_a_rows_words_become_ours() -> None:
    item = COLUMNS.item(ROW, key="a", content=b"x", concept=None, name="s")
    assert (item.text, item.concept, item.license, item.source) == ("x", "nurse", "cc0-1.0", "s")
    assert item.labels == {"presentation": "woman", "season": "winter"}


def test_a_value_that_nobody_translates_stays_and_a_missing_one_is_no_label() -> None:
    row = {**ROW, "gender": 7, "labels": None, "job": "", "caption": ["first", "second"], "rights": None}
    item = COLUMNS.item(row, key="a", content=b"x", concept=None, name="s")
    assert item.labels == {"presentation": "7"}
    assert (item.text, item.concept, item.license) == ("first", None, None)


def test_numbers_as_keys_in_yaml_are_compared_as_text() -> None:
    columns = Columns(text=None, concept=None, labels={"a": "b"}, license=None, values={"a": {0: "no", True: "yes"}})  # type: ignore[dict-item]  # as YAML gives it
    labels = [
        columns.item({"b": value}, key="", content=b"x", concept=None, name="").labels for value in (0, "0", True)
    ]
    assert labels == [{"a": "no"}, {"a": "no"}, {"a": "yes"}]


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    COLUMNS.check(ROW, where="x.csv", also=["caption"])
    with pytest.raises(ValueError, match="x.csv has no column 'image'; it has caption, job, gender, labels, rights"):
        COLUMNS.check(ROW, where="x.csv", also=["image"])


def test_values_of_nothing_that_is_read_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing is read for 'skin'; it may name concept, presentation"):
        Columns(text=None, concept=None, labels={"presentation": "g"}, license=None, values={"skin": {"1": "light"}})


def test_two_places_may_not_both_say_the_concept() -> None:
    with pytest.raises(ValueError, match="columns.concept=job and concept=nurse both say"):
        check_use(COLUMNS, "nurse", name="s", depicts="other")
    check_use(COLUMNS, None, name="s", depicts="other")


def test_a_column_of_names_is_refused_of_people_only() -> None:
    columns = Columns(text=None, concept=None, labels={"presentation": "Person_Name"}, license=None)
    check_use(columns, None, name="s", depicts="synthetic")
    with pytest.raises(ValueError, match="'Person_Name' says who they are"):
        check_use(columns, None, name="s", depicts="people")
