"""Audits of a simulated reader with known errors; single formulas against statsmodels and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import StratifiedTable

from evenhand.stats.audits import SUSPICIOUS, _fisher_midp, differential_error, prediction_powered
from evenhand.stats.intervals import Interval, mean_interval
from tests.stats.bands import assert_covers, band, coverage

LEVEL = 0.95


def read(rng: np.random.Generator, truth: np.ndarray, specificity: float, sensitivity: float = 0.9) -> np.ndarray:
    right = rng.random(truth.shape) < np.where(truth, sensitivity, specificity)
    return np.where(right, truth, ~truth)


def audited(
    rng: np.random.Generator, shares: tuple[float, float], specificities: tuple[float, float], labelled: int, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of pairs: by the human and the reader on the labelled ones, by the reader on the others."""
    truth = [rng.random(n) < share for share in shares]
    found = [read(rng, one, specificity) for one, specificity in zip(truth, specificities, strict=True)]
    human, reader = (arms[1].astype(float) - arms[0] for arms in (truth, found))
    return human[:labelled], reader[:labelled], reader[labelled:]


@pytest.mark.parametrize(
    ("shares", "specificities"),
    [((0.06, 0.41), (0.97, 0.97)), ((0.3, 0.3), (0.97, 0.88)), ((0.06, 0.41), (0.97, 0.88))],
)
def test_an_audit_covers_the_true_shift_however_the_reader_errs(
    shares: tuple[float, float], specificities: tuple[float, float]
) -> None:
    rng = np.random.default_rng(1)
    truth = shares[1] - shares[0]
    assert_covers(lambda: (prediction_powered(*audited(rng, shares, specificities, 100, 640), level=LEVEL), truth), 400)


def test_without_an_audit_a_reader_that_errs_more_in_one_arm_invents_a_shift() -> None:
    """Control: no true shift, specificity 0.97 and 0.88."""
    rng = np.random.default_rng(2)

    def run() -> tuple[Interval, float]:
        _, _, reader = audited(rng, (0.3, 0.3), (0.97, 0.88), 0, 640)
        return mean_interval(reader, [str(row) for row in range(640)], level=LEVEL), 0.0

    assert coverage(run, 100) < 0.5


def test_the_reader_makes_the_audit_narrower_and_a_useless_one_does_no_harm() -> None:
    rng = np.random.default_rng(3)
    human, reader, rest = audited(rng, (0.2, 0.5), (0.97, 0.97), 100, 1000)
    alone = mean_interval(human, [str(row) for row in range(100)], level=LEVEL)
    helped = prediction_powered(human, reader, rest, level=LEVEL)
    useless = prediction_powered(human, rng.permutation(reader), rest, level=LEVEL)
    assert width(helped) < 0.85 * width(alone)
    assert width(useless) < 1.1 * width(alone)
    unread = prediction_powered(human, reader, np.zeros(0), level=LEVEL)
    assert (unread.value, unread.low, unread.high) == pytest.approx((alone.value, alone.low, alone.high))


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_prompts_are_the_unit_when_they_are_given() -> None:
    """Twenty prompts whose shifts differ: by prompt it covers, by pair it does not."""
    rng = np.random.default_rng(4)
    names = np.repeat([f"p{prompt}" for prompt in range(20)], 16)

    def run(by_prompt: bool) -> tuple[Interval, float]:
        shifts = np.repeat(rng.uniform(-0.5, 0.5, 20), 16)
        truth = [rng.random(320) < 0.5, rng.random(320) < 0.5 + shifts]
        found = [read(rng, one, 0.95) for one in truth]
        human, reader = (arms[1].astype(float) - arms[0] for arms in (truth, found))
        order = rng.permutation(320)
        some, others = order[:100], order[100:]
        clusters = {"clusters_L": names[some].tolist(), "clusters_N": names[others].tolist()} if by_prompt else {}
        return prediction_powered(human[some], reader[some], reader[others], level=LEVEL, **clusters), 0.0

    assert_covers(lambda: run(True), 300)
    assert coverage(lambda: run(False), 300) < 0.92


