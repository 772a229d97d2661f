"""How every report writes a number, and what it calls each quantity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from evenhand.analysis import wording
from evenhand.analysis.suite_shares import SHIFT
from evenhand.records import Estimate

MINUS = "−"
NOTHING = "–"
NOT_ESTIMABLE = "not estimable"
SMALLEST_P = 0.001
# Estimates whose arm ``shift`` holds a quantity of its own, not a difference of two arms.
UNSIGNED = {"similarity", "similarity_yardstick", "cmmd", "kid"}


DIGITS, FINE, SIGNIFICANT, MOST_DIGITS = 2, 3, 2, 10


class Quantity(NamedTuple):
    """What a quantity is called in a table, and what it is, in a sentence; how many digits it has behind the point.

    ``digits`` is None for a quantity whose scale hangs on the scorer: two significant digits are printed.
    """

    title: str
    meaning: str
    digits: int | None = DIGITS


QUANTITIES: Mapping[str, Quantity] = {
    "share": Quantity("share of", "the part of images that show the value; each prompt counts the same"),
    "share_these_prompts": Quantity(
        "share, for these very prompts, of", "as the share, but its interval is for these prompts and not for others"
    ),
    "gap": Quantity("gap", "largest minus smallest share within a prompt, then the mean over prompts; it has a floor"),
    "worst_gap": Quantity("gap of the worst prompt", "the largest gap of a single prompt"),
    "gap_reduction": Quantity("gap, part that is gone", "the fall of the gap as a part of the base's gap"),
    "gap_pooled": Quantity(
        "gap, pooled (secondary)", "the gap of all images together: opposite biases cancel, so it can hide them"
    ),
    "rms": Quantity("distance to target, unbiased", "the root of the unbiased squared distance"),
    "distance_sq": Quantity(
        "squared distance to target, unbiased", "zero on average for a generator on target; it has no floor", FINE
    ),
    "tv": Quantity("distance to target (TV)", "half the sum of the absolute differences to the target; it has a floor"),
    "entropy": Quantity("entropy (1 is even)", "of the shares, divided by its largest value; it has a floor"),
    "hellinger": Quantity("Hellinger distance to target", "between the shares and the target"),
    "js": Quantity("Jensen-Shannon divergence to target", "between the shares and the target, in bits", FINE),
    "four_fifths": Quantity("four-fifths ratio", "smallest share divided by the largest"),
    "shen_bias": Quantity("bias as Shen et al. define it", "a published name, for comparison"),
    "deviation_ratio": Quantity("deviation ratio", "a published name, for comparison"),
    "fairness_discrepancy": Quantity("fairness discrepancy (FD)", "a published name, for comparison"),
    "heim_imbalance": Quantity("HEIM imbalance", "a published name, for comparison"),
    "changed": Quantity("same-seed pairs whose value changed", "as a part of the pairs read in both arms"),
    "toward": Quantity("same-seed pairs that moved toward the target", "as a part of the pairs read in both arms"),
    "away": Quantity("same-seed pairs that moved away from it", "as a part of the pairs read in both arms"),
    "phi": Quantity("correlation of same-seed values", "what of the base's value survives: pairing gains by it"),
    "shown": Quantity("shows what the prompt asks for", "the part of images in which the expected value is read"),
    "similarity": Quantity("same-seed similarity", "of the two arms' images; 1 when identical"),
    "similarity_yardstick": Quantity(
        "similarity of two base seeds", "what different images of a prompt have in common"
    ),
    "unread": Quantity("images without a reading", "as a part of all images"),
    "bounds": Quantity("share, whatever the unread images show, of", "from none to all of the unread images"),
    "subject_share": Quantity(
        "share among subjects of", "of all people read, those with the value; images are the draws"
    ),
    "presence": Quantity("images with at least one", "as a part of the images read"),
    "homogeneity": Quantity("images with one value only", "of those with two or more subjects"),
    "within_mix": Quantity("mix within images", "how different two people in one image are"),
    "between_mix": Quantity("mix between images", "how different two people of two images are"),
    "subjects": Quantity("subjects in an image", "the mean number of people read"),
    "image_text": Quantity("image-text score", "cosine of the image with its own prompt", FINE),
    "image_text_match": Quantity("image-text match", "own prompt minus other prompts: the unit of its guard", FINE),
    "image_text_composition": Quantity(
        "image-text score, part by composition",
        "what the scorer thinks of the values that became more or less frequent",
        FINE,
    ),
    "image_text_within": Quantity(
        "image-text score, part within values", "the change of images of the same value", FINE
    ),
    "diversity": Quantity("diversity", "how many different images: Vendi score at equal n; its change is relative"),
    "near_duplicates": Quantity(
        "near-duplicates", "pairs of images of one prompt that are as alike as hardly any in the base", FINE
    ),
    "copies": Quantity("copies of training images", "images nearer to a training image than the base's come", FINE),
    "training_similarity": Quantity("similarity to the nearest training image", "cosine of features", FINE),
    "cmmd": Quantity("CMMD", "distance of the two arms' features; zero on average when nothing changed", None),
    "kid": Quantity("KID", "distance of the two arms' features; zero on average when nothing changed", None),
}


def number(value: float | None, digits: int = DIGITS) -> str:
    """A number as every report prints it, with a minus that is as wide as a plus."""
    return wording.number(value, digits).replace("-", MINUS)


def signed(value: float | None, digits: int = DIGITS) -> str:
    """A change, with its sign."""
    return NOT_ESTIMABLE if value is None else wording.signed(value, digits)


def digits_of(name: str, values: Iterable[float | None]) -> int:
    """How many digits behind the point an estimate and its interval need.

    More than its quantity has where all of them would be printed as zero, and none is.
    """
    quantity = QUANTITIES.get(name.partition(":")[0])
    digits = DIGITS if quantity is None else quantity.digits
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    if largest == 0 or (digits is not None and float(f"{largest:.{digits}f}") > 0):
        return DIGITS if digits is None else digits
    return min(MOST_DIGITS, max(digits or DIGITS, SIGNIFICANT - 1 - math.floor(math.log10(largest))))


def quantity_text(name: str, value: float | None) -> str:
    """A quantity without an interval."""
    return number(value, digits_of(name, [value]))


def p_value(value: float | None) -> str:
    """A p value with three digits."""
    if value is None:
        return NOT_ESTIMABLE
    return f"below {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


def interval(low: float | None, high: float | None, *, change: bool = False, digits: int = DIGITS) -> str:
    """The two ends of an interval."""
    if low is None or high is None:
        return "no interval"
    show = signed if change else number
    return f"{show(low, digits)} to {show(high, digits)}"


def is_change(estimate: Estimate) -> bool:
    """Whether an estimate is a difference of two arms, so that its sign is its direction."""
    return estimate.arm == SHIFT and estimate.name.partition(":")[0] not in UNSIGNED


def cell(estimate: Estimate | None) -> str:
    """A value with its interval, as text."""
    if estimate is None:
        return NOTHING
    change = is_change(estimate)
    digits = digits_of(estimate.name, (estimate.value, estimate.low, estimate.high))
    ends = interval(estimate.low, estimate.high, change=change, digits=digits)
    if estimate.value is None:
        return NOT_ESTIMABLE if estimate.low is None else ends
    show = signed if change else number
    return f"{show(estimate.value, digits)} ({ends})"


def title(name: str) -> str:
    """What a table calls an estimate: ``share:woman`` is "share of woman"."""
    family, _, value = name.partition(":")
    known = QUANTITIES.get(family)
    words = known.title if known is not None else family.replace("_", " ")
    return words if not value else f"{words} {value}" if words.endswith((" of", " one")) else f"{words}, {value}"
