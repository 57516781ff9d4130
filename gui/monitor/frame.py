"""What the charts show at one moment: copies of the series' points, and which stretch of time is visible.

A frame is taken from the monitor twice a second; while the charts are paused the last one stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.monitor import Marker, Monitor, SeriesInfo
from engine.monitor.ring import FloatArray
from gui.monitor.views import is_points

WINDOWS_S = (60, 300, 1800)
LONGEST_S = 1800.0
NO_POINTS: tuple[FloatArray, FloatArray] = (np.empty(0), np.empty(0))
_SHORTEST_S = 10.0
_TICK_STEPS_S = (2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800)


@dataclass(frozen=True)
class Frame:
    """now_s: the newest sample's time; points: times and values per key, each (n,); series: all that is known."""

    now_s: float
    series: tuple[SeriesInfo, ...]
    points: dict[str, tuple[FloatArray, FloatArray]]
    markers: tuple[Marker, ...]


def take_frame(monitor: Monitor, infos: tuple[SeriesInfo, ...], shown: Iterable[SeriesInfo], since_s: float) -> Frame:
    """Copy what is needed: each series costs a copy of its whole ring, so only those that are shown."""
    points = {info.key: monitor.snapshot(info.key, -math.inf if is_points(info) else since_s) for info in shown}
    now_s = max((float(times[-1]) for times, _ in points.values() if len(times)), default=0.0)
    return Frame(now_s, infos, points, monitor.markers(since_s))


@dataclass(frozen=True)
class Window:
    """The visible stretch: `length_s` seconds that end `back_s` seconds before now."""

    length_s: float = 60.0
    back_s: float = 0.0

    @property
    def start_s(self) -> float:
        """Left edge, relative to now."""
        return -self.back_s - self.length_s

    @property
    def end_s(self) -> float:
        """Right edge, relative to now."""
        return -self.back_s

    def zoomed(self, factor: float) -> Window:
        """Longer or shorter, with the right edge where it was."""
        return Window(min(LONGEST_S, max(_SHORTEST_S, self.length_s * factor)), self.back_s)

    def moved(self, seconds: float) -> Window:
        """Further back, never beyond now nor beyond what is kept."""
        return Window(self.length_s, min(LONGEST_S, max(0.0, self.back_s + seconds)))

    def ticks(self, parts: int) -> list[float]:
        """Round moments within the window, at most about `parts` of them."""
        step_s = next((step for step in _TICK_STEPS_S if self.length_s / step <= parts), _TICK_STEPS_S[-1])
        first = math.ceil(self.start_s / step_s)
        return [float(step_s * number) for number in range(first, math.floor(self.end_s / step_s) + 1)]
