from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evenhand.sources.columns import Columns
from evenhand.sources.parquet import ParquetFiles
from tests.pictures import noise, png
from tests.sources.sharing import check_sharing, pictures, reasons

COLUMNS = Columns(text="caption", concept="job", labels={"presentation": "shown"}, license=None)


def parquet(folder: Path, **changes: Any) -> ParquetFiles:
    given: dict[str, Any] = {
        "image_column": "image",
        "columns": COLUMNS,
        "concept": None,
        "license": "cc0-1.0",
        "depicts": "other",
        "consent": None,
    }
    return ParquetFiles(name="rows", folder=folder, **{**given, **changes})


def write(path: Path, cells: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = len(cells)
    table = {"image": cells, "caption": ["x"] * number, "job": ["nurse"] * number, "shown": ["a"] * number}
    pq.write_table(pa.table(table), path, row_group_size=2)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "b.parquet", [png(noise(number)) for number in range(5)])
    write(tmp_path / "sub" / "c.parquet", [{"bytes": png(noise(number)), "path": "x"} for number in range(5, 8)])
    return tmp_path


def test_rows_of_all_files_are_shared_whether_bytes_or_mappings(folder: Path) -> None:
    source = parquet(folder)
    source.check()
    check_sharing(source)
    found = pictures(source)
    assert [item.key for item in found][4:6] == ["b.parquet:000000004", "sub/c.parquet:000000000"]
    assert [item.content for item in found] == [png(noise(number)) for number in range(8)]
    assert found[0].labels == {"presentation": "a"}
    assert next(item.key for item in pictures(parquet(folder / "b.parquet"))) == "b.parquet:000000000"


def test_a_path_in_a_row_is_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(noise(0)))
    write(tmp_path / "a.parquet", [{"bytes": None, "path": str(secret)}, {"bytes": png(noise(1)), "path": str(secret)}])
    assert [item.content for item in pictures(parquet(tmp_path))] == [png(noise(1))]
    assert reasons(parquet(tmp_path)) == {"a.parquet:000000000": "no bytes of a picture in its row"}


def test_class_numbers_are_read_as_their_names(tmp_path: Path) -> None:
    """Files that `datasets` itself wrote, with a value for none."""
    names = datasets.ClassLabel(names=["woman", "man"])
    features = datasets.Features({"image": datasets.Image(), "shown": names, "number": datasets.Value("int64")})
    rows = {
        "image": [{"bytes": png(noise(number)), "path": None} for number in range(3)],
        "shown": [1, 0, -1],
        "number": [4, 5, 6],
    }
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    columns = Columns(text=None, concept="number", labels={"presentation": "shown"}, license=None)
    found = pictures(parquet(tmp_path, columns=columns))
    assert [dict(item.labels) for item in found] == [{"presentation": "man"}, {"presentation": "woman"}, {}]
    assert [item.concept for item in found] == ["4", "5", "6"]


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="no \\*.parquet in"):
        parquet(tmp_path / "gone").check()
    with pytest.raises(ValueError, match="no column 'picture'; it has image, caption, job, shown"):
        parquet(folder, image_column="picture").check()
    broken = tmp_path / "broken" / "a.parquet"
    broken.parent.mkdir()
    broken.write_bytes((folder / "b.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="a.parquet cannot be read as Parquet"):
        parquet(broken.parent).check()
    write(tmp_path / "empty" / "a.parquet", [])
    with pytest.raises(ValueError, match="holds no rows"):
        parquet(tmp_path / "empty").check()


def test_a_file_that_breaks_off_is_told_and_the_next_one_is_read(folder: Path) -> None:
    """Bytes are changed where the third row group lies; head and foot stay whole."""
    content = bytearray((folder / "b.parquet").read_bytes())
    start = pq.ParquetFile(folder / "b.parquet").metadata.row_group(0).column(0).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    (folder / "b.parquet").write_bytes(bytes(content))
    source = parquet(folder)
    source.check()
    found = reasons(source)
    assert list(found) == ["b.parquet:000000000"]
    assert "file cannot be read on from here" in found["b.parquet:000000000"]
    assert len(pictures(source)) == 3
