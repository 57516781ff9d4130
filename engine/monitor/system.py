"""CPU and memory of the machine and of this process, through psutil.

Costs measured on 2 EPYC cores with psutil 7.2: processor times 17 µs, memory 30 µs, this process 30 µs.
The unique set size walks the page tables: 0.2 ms for 30 MB, 0.5 ms for 2 GB in huge pages, and it holds the address
space while it does, so it is read every ten seconds at most, rarer when it proves slow, and never while timing.
"""

from __future__ import annotations

import math
import time

import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.monitor.series import SeriesInfo
from engine.monitor.source import Sink, Tick

USS_EVERY_S = 10.0
USS_COST_SHARE = 0.001
"""At most this share of one core goes into reading the unique set size."""


class SystemSource:
    """Series cpu_total and process_cpu (% of the whole machine), ram_used, process_rss and process_uss (bytes).

    Processor shares are differences between ticks, so they begin with the second one. RAM in use is total minus
    available: what the system could not hand out without swapping.
    """

    name = "CPU and memory"

    def __init__(self, process: psutil.Process | None = None) -> None:
        self._process = process or psutil.Process()
        self._cores = psutil.cpu_count() or 1
        self._machine_before: tuple[float, float] | None = None  # (busy, total) seconds
        self._process_before: tuple[float, float] | None = None  # (processor, wall) seconds
        self._uss_due_s = -math.inf
        self._uss_reason: str | None = None
        self._ram_total_bytes = float(psutil.virtual_memory().total)

    def series(self) -> tuple[SeriesInfo, ...]:
        ram = self._ram_total_bytes
        return (
            SeriesInfo("cpu_total", "CPU, all programs", "%", "utilisation", "cpu", full_scale=100.0),
            SeriesInfo("process_cpu", "CPU, this program", "%", "utilisation", "cpu", full_scale=100.0),
            SeriesInfo("ram_used", "RAM in use, all programs", "B", "memory", "cpu", full_scale=ram),
            SeriesInfo("process_rss", "RAM, this program (resident)", "B", "memory", "cpu", full_scale=ram),
            SeriesInfo("process_uss", "RAM, this program (unique)", "B", "memory", "cpu", self._uss_reason, ram),
        )

    def notes(self) -> tuple[str, ...]:
        return (self._uss_reason,) if self._uss_reason else ()

    def sample(self, tick: Tick, sink: Sink) -> None:
        """Read all; psutil's errors (a process list that is hidden, say) pass to the caller."""
        now_s = tick.time_s
        sink.put("cpu_total", now_s, self._machine_percent())
        sink.put("process_cpu", now_s, self._process_percent(now_s))
        memory = psutil.virtual_memory()
        sink.put("ram_used", now_s, float(memory.total - memory.available))
        sink.put("process_rss", now_s, float(self._process.memory_info().rss))
        if not tick.quiet and now_s >= self._uss_due_s:
            sink.put("process_uss", now_s, self._unique_set_bytes(now_s))

    def close(self) -> None:
        self._machine_before = self._process_before = None

    def _machine_percent(self) -> float:
        """Busy share of all processors since the last tick, 0 to 100; NaN at first.

        Guest time is already part of user time on Linux, and waiting for a disk is idling.
        """
        times = psutil.cpu_times()
        total_s: float = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy_s: float = total_s - times.idle - getattr(times, "iowait", 0.0)
        before, self._machine_before = self._machine_before, (busy_s, total_s)
        if before is None or total_s <= before[1]:
            return math.nan
        return min(100.0, max(0.0, 100.0 * (busy_s - before[0]) / (total_s - before[1])))

    def _process_percent(self, now_s: float) -> float:
        """This process' share of all processors since the last tick, 0 to 100; NaN at first."""
        times = self._process.cpu_times()
        processor_s: float = times.user + times.system
        before, self._process_before = self._process_before, (processor_s, now_s)
        if before is None or now_s <= before[1]:
            return math.nan
        return min(100.0, max(0.0, 100.0 * (processor_s - before[0]) / ((now_s - before[1]) * self._cores)))

    def _unique_set_bytes(self, now_s: float) -> float:
        """Bytes no other process shares; NaN with a reason where the system does not say. Sets the next reading."""
        started_s = time.perf_counter()
        try:
            unique_bytes = float(self._process.memory_full_info().uss)
            self._uss_reason = None
        except (psutil.Error, AttributeError, NotImplementedError, OSError):
            unique_bytes = math.nan
            self._uss_reason = "The system does not tell the unique memory of this program."
        self._uss_due_s = now_s + max(USS_EVERY_S, (time.perf_counter() - started_s) / USS_COST_SHARE)
        return unique_bytes


def make_source() -> SystemSource:
    return SystemSource()
