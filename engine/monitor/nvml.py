"""Every NVIDIA card in the machine, through NVML: memory, utilisation, power, temperature, clocks, energy.

What a driver does not offer is a gap with a reason, and the rest goes on: old drivers miss calls, WSL fails in the
middle, containers hide processes, cards fall off the bus. NVML counts cards in PCI order and knows nothing of
CUDA_VISIBLE_DEVICES; a card's uuid ties it to torch's device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.monitor.nvml_calls import NOT_LISTED, THROTTLE, Metric, card_metrics, energy_mj, number, throttle_texts
from engine.monitor.nvml_library import TOO_OLD, Failure, NvmlUnavailable, close_library, explain, open_library
from engine.monitor.series import SeriesInfo
from engine.monitor.source import Sink, Tick

T = TypeVar("T")


@dataclass(frozen=True)
class CardInfo:
    """Facts about a card that do not change. uuid as NVML writes it ("GPU-..."), "" where unknown.

    memory_total_bytes, power_limit_w: None where the driver does not say. energy_offered: joules can be measured.
    """

    device: str
    name: str
    uuid: str
    memory_total_bytes: float | None
    power_limit_w: float | None
    energy_offered: bool


class Card:
    """One card: which calls work on it, and why the others do not. Sampler thread only, but for `energy_j`."""

    def __init__(self, nv: Any, index: int, pid: int) -> None:
        self.device = f"gpu{index}"
        self.throttle_reasons: tuple[str, ...] = ()
        self.lost_reason: str | None = None
        self._nv = nv
        self._metrics = card_metrics(pid)
        self._reader = dict.fromkeys((metric.name for metric in self._metrics), 0)
        self._failures: dict[str, Failure] = {}
        self._handle: Any = None
        try:
            self._handle = nv.nvmlDeviceGetHandleByIndex(index)
        except Exception as error:
            self.lost_reason = explain(error).reason
        self.info = self._read_info(index)

    def _read_info(self, index: int) -> CardInfo:
        nv, handle = self._nv, self._handle
        limit_mw = self._fact(lambda: number(nv.nvmlDeviceGetEnforcedPowerLimit(handle)))
        return CardInfo(
            device=self.device,
            name=self._fact(lambda: str(nv.nvmlDeviceGetName(handle))) or f"NVIDIA card {index}",
            uuid=self._fact(lambda: str(nv.nvmlDeviceGetUUID(handle))) or "",
            memory_total_bytes=self._fact(lambda: number(nv.nvmlDeviceGetMemoryInfo(handle).total)),
            power_limit_w=limit_mw / 1e3 if limit_mw else None,
            energy_offered=self._fact(lambda: energy_mj(nv, handle)) is not None,
        )

    def _fact(self, read: Callable[[], T]) -> T | None:
        """The value, or None where it cannot be had."""
        if self.lost_reason is not None:
            return None
        try:
            return read()
        except Exception:  # also UnicodeDecodeError from a name that is not text
            return None

    def sample(self, tick: Tick, sink: Sink) -> None:
        """Put every value due at this tick; NaN for what cannot be had."""
        for metric in self._metrics:
            if not metric.dear or tick.dear:
                sink.put(f"{self.device}_{metric.name}", tick.time_s, self._read(metric))

    def _read(self, metric: Metric) -> float:
        """The metric's value, NaN where there is none; remembers why, and which call to use from now on."""
        known = self._failures.get(metric.name)
        if self.lost_reason is None and not (known and known.permanent):
            try:
                value = self._ask(metric)
            except Exception as error:  # pynvml raises NVMLError; broken drivers make it raise others
                self._note_failure(metric.name, explain(error))
            else:
                self._failures.pop(metric.name, None)
                return self._throttled(int(value)) if metric.name == THROTTLE else value
        if metric.name == THROTTLE:
            self.throttle_reasons = ()
        return math.nan

    def _ask(self, metric: Metric) -> float:
        """The value by the first call the driver knows, kept for next time; raises what the last one raised."""
        while True:
            try:
                return metric.readers[self._reader[metric.name]](self._nv, self._handle)
            except Exception as error:
                if self._reader[metric.name] + 1 == len(metric.readers) or not explain(error).try_another:
                    raise
                self._note_failure(metric.name, explain(error))
                self._reader[metric.name] += 1

    def _note_failure(self, name: str, failure: Failure) -> None:
        """Remember why. A card that does not support the first call says more than a driver without the second."""
        before = self._failures.get(name)
        if before is not None and before.permanent and failure.reason == TOO_OLD:
            return
        self._failures[name] = failure
        if failure.lost:
            self.lost_reason = failure.reason

    def _throttled(self, bits: int) -> float:
        self.throttle_reasons = throttle_texts(bits)
        return 1.0 if self.throttle_reasons else 0.0

    def series(self) -> tuple[SeriesInfo, ...]:
        scale = {"B": self.info.memory_total_bytes, "%": 100.0, "W": self.info.power_limit_w, "on/off": 1.0}
        return tuple(
            SeriesInfo(f"{self.device}_{metric.name}", metric.label, metric.unit, metric.group, self.device,
                       self._why_missing(metric.name), scale.get(metric.unit))
            for metric in self._metrics
        )

    def notes(self) -> tuple[str, ...]:
        """One sentence when the card is lost, else one for each missing series; not using a card is no fault."""
        if self.lost_reason is not None:
            return (f"{self.device} ({self.info.name}): {self.lost_reason}",)
        missing = [(metric, self._why_missing(metric.name)) for metric in self._metrics]
        return tuple(f"{self.device}, {metric.label}: {reason}" for metric, reason in missing
                     if reason not in (None, NOT_LISTED))

    def _why_missing(self, name: str) -> str | None:
        if self.lost_reason is not None:
            return self.lost_reason
        return self._failures[name].reason if name in self._failures else None

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded, None where not offered or lost. Any thread: NVML locks for itself."""
        millijoules = self._fact(lambda: energy_mj(self._nv, self._handle))
        return None if millijoules is None else millijoules / 1e3


class NvmlSource:
    """All cards. NVML is opened on the first sample, not before: with a driver that can take seconds."""

    name = "NVIDIA cards"

    def __init__(self) -> None:
        self.cards: tuple[Card, ...] = ()
        self.unavailable_reason: str | None = None
        """Why there are no cards, one quiet sentence; None before the first sample and when there are cards."""
        self.driver_version: str | None = None
        self._nv: Any = None

    def series(self) -> tuple[SeriesInfo, ...]:
        return tuple(info for card in self.cards for info in card.series())

    def notes(self) -> tuple[str, ...]:
        if self.unavailable_reason is not None:
            return (self.unavailable_reason,)
        return tuple(note for card in self.cards for note in card.notes())

    def sample(self, tick: Tick, sink: Sink) -> None:
        """Poll every card; opens NVML at first, and never asks again where that failed."""
        if self._nv is None and self.unavailable_reason is None:
            self._open()
        for card in self.cards:
            card.sample(tick, sink)

    def close(self) -> None:
        nv, self._nv = self._nv, None
        self.cards, self.unavailable_reason = (), None
        if nv is not None:
            close_library(nv)

    def energy_j(self, card: int) -> float | None:
        """Joules card number `card` used since its driver was loaded; None where unknown. Any thread."""
        cards = self.cards
        return cards[card].energy_j() if 0 <= card < len(cards) else None

    def _open(self) -> None:
        try:
            nv = open_library()
        except NvmlUnavailable as error:
            self.unavailable_reason = str(error)
            return
        self._nv = nv
        try:
            self.driver_version = str(nv.nvmlSystemGetDriverVersion())
        except Exception:  # a version that cannot be read is shown as unknown
            self.driver_version = None
        pid = os.getpid()
        self.cards = tuple(Card(nv, index, pid) for index in range(int(nv.nvmlDeviceGetCount())))


def make_source() -> NvmlSource:
    return NvmlSource()
