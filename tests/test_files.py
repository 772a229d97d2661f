"""Files survive a kill: what is there is whole, and a torn last line is neither read nor built upon."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from evenhand.files import (
    append_jsonl,
    atomic_path,
    json_line,
    read_json,
    read_jsonl,
    sha256_file,
    sha256_json,
    sha256_path,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from evenhand.records import Caption


def test_records_paths_and_mappings_become_plain_json() -> None:
    caption = Caption(text="a nurse", concept="nurse", labels=MappingProxyType({"skin": "dark"}), template="t")
    assert json.loads(json_line({"caption": caption, "path": Path("a/b.png")})) == {
        "caption": {"text": "a nurse", "concept": "nurse", "labels": {"skin": "dark"}, "template": "t"},
        "path": "a/b.png",
    }


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_line({"loss": float("nan")})


def test_a_value_that_json_lacks_is_named() -> None:
    with pytest.raises(TypeError, match="cannot write set"):
        json_line({"names": {"a"}})


def test_hashes_are_sha256(tmp_path: Path) -> None:
    """Against hashlib on the bytes, with the canonical JSON written out by hand."""
    file = tmp_path / "a.bin"
    file.write_bytes(b"x" * 3_000_000)
    assert sha256_file(file) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert sha256_json({"b": [1, 2], "a": "é"}) == hashlib.sha256('{"a":"é","b":[1,2]}'.encode()).hexdigest()


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json([1, 2]) != sha256_json([2, 1])


def test_a_folders_hash_sees_content_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_text_atomic(folder / "train" / "a.txt", "one")
    write_text_atomic(folder / "b.txt", "two")
    first = sha256_path(folder)
    assert sha256_path(folder) == first
    write_text_atomic(folder / "b.txt", "three")
    assert sha256_path(folder) != first
    write_text_atomic(folder / "b.txt", "two")
    assert sha256_path(folder) == first
    (folder / "b.txt").rename(folder / "c.txt")
    assert sha256_path(folder) != first


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input not found: .*nowhere"):
        sha256_path(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    """Image and weight writers choose their format by it."""
    with atomic_path(tmp_path / "new" / "a.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"png")
    assert (tmp_path / "new" / "a.png").read_bytes() == b"png"


def test_what_is_wrong_with_a_json_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file not found: .*a.json"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, [{"n": 1}, {"n": 2}])
    append_jsonl(path, [])
    append_jsonl(path, [{"n": 3, "text": "a\nb"}])
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}, {"n": 3, "text": "a\nb"}]
    write_jsonl_atomic(path, [{"n": 9}])
    assert read_jsonl(path) == [{"n": 9}]


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_last_line_cut_anywhere_is_not_read_and_not_built_upon(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    line = json_line({"n": 2, "s": {"a": 1}}).encode()
    whole = cut >= len(line)
    path.write_bytes(b'{"n": 1}\n' + line[:cut])
    expected = [{"n": 1}, *([json.loads(line)] if whole else [])]
    assert read_jsonl(path) == expected
    append_jsonl(path, [{"n": 3}])
    assert read_jsonl(path) == [*expected, {"n": 3}]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl line 2 is not a JSON object"):
        read_jsonl(path)


def test_a_file_from_another_tool_may_lack_the_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2}')
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]


def test_rows_written_before_a_kill_stay(tmp_path: Path) -> None:
    """A writer is killed with SIGKILL at an arbitrary moment; a second one goes on where it stopped."""
    path = tmp_path / "rows.jsonl"
    code = (
        "import sys; from pathlib import Path; from evenhand.files import append_jsonl, read_jsonl\n"
        "path = Path(sys.argv[1]); n = len(read_jsonl(path))\n"
        "while n < int(sys.argv[2]):\n    append_jsonl(path, [{'n': n, 'text': 'x' * 5000}]); n += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path), "1000000"])
    while not path.exists() or path.stat().st_size < 50_000:
        time.sleep(0.005)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    count = len(read_jsonl(path))
    subprocess.run([sys.executable, "-c", code, str(path), str(count + 5)], check=True)
    assert [row["n"] for row in read_jsonl(path)] == list(range(count + 5))
