"""GPU memory as torch's allocator counts it, asked through a callable, so that torch need not be imported here.

Reserved and allocated are two of the four GPU memory series that must never be mixed (MEASURING.md); the other two
come from NVML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from engine.monitor.series import SeriesInfo
from engine.monitor.source import Sink, Tick

TorchMemory = Mapping[str, Mapping[str, int]]
"""Per device ("gpu0", in NVML's order): {"reserved": bytes, "allocated": bytes}."""

NOT_USED = "The model holds no memory through torch on this card now."
_LABELS = {"reserved": "GPU memory reserved by torch", "allocated": "GPU memory allocated by torch"}


class TorchMemorySource:
    """Series gpu0_torch_reserved and gpu0_torch_allocated, in bytes, for each device the callable ever named."""

    name = "GPU memory in torch"

    def __init__(self) -> None:
        self.read: Callable[[], TorchMemory | None] | None = None
        """Set from any thread; called on the sampler thread every tick, so it must be cheap and must not wait."""
        self._missing: dict[tuple[str, str], bool] = {}

    def series(self) -> tuple[SeriesInfo, ...]:
        return tuple(
            SeriesInfo(f"{device}_torch_{kind}", _LABELS[kind], "B", "memory", device, NOT_USED if missing else None)
            for (device, kind), missing in self._missing.items()
        )

    def notes(self) -> tuple[str, ...]:
        return ()

    def sample(self, tick: Tick, sink: Sink) -> None:
        """Ask the callable; what it raises passes to the caller."""
        read = self.read
        memory = (read() if read is not None else None) or {}
        for device in memory:
            for kind in _LABELS:
                self._missing.setdefault((device, kind), True)
        for device, kind in self._missing:
            value_bytes = memory.get(device, {}).get(kind)
            self._missing[device, kind] = value_bytes is None
            sink.put(f"{device}_torch_{kind}", tick.time_s, math.nan if value_bytes is None else float(value_bytes))

    def close(self) -> None:
        """Nothing is held open."""
