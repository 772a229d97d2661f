from __future__ import annotations

import pytest

from evenhand.hygiene.people import (
    READERS_LIMITS,
    check_columns,
    check_consent,
    check_explicit,
    check_reading,
    people_record,
    shown_key,
)

CONSENT = "model releases, see consent.pdf"


def test_pictures_of_people_need_a_consent_and_others_do_not() -> None:
    for consent in (None, "", "  "):
        with pytest.raises(ValueError, match="source street depicts people but names no consent.*source.consent"):
            check_consent("people", consent, source="street")
    check_consent("people", CONSENT, source="street")
    check_consent("synthetic", None, source="street")
    check_consent("other", None, source="street")


def test_a_source_says_what_it_depicts() -> None:
    with pytest.raises(ValueError, match="depicts must be one of synthetic, people, other, got 'faces'"):
        check_consent("faces", CONSENT, source="street")


@pytest.mark.parametrize("purpose", ["label", "choose"])
def test_readers_may_only_measure_a_set_of_real_people(purpose: str) -> None:
    check_reading("people", "measure", source="street")
    check_reading("synthetic", purpose, source="street")
    check_reading("other", purpose, source="street")
    with pytest.raises(ValueError, match="street depicts people.*only measure.*source.columns.labels"):
        check_reading("people", purpose, source="street")


@pytest.mark.parametrize("column", ["name", "Full Name", "person_id", "face-id", "IDENTITY", "email"])
def test_no_column_may_say_who_somebody_is(column: str) -> None:
    with pytest.raises(ValueError, match=f"its column '{column}' says who they are"):
        check_columns("people", ["text", column], source="street")
    check_columns("synthetic", ["text", column], source="street")


def test_other_columns_may_be_used() -> None:
    check_columns("people", ["text", "occupation", "file_name", "license", "brand_name_visible"], source="street")


def test_the_record_says_what_was_done() -> None:
    record = people_record("people", CONSENT)
    assert (record["depicts"], record["consent"], record["readers_limits"]) == ("people", CONSENT, READERS_LIMITS)
    assert "real people" in (record["note"] or "")
    assert "No picture shows a real person" in (people_record("synthetic", None)["note"] or "")


def test_captions_do_not_name_what_is_known_of_real_people() -> None:
    check_explicit("synthetic", source="town")
    check_explicit("other", source="town")
    with pytest.raises(ValueError, match="street depicts people.*set recipe.preserve.explicit=false"):
        check_explicit("people", source="street")


def test_file_names_of_real_people_are_not_published() -> None:
    assert shown_key("synthetic", "jane_doe/1.png") == shown_key("other", "jane_doe/1.png") == "jane_doe/1.png"
    hidden = shown_key("people", "jane_doe/1.png")
    assert "jane" not in hidden
    assert hidden != shown_key("people", "jane_doe/2.png")
    assert shown_key("people", "\ud800.png")
