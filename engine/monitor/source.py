"""The contract between the sampler thread and whatever it samples.

A source is a module of this package with a function `make_source()`: it is found by looking, so a new metric is a new
file. Everything in a source runs on the sampler thread alone, unless its own documentation says otherwise.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Protocol

from engine.monitor.series import SeriesInfo

DEAR_EVERY_TICKS = 4


@dataclass(frozen=True)
class Tick:
    """One round of sampling. time_s: time.monotonic() seconds; index counts from 0; quiet: a measurement runs."""

    time_s: float
    index: int
    quiet: bool = False

    @property
    def dear(self) -> bool:
        """Whether dear calls are due: every fourth tick, and never while something is being timed."""
        return not self.quiet and self.index % DEAR_EVERY_TICKS == 0


class Sink(Protocol):
    """Takes points from a source."""

    def put(self, key: str, t_s: float, value: float) -> None:
        """Add a point to series `key`: seconds and a value in the series' unit, NaN for a gap."""


class Source(Protocol):
    """Something that yields series."""

    @property
    def name(self) -> str:
        """Plain English, for messages: "CPU and memory"."""

    def series(self) -> tuple[SeriesInfo, ...]:
        """The series as they stand now; asked after each sample, so the list may grow and reasons may change."""

    def notes(self) -> tuple[str, ...]:
        """Sentences on what is missing and why; empty when all is well."""

    def sample(self, tick: Tick, sink: Sink) -> None:
        """Read the values and put them, all at `tick.time_s`. A value that cannot be had is a NaN, never a zero.

        May raise: the monitor then shows the reason, leaves a gap, and asks again next tick.
        """

    def close(self) -> None:
        """Give back what was opened. `sample` may be called again later and opens it anew."""


def discover_sources() -> tuple[list[Source], list[str]]:
    """Every source this package holds, by module name, and a sentence for each that could not be made."""
    package = importlib.import_module(__package__ or "engine.monitor")
    sources: list[Source] = []
    problems: list[str] = []
    for module_info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        try:
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            factory = getattr(module, "make_source", None)
            if factory is not None:
                sources.append(factory())
        except Exception as error:  # one broken source must not take the monitor with it
            problems.append(f"The source {module_info.name} could not be set up: {error}.")
    return sources, problems
