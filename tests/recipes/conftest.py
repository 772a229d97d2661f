"""The folder of painted pictures that sets are collected from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import write_folder
from tests.recipes.collected_photos import rows_of


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", rows_of(90))
