"""What a series is called, and where a marker stands: the words the window and the exports share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["memory", "utilisation", "throughput", "perplexity", "power", "temperature", "clocks"]


@dataclass(frozen=True)
class SeriesInfo:
    """One line of a chart.

    key: stable name, the same in every language ("gpu0_power").
    label: plain English; the window translates it. unit: "B", "%", "W", "°C", "MHz", "tok/s", "on/off" or "".
    device: "cpu", "gpu0" (NVML's order), or "model" for what the engine reports.
    reason_missing: why there are no values now, one sentence; None while there are.
    full_scale: value at the top of a sensible axis (100 %, the card's memory, its power limit); None where unknown.
    """

    key: str
    label: str
    unit: str
    group: Group
    device: str
    reason_missing: str | None = None
    full_scale: float | None = None


@dataclass(frozen=True)
class Marker:
    """A moment worth a mark. t_s: time.monotonic() seconds. job: a job began (otherwise a technique was switched)."""

    t_s: float
    label: str
    job: bool = False
