"""What holds for every test: no network, no accelerator unless asked for, few threads; and fixtures that many share.

The fixtures are tiny pipeline folders and bases of the real classes, and a tiny curated set.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from evenhand.bases.sd import LoadedStableDiffusion
    from evenhand.bases.sdxl import LoadedStableDiffusionXL

# Before any test module imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test reads or fills the cache of the person who runs it; programs that tests start inherit this.
os.environ["EVENHAND_CACHE"] = tempfile.mkdtemp(prefix="evenhand-cache-")

LOCAL = ("127.0.0.1", "::1", "localhost")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an accelerator where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a test that reaches for another machine fail; a connection to this one is nobody's business."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and address[0] not in LOCAL:
            raise ConnectionRefusedError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]  # whatever the caller gave

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionPipeline folder that predicts v."""
    from tests.tiny import tiny_pipeline

    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def tiny_epsilon_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionPipeline folder that predicts noise, with other weights."""
    from tests.tiny import tiny_pipeline

    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "sd-epsilon", prediction_type="epsilon", seed=1)


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionXLPipeline folder."""
    from tests.tiny import tiny_sdxl_pipeline

    return tiny_sdxl_pipeline(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def tiny_set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated set of coloured squares."""
    from tests.tiny_set import tiny_set

    return tiny_set(tmp_path_factory.mktemp("tiny") / "set")


@pytest.fixture
def sd(tiny_folder: Path) -> LoadedStableDiffusion:
    """The v-predicting tiny base, loaded anew."""
    from tests.tiny import load_sd

    return load_sd(tiny_folder)


@pytest.fixture
def sd_epsilon(tiny_epsilon_folder: Path) -> LoadedStableDiffusion:
    """The noise-predicting tiny base, loaded anew."""
    from tests.tiny import load_sd

    return load_sd(tiny_epsilon_folder)


@pytest.fixture
def sdxl(tiny_sdxl_folder: Path) -> LoadedStableDiffusionXL:
    """The tiny SDXL base, loaded anew."""
    from tests.tiny import load_sdxl

    return load_sdxl(tiny_sdxl_folder)
