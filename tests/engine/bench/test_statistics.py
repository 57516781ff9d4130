"""The statistics against NumPy and SciPy, and their promises by simulation with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.bench import statistics
from engine.bench.statistics import NO_DIFFERENCE, paired_ratio, quality_verdict, speed_verdict, unpaired_ratio

stats = pytest.importorskip("scipy.stats")
Noise = Callable[[np.random.Generator, int], NDArray[np.float64]]


def normal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Log times of a machine that only trembles."""
    return rng.normal(0, 0.03, n)


def spiky(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Log times of a machine where another program sometimes takes the core."""
    return rng.normal(0, 0.01, n) + rng.exponential(0.15, n) * (rng.random(n) < 0.15)


def skewed(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Log times with a long tail."""
    return np.log1p(0.05 * rng.lognormal(0, 1, n))


@pytest.mark.parametrize("seed", range(5))
def test_mean_deviation_median_and_percentiles_are_numpys(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(0, 2, 3 + 7 * seed)
    sample = values.tolist()
    assert statistics.mean(sample) == pytest.approx(values.mean(), rel=1e-12)
    assert statistics.deviation(sample) == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert statistics.median(sample) == pytest.approx(np.median(values), rel=1e-12)
    for percent in (0, 1, 50, 95, 99.9, 100):
        assert statistics.percentile(sample, percent) == pytest.approx(np.percentile(values, percent), rel=1e-12)


def test_nothing_has_no_mean_and_one_value_no_spread() -> None:
    assert math.isnan(statistics.mean([])) and math.isnan(statistics.median([]))
    assert statistics.deviation([3.0]) == 0.0


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 19, 50, 101, 999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_students_quantiles_are_scipys(freedom: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert statistics.t_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)


def test_a_paired_ratio_is_scipys_interval_of_the_log_ratios() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(1, 0.1, 7), rng.lognormal(0, 0.1, 7)
    found = paired_ratio(a.tolist(), b.tolist())
    interval = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    assert found.value == pytest.approx(stats.gmean(a / b), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-9)


def test_an_unpaired_ratio_is_welchs_with_its_degrees_of_freedom_rounded_down() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.lognormal(1, 0.1, 9), rng.lognormal(0, 0.3, 6)
    found = unpaired_ratio(a.tolist(), b.tolist())
    test = stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
    error = abs(np.log(a).mean() - np.log(b).mean()) / abs(test.statistic)
    half = stats.t.ppf(0.975, int(test.df)) * error
    assert math.log(found.high / found.low) / 2 == pytest.approx(half, rel=1e-9)


def test_one_pair_decides_nothing_and_impossible_pairs_are_refused() -> None:
    found = paired_ratio([2.0], [1.0])
    assert (found.value, found.low, found.high, found.decided) == (2.0, 0.0, math.inf, False)
    for values, base in (([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])):
        with pytest.raises(ValueError, match="pairs"):
            paired_ratio(values, base)


@pytest.mark.parametrize("noise", [normal, spiky, skewed])
@pytest.mark.parametrize("pairs", [5, 8, 20])
def test_the_interval_covers_the_truth_95_times_in_100(noise: Noise, pairs: int) -> None:
    rng, covered, trials = np.random.default_rng(3), 0, 2000
    for _ in range(trials):
        base, other = np.exp(noise(rng, pairs)), 1.3 * np.exp(noise(rng, pairs))
        found = paired_ratio(other.tolist(), base.tolist())
        covered += found.low <= 1.3 <= found.high
    assert covered / trials >= 0.935  # 0.95 less three standard errors of 2,000 trials


@pytest.mark.parametrize("noise", [normal, spiky, skewed])
@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_a_recipe_compared_with_itself_gets_no_winner_in_every_hundred(noise: Noise, pairs: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        verdicts = [speed_verdict(paired_ratio(np.exp(noise(rng, pairs)).tolist(), np.exp(noise(rng, pairs)).tolist()))
                    for _ in range(100)]
        assert verdicts.count(NO_DIFFERENCE) >= 95


def test_a_clear_difference_is_named_by_its_side() -> None:
    rng = np.random.default_rng(5)
    base, fast = np.exp(normal(rng, 5)), 1.4 * np.exp(normal(rng, 5))
    assert speed_verdict(paired_ratio(fast.tolist(), base.tolist())) == "faster"
    assert speed_verdict(paired_ratio(base.tolist(), fast.tolist())) == "slower"
    assert quality_verdict(paired_ratio(base.tolist(), fast.tolist())) == "better"
    assert quality_verdict(paired_ratio(fast.tolist(), base.tolist())) == "worse"


def test_equal_samples_have_a_ratio_of_exactly_one() -> None:
    found = paired_ratio([3.0, 4.0, 5.0], [3.0, 4.0, 5.0])
    assert (found.value, found.low, found.high, found.decided) == (1.0, 1.0, 1.0, False)
