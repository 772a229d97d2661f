from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenhand.hygiene.images import Refused
from evenhand.hygiene.paths import inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set with a secret beside it."""
    (tmp_path / "secret.png").write_text("secret")
    (tmp_path / "set2").mkdir()
    (tmp_path / "set2" / "a.png").write_text("of another set whose name begins alike")
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_text("a")
    (folder / "deep" / "b é.png").write_text("b")
    (folder / "..c.png").write_text("two dots are no way out by themselves")
    return folder


@pytest.mark.parametrize("name", ["a.png", "deep/b é.png", "./a.png", "deep//b é.png", "..c.png"])
def test_a_file_of_the_set_is_found(folder: Path, name: str) -> None:
    assert inside(folder, name) == (folder / name).resolve()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "no file name"),
        ("", "no file name"),
        (7, "file name is no text (7)"),
        ("../secret.png", "file name leaves the folder (..)"),
        ("deep/../../secret.png", "file name leaves the folder (..)"),
        ("deep/../a.png", "file name leaves the folder (..)"),
        ("..", "file name leaves the folder (..)"),
        ("/etc/passwd", "absolute file name"),
        ("//host/share/a.png", "absolute file name"),
        ("C:/a.png", "absolute file name"),
        ("file:///etc/passwd", "absolute file name"),
        ("https://example.org/a.png", "absolute file name"),
        ("deep\\b.png", "backslash in the file name"),
        ("..\\secret.png", "backslash in the file name"),
        ("a.png\0.txt", "control character in the file name"),
        ("a\n.png", "control character in the file name"),
        ("a\ud800.png", "control character in the file name"),
        ("none.png", "no such file"),
        ("a.png/b.png", "unreadable file name (Not a directory)"),
        ("deep", "not a file"),
        (".", "not a file"),
        ("~/a.png", "no such file"),
        ("x" * 5000, "unreadable file name (File name too long)"),
    ],
)
def test_what_names_no_file_of_the_set_is_refused(folder: Path, name: object, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        inside(folder, name)
    assert caught.value.reason == reason


def test_a_link_may_stay_in_the_set_and_not_leave_it(folder: Path) -> None:
    (folder / "same.png").symlink_to("a.png")
    (folder / "out.png").symlink_to("../secret.png")
    (folder / "away").symlink_to(folder.parent / "set2")
    (folder / "loop.png").symlink_to("loop.png")
    assert inside(folder, "same.png") == (folder / "a.png").resolve()
    for name in ("out.png", "away/a.png"):
        with pytest.raises(Refused, match="link leaves the folder"):
            inside(folder, name)
    with pytest.raises(Refused, match="unreadable file name"):
        inside(folder, "loop.png")


def test_a_set_may_itself_be_reached_through_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    assert inside(folder.parent / "link", "a.png") == (folder / "a.png").resolve()


def test_a_pipe_is_no_file(folder: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(Refused, match="not a file"):
        inside(folder, "pipe.png")
