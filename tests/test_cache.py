"""Where the cache lies, and what stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenhand.cache import CACHE_VARIABLE, cache_folder, open_cache


def test_the_cache_lies_where_the_variable_says_else_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    assert not cache_folder().exists()
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "evenhand"


def test_an_opened_cache_says_how_to_clean_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "deep" / "here"))
    assert "rm -r base_arms" in (open_cache() / "README").read_text()
    assert open_cache() == tmp_path / "deep" / "here"


def test_a_cache_that_cannot_be_written_to_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="file/cache cannot be written to.*EVENHAND_CACHE.*cache=false"):
        open_cache()
