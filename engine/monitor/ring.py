"""A fixed-size history of (time, value) points with one writer and many readers, without a lock.

Why no lock is needed: the writer fills a slot first and publishes it afterwards by raising `_written`. A reader notes
`_written` (c1), copies both arrays, and notes `_written` again (c2). While it copied, the writer touched only the
slots of points c1 .. c2, the last one perhaps half done. Point p shares its slot with p - slots, so the copy is sound
for every point p with c2 - slots < p < c1, and exactly those are returned. One slot more than `capacity` is kept
for the half-done one, so an undisturbed reader always gets `capacity` points. This leans on the interpreter's lock
for the order of the stores; aligned 8-byte stores do not tear.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

DEFAULT_CAPACITY = 8192
"""Points: 30 minutes at 4 Hz are 7200."""


class Ring:
    """History of one series. `append` belongs to one thread at a time; `snapshot` and `latest` to everybody.

    capacity: points kept; older ones are overwritten. Raises ValueError when it is below 1.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"a ring needs room for at least one point, not {capacity}")
        self.capacity = capacity
        self._slots = capacity + 1
        self._times_s: FloatArray = np.zeros(self._slots, dtype=np.float64)  # (slots,)
        self._values: FloatArray = np.zeros(self._slots, dtype=np.float64)  # (slots,)
        self._written = 0

    def append(self, t_s: float, value: float) -> None:
        """Add a point: `t_s` seconds on time.monotonic(), `value` in the series' unit, NaN for a gap."""
        slot = self._written % self._slots
        self._times_s[slot] = t_s
        self._values[slot] = value
        self._written += 1  # publishes the slot: keep last

    def snapshot(self, since_s: float = -math.inf) -> tuple[FloatArray, FloatArray]:
        """Copies of times (s) and values, oldest first, of the points with time >= `since_s`. Both have shape (n,)."""
        before = self._written
        times_s, values = self._times_s.copy(), self._values.copy()  # (slots,), (slots,)
        after = self._written
        first = max(0, after - self._slots + 1)
        if first >= before:
            return times_s[:0], values[:0]
        order = np.arange(first, before) % self._slots  # (n,)
        times_s, values = times_s[order], values[order]
        wanted = times_s >= since_s
        return times_s[wanted], values[wanted]

    def latest(self) -> float:
        """Value of the newest point, NaN where there is none.

        Sound for a reader that is not overtaken by `capacity` whole appends between two of its own steps.
        """
        written = self._written
        return float(self._values[(written - 1) % self._slots]) if written else math.nan

    def __len__(self) -> int:
        return min(self._written, self.capacity)