def test_clustered_variance_is_that_of_a_clustered_regression() -> None:
    """With no unlabelled pairs it is a mean with errors clustered by prompt."""
    rng = np.random.default_rng(5)
    human = rng.normal(0, 0.3, 40) + np.repeat(rng.normal(0, 0.3, 8), 5)
    names = np.repeat(np.arange(8), 5)
    fit = OLS(human, np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": names, "use_correction": False})
    labels = [str(name) for name in names]
    found = prediction_powered(human, human, np.zeros(0), level=LEVEL, clusters_L=labels, clusters_N=[])
    half = stats.t.ppf(0.975, 7) * fit.bse[0] * (8 / 7) ** 0.5
    assert width(found) == pytest.approx(2 * half)


def test_few_labels_or_no_spread_are_not_certain() -> None:
    assert prediction_powered(np.zeros(1), np.zeros(1), np.zeros(9), level=LEVEL).value is None
    still = prediction_powered(np.zeros(50), np.zeros(50), np.zeros(500), level=LEVEL)
    assert still.value == 0
    assert width(still) > 0.05
    one = prediction_powered(np.zeros(5), np.zeros(5), np.zeros(0), level=LEVEL, clusters_L=["a"] * 5, clusters_N=[])
    assert one.low is None


def labels(
    rng: np.random.Generator, share: float, arms: list[tuple[float, float]]
) -> tuple[list[str], list[str], list[str]]:
    """100 labelled images in each arm, and what a reader of these (sensitivity, specificity) says."""
    truth = [rng.random(100) < share for _ in arms]
    found = [
        read(rng, one, specificity, sensitivity) for one, (sensitivity, specificity) in zip(truth, arms, strict=True)
    ]
    names = ["base"] * 100 + ["adapted"] * 100
    return [str(x) for x in np.concatenate(truth)], [str(x) for x in np.concatenate(found)], names


def test_errors_that_differ_between_arms_are_noticed() -> None:
    """Specificity 0.97 and 0.88 in four of five audits of 100 pairs; a reader that leans both ways, nearly always."""
    rng = np.random.default_rng(6)
    worse = [differential_error(*labels(rng, 0.05, [(0.95, 0.97), (0.95, 0.88)])).suspicious for _ in range(300)]
    leaning = [differential_error(*labels(rng, 0.5, [(0.85, 0.97), (0.97, 0.85)])).suspicious for _ in range(100)]
    assert np.mean(worse) > 0.7
    assert np.mean(leaning) > 0.75


def test_errors_alike_in_both_arms_are_noticed_at_the_level_only() -> None:
    rng = np.random.default_rng(7)
    for share in (0.05, 0.5):
        p = np.array([differential_error(*labels(rng, share, [(0.9, 0.9), (0.9, 0.9)])).p for _ in range(300)])
        assert np.mean(p < SUSPICIOUS) <= band(SUSPICIOUS, 300)[1]


def test_p_value_of_errors_is_mantel_and_haenszels_by_statsmodels() -> None:
    truth, found, names = labels(np.random.default_rng(8), 0.4, [(0.9, 0.95), (0.85, 0.8)])
    wrong, second = np.array(truth) != np.array(found), np.array(names) == "base"
    tables = []
    for value in ("True", "False"):
        rows = np.array(truth) == value
        tables.append([[np.sum(rows & a & w) for w in (wrong, ~wrong)] for a in (second, ~second)])
    expected = StratifiedTable([np.array(table) for table in tables]).test_null_odds().pvalue
    assert f"Mantel-Haenszel p {expected:.3f}" in differential_error(truth, found, names).how


def test_fishers_mid_p_is_scipys_less_half_of_the_outcomes_as_likely() -> None:
    expected = stats.fisher_exact([[2, 10], [9, 8]]).pvalue
    seen = stats.hypergeom.pmf(2, 29, 11, 12)
    assert _fisher_midp(2, 12, 11, 29) == pytest.approx(expected - 0.5 * seen)


def test_rates_are_given_by_true_value_and_one_arm_tells_nothing() -> None:
    truth, found = ["a", "a", "b", "a", "a", "b"], ["a", "b", "b", "b", "b", "b"]
    result = differential_error(truth, found, ["one"] * 3 + ["two"] * 3)
    assert result.by_value["a"][:2] == (0.5, 1.0)
    assert result.by_value["b"][:2] == (0.0, 0.0)
    assert differential_error(truth, found, ["one"] * 6).p is None
    assert differential_error([], [], []).p is None
    assert differential_error(["a", "a"], ["a", "a"], ["one", "two"]).p == pytest.approx(1, abs=0.01)
