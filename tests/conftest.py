"""Fixtures that many tests share: tiny pipeline folders and bases of the real classes, and a tiny curated set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from evenhand.bases.sd import LoadedStableDiffusion
    from evenhand.bases.sdxl import LoadedStableDiffusionXL


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
    import torch

    from evenhand.bases.sdxl import StableDiffusionXL

    choice = StableDiffusionXL(name="tiny_sdxl", model=str(tiny_sdxl_folder), revision=None, variant=None)
    return choice.load(device=torch.device("cpu"), dtype=torch.float32)
