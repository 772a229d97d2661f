"""Published counts through our functions. Expected values were made from the counts in another script."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from evenhand.stats.distances import distance_sq, gap
from evenhand.stats.fair_diffusion import FAIR_DIFFUSION, FAIR_DIFFUSION_GOLDEN

EVEN = np.array([0.5, 0.5])
# The folder with the two result files of github.com/ml-research/Fair-Diffusion, which are not ours to copy.
FOLDER = os.environ.get("EVENHAND_FAIR_DIFFUSION")
ALL_153 = {"gap": (0.62287, 0.20967), "gap_pooled": (0.10346, 0.06535), "rms": (0.70017, 0.26007)}


def figures(counts_J2: np.ndarray) -> dict[str, float]:
    images = [np.repeat(np.eye(2), counts, axis=0) for counts in counts_J2]
    return {
        "gap": float(np.mean([gap(entry.mean(axis=0)) for entry in images])),
        "gap_pooled": float(gap(np.concatenate(images).mean(axis=0))),
        "rms": float(np.mean([2 * distance_sq(entry, EVEN) for entry in images])) ** 0.5,
    }


def assert_golden(counts_J4: np.ndarray, golden: dict[str, tuple[float, float]]) -> None:
    for arm, counts in enumerate((counts_J4[:, :2], counts_J4[:, 2:])):
        expected = {name: values[arm] for name, values in golden.items()}
        assert figures(counts) == pytest.approx(expected, abs=1e-5)


def test_twelve_occupations_of_fair_diffusion_give_their_figures() -> None:
    """Pooled, the bias of plain Stable Diffusion looks a third of what it is, and the edited one's a tenth."""
    assert_golden(np.array(FAIR_DIFFUSION), FAIR_DIFFUSION_GOLDEN)


def published_counts(path: Path) -> list[tuple[int, int]]:
    rows = re.findall(r"man: (\d+), woman: (\d+)", path.read_text())
    return [(int(men), int(women)) for men, women in rows]


@pytest.mark.skipif(FOLDER is None, reason="EVENHAND_FAIR_DIFFUSION does not name the folder with the published counts")
def test_all_occupations_of_fair_diffusion_give_their_figures() -> None:
    folder = Path(str(FOLDER))
    plain, edited = (published_counts(folder / f"results_fairface_{arm}_1-5.txt") for arm in ("generated", "edited"))
    assert len(plain) == 153
    assert_golden(np.concatenate([plain, edited], axis=1), ALL_153)
