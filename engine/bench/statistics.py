"""What a handful of timings bears: spread, percentiles, ratios of pairs with an interval, and a verdict.

Ratios are judged on their logarithms, where a run twice as fast and one half as fast weigh the same. The interval is
Student's t on the log ratios of the pairs, not a bootstrap: with five pairs the percentile bootstrap covers the truth
in 81 to 84 of 100 trials instead of 95 and the studentized one in 94 to 96, falling to 87 with twenty pairs and
preemptions, while t covers in 95 to 99 throughout (simulated with normal, spiky and skewed noise; docs/measuring.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no difference measured"
BETTER, WORSE = "better", "worse"
CONFIDENCE = 0.95
# A winner is named at 99 %: of a hundred comparisons of a recipe with itself, about one then names one.
VERDICT_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % interval. decided: whether the 99 % interval leaves 1 out. pairs: how many went in."""

    value: float
    low: float
    high: float
    decided: bool
    pairs: int


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 of fewer than two."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of 100 lie, interpolated as NumPy does; NaN of nothing."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), percent)) if len(values) else math.nan


def median(values: Sequence[float]) -> float:
    """The middle value; NaN of nothing."""
    return percentile(values, 50.0)


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Geometric mean of values[i] / base[i] and its interval. Raises ValueError for unequal or non-positive samples.

    One pair has a ratio and no interval: it is 0 to infinity, and nothing is decided.
    """
    if len(values) != len(base) or not values or min(*values, *base) <= 0:
        raise ValueError("pairs of positive numbers are needed")
    logs = [math.log(a / b) for a, b in zip(values, base, strict=True)]
    return _ratio(mean(logs), deviation(logs) / math.sqrt(len(logs)), len(logs) - 1, len(logs))


def unpaired_ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Ratio of geometric means of two runs made apart, with Welch's interval. Raises ValueError as paired_ratio does.

    It knows nothing of what differed between the two runs besides the recipe: the machine's mood is in it.
    """
    if not values or not base or min(*values, *base) <= 0:
        raise ValueError("two samples of positive numbers are needed")
    a, b = [math.log(v) for v in values], [math.log(v) for v in base]
    if len(a) < 2 or len(b) < 2:
        return _ratio(mean(a) - mean(b), 0.0, 0, min(len(a), len(b)))
    variance_a, variance_b = deviation(a) ** 2 / len(a), deviation(b) ** 2 / len(b)
    spread = variance_a + variance_b
    freedom = (spread ** 2 / (variance_a ** 2 / (len(a) - 1) + variance_b ** 2 / (len(b) - 1))) if spread else 1.0
    return _ratio(mean(a) - mean(b), math.sqrt(spread), max(1, int(freedom)), min(len(a), len(b)))


def normal_ratio(log_mean: float, log_error: float, count: int) -> Ratio:
    """exp(log_mean) with the interval of its standard error, for means of many: a ratio of perplexities."""
    return _ratio(log_mean, log_error, max(1, count - 1), count)


def _ratio(log_mean: float, log_error: float, freedom: int, pairs: int) -> Ratio:
    if freedom < 1:
        return Ratio(math.exp(log_mean), 0.0, math.inf, False, pairs)
    half, strict = (t_quantile(c, freedom) * log_error for c in (CONFIDENCE, VERDICT_CONFIDENCE))
    return Ratio(_exp(log_mean), _exp(log_mean - half), _exp(log_mean + half), abs(log_mean) > strict, pairs)


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))


def speed_verdict(ratio: Ratio) -> str:
    """Of a ratio of tokens/s: "faster", "slower" or "no difference measured"."""
    if not ratio.decided:
        return NO_DIFFERENCE
    return FASTER if ratio.value > 1 else SLOWER


def quality_verdict(ratio: Ratio) -> str:
    """Of a ratio of perplexities: "better", "worse" or "no difference measured"."""
    if not ratio.decided:
        return NO_DIFFERENCE
    return BETTER if ratio.value < 1 else WORSE


@functools.cache
def t_quantile(confidence: float, freedom: int) -> float:
    """t for which Student's distribution holds `confidence` of its mass between -t and t, by bisection."""
    low, high = 0.0, 1.0
    while t_mass(high, freedom) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_mass(middle, freedom) < confidence else (low, middle)
    return high


def t_mass(t: float, freedom: int) -> float:
    """Mass of Student's distribution between -t and t: Abramowitz and Stegun, formulas 26.7.3 and 26.7.4.

    Beyond 1,000 degrees of freedom the normal distribution stands in, which is the same to three digits.
    """
    if freedom > 1000:
        return math.erf(t / math.sqrt(2))
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cosine * cosine * 2 * k / (2 * k + 1)
        return 2 / math.pi * (angle + sine * total)
    term, total = 1.0, 0.0
    for k in range(1, freedom // 2 + 1):
        total += term
        term *= cosine * cosine * (2 * k - 1) / (2 * k)
    return sine * total
