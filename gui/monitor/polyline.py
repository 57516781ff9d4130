"""The arithmetic of lines and axes: thinning to pixels, finding lone points, and scales that move in steps. No Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.monitor.ring import FloatArray

_NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_PARTS = {1.0: 5, 1.5: 3, 2.0: 4, 3.0: 3, 4.0: 4, 5.0: 5, 6.0: 3, 8.0: 4, 10.0: 5}
"""Into how many parts a tall axis with this top falls apart evenly."""
_SHRINK_BELOW = 0.4
"""A scale is made smaller only when the highest value falls below this share of it, so that it does not flutter."""
_LOG_ABOVE, _LINEAR_BELOW = 20.0, 8.0
"""Ratios of the largest to the smallest value at which a log axis comes and goes."""
_HIGHEST = 1e12


def thinned(times_s: FloatArray, values: FloatArray, bin_s: float) -> tuple[FloatArray, FloatArray]:
    """The lowest and the highest value of each `bin_s` seconds, and the gaps; unchanged where that would save nothing.

    times_s, values: (n,). Bins are cut on the clock, not from the window's edge, so that lines do not shimmer as they
    scroll. A bin that holds a gap ends with a gap.
    """
    if len(times_s) == 0 or len(times_s) * bin_s <= 2.0 * (times_s[-1] - times_s[0]):
        return times_s, values
    bins = np.floor(times_s / bin_s)  # (n,)
    starts = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1.0))  # (m,)
    columns = np.empty((len(starts), 3))  # (m, 3): lowest, highest, gap
    columns[:, 0] = np.fmin.reduceat(values, starts)
    columns[:, 1] = np.fmax.reduceat(values, starts)
    columns[:, 2] = np.nan
    keep = np.ones(columns.shape, dtype=bool)
    keep[:, 2] = np.logical_or.reduceat(np.isnan(values), starts)
    return np.repeat(times_s[starts], 3)[keep.ravel()], columns[keep]


def lone_points(values: FloatArray) -> NDArray[np.intp]:
    """Indices of the points that stand alone between gaps: no line reaches them, so they need a dot. values: (n,)."""
    finite = np.isfinite(values)
    joined = np.zeros(len(values) + 1, dtype=bool)  # (n + 1,): whether a line meets the point from the left
    joined[1:-1] = finite[1:] & finite[:-1]
    return np.flatnonzero(finite & ~joined[:-1] & ~joined[1:])


def value_at(times_s: FloatArray, values: FloatArray, t_s: float, within_s: float) -> float:
    """The value that held at `t_s`: that of the last point before it, NaN when that is over `within_s` old."""
    index = int(np.searchsorted(times_s, t_s + 1e-6, side="right")) - 1
    return float(values[index]) if index >= 0 and t_s - times_s[index] <= within_s else math.nan


def nice_top(value: float) -> float:
    """The smallest round number at or above `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _NICE if step * power >= value * 0.999999)


@dataclass
class Scale:
    """A vertical axis that starts at 0 and whose top moves in steps; logarithmic when `may_be_log` and values spread.

    fixed_top: never moves. bottom and top are in drawing coordinates: on a log axis powers of ten.
    """

    idle_top: float
    fixed_top: float | None = None
    may_be_log: bool = False
    bottom: float = 0.0
    top: float = 0.0
    log: bool = False

    def fit(self, lowest: float, highest: float) -> bool:
        """Take in the values now visible (NaN: none); returns whether the axis changed."""
        before = (self.bottom, self.top, self.log)
        if self.fixed_top is not None:
            self.top = self.fixed_top
        elif not math.isfinite(highest) or highest <= 0.0:
            self.bottom, self.top = (self.bottom, self.top) if self.top else (0.0, self.idle_top)
        elif self.may_be_log and lowest > 0.0 and highest / lowest > (_LINEAR_BELOW if self.log else _LOG_ABOVE):
            self.log = True
            self.bottom = float(math.floor(math.log10(lowest)))
            self.top = float(math.ceil(math.log10(min(highest, _HIGHEST))))
        elif self.log or not _SHRINK_BELOW * self.top <= highest <= self.top:
            self.log, self.bottom, self.top = False, 0.0, nice_top(min(highest, _HIGHEST) * 1.05)
        return before != (self.bottom, self.top, self.log)

    def ticks(self, parts: int) -> list[float]:
        """Values to label: equal steps, at most `parts`, or the powers of ten."""
        if self.log:
            step = max(1, math.ceil((self.top - self.bottom) / parts))
            return [10.0**power for power in range(int(self.bottom), int(self.top) + 1, step)]
        if parts > 2:
            mantissa = self.top / 10.0 ** math.floor(math.log10(self.top))
            parts = next((even for nice, even in _PARTS.items() if abs(nice - mantissa) < 1e-6), 2)
        return [self.top * part / parts for part in range(parts + 1)]

    def place(self, values: FloatArray) -> FloatArray:
        """Values in drawing coordinates, (n,)."""
        if not self.log:
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(values)
