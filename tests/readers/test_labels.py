"""Labels in a CSV file as readings; every file is written here by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenhand.readers.labels import AuditKey, read_labels
from evenhand.records import Reading

ATTRIBUTES = {"presentation": ("woman", "man")}
KEY = AuditKey(
    sheet="abc",
    attribute="presentation",
    values=("woman", "man"),
    pictures={"1": ("nurse", 7, "adapted"), "2": ("nurse", 7, "base")},
)
OPEN = "prompt_id,seed,arm,subject,attribute,value\n"


def labels(tmp_path: Path, text: str) -> list[Reading]:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path, reader="ada", attributes=ATTRIBUTES, keys=[KEY])


def test_a_table_with_prompts_seeds_and_arms_is_readings(tmp_path: Path) -> None:
    text = (
        OPEN
        + 'nurse,7,base,0,presentation,woman\nnurse,7,base,1,presentation,man\n"ceo, old",8,adapted,,presentation,man\n'
    )
    readings = labels(tmp_path, text)
    assert [(each.prompt_id, each.seed, each.arm, each.subject, each.value) for each in readings] == [
        ("nurse", 7, "base", 0, "woman"),
        ("nurse", 7, "base", 1, "man"),
        ("ceo, old", 8, "adapted", 0, "man"),
    ]
    assert {(each.reader, each.attribute, each.probs, each.unread) for each in readings} == {
        ("ada", "presentation", None, None)
    }


def test_pictures_of_a_sheet_are_named_by_its_key(tmp_path: Path) -> None:
    """As a spreadsheet saves it: with a byte order mark, and lines that end in CR LF."""
    text = '\ufeffsheet,picture,attribute,value\r\n"abc","2","presentation","man"\r\nabc,1,presentation,woman\r\n'
    assert [(each.prompt_id, each.seed, each.arm, each.value) for each in labels(tmp_path, text)] == [
        ("nurse", 7, "base", "man"),
        ("nurse", 7, "adapted", "woman"),
    ]


def test_cannot_tell_and_nobody_are_readings_without_a_value(tmp_path: Path) -> None:
    rows = "nurse,7,base,0,presentation,cannot tell\nnurse,7,adapted,0,presentation,nobody\n"
    readings = labels(tmp_path, OPEN + rows)
    assert [(each.value, each.unread) for each in readings] == [
        (None, "cannot tell (by eye)"),
        (None, "nobody there (by eye)"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt_id,seed\n", "needs the columns prompt_id, seed, arm, attribute, value"),
        ("", "got none"),
        (OPEN, "no labels in it"),
        (OPEN + "nurse,7,base,0,presentation,lady\n", "line 2: unknown value 'lady'; choose one of woman, man, cannot"),
        (OPEN + "nurse,7,base,0,skin,light\n", "line 2: unknown attribute 'skin'; there are presentation"),
        (OPEN + "nurse,seven,base,0,presentation,man\n", "line 2: seed and subject must be whole numbers"),
        (OPEN + 2 * "nurse,7,base,0,presentation,man\n", "line 3: the same picture, .* stand in line 2"),
        (
            "sheet,picture,attribute,value\nxyz,1,presentation,man\n",
            "sheet 'xyz' is not of this run; its sheets are abc",
        ),
        ("sheet,picture,attribute,value\nabc,3,presentation,man\n", "sheet abc has no picture '3'"),
    ],
)
def test_a_line_that_is_not_right_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels not found: .*none.csv"):
        read_labels(tmp_path / "none.csv", reader="ada", attributes=ATTRIBUTES, keys=[])
