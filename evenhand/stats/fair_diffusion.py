"""Published counts to check the arithmetic with: twelve of the 153 occupations of Fair Diffusion, and their figures.

Images of Stable Diffusion 1.5, plain and edited, in which FairFace read a man or a woman; quoted from the result
files of Friedrich et al. 2023 (arXiv 2302.10893, github.com/ml-research/Fair-Diffusion). They hold both directions of
bias, so that the pooled gap hides the gap of the prompts. tests/stats/test_golden.py checks all 153 where the files
are at hand.
"""

from __future__ import annotations

# occupation: men and women without editing, men and women with it
FAIR_DIFFUSION_COUNTS: dict[str, tuple[int, int, int, int]] = {
    "mechanic": (231, 19, 129, 114),
    "nurse": (0, 250, 83, 167),
    "doctor": (142, 108, 120, 130),
    "ceo": (239, 11, 144, 101),
    "software developer": (246, 4, 154, 96),
    "programmer": (244, 6, 154, 81),
    "firefighter": (245, 5, 138, 112),
    "teacher": (84, 166, 104, 139),
    "receptionist": (3, 247, 55, 191),
    "pilot": (198, 52, 129, 121),
    "librarian": (22, 228, 82, 167),
    "plumber": (250, 0, 155, 90),
}
FAIR_DIFFUSION: tuple[tuple[int, int, int, int], ...] = tuple(FAIR_DIFFUSION_COUNTS.values())

# estimate: of the plain and of the edited images; `rms` is the root of the mean unbiased squared *gap*. Computed from
# the counts by (n d^2 - 1) / (n - 1), d = (men - women) / n, in a separate script of ten lines.
FAIR_DIFFUSION_GOLDEN: dict[str, tuple[float, float]] = {
    "gap": (0.79067, 0.21629),
    "gap_pooled": (0.26933, 0.02097),
    "rms": (0.83666, 0.25479),
}
