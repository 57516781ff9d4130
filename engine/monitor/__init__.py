"""The monitor: what the machine did while the model ran, on one clock.

A thread of its own samples memory, utilisation, power, temperature, clocks, tokens/s and perplexity into rings that
anyone may read. It knows neither Qt nor torch: GPU memory as torch sees it comes through a callable.
A new metric is a new module here with a `make_source()`; no list is edited.
"""

from engine.monitor.monitor import Monitor
from engine.monitor.nvml import CardInfo
from engine.monitor.series import Marker, SeriesInfo

__all__ = ["CardInfo", "Marker", "Monitor", "SeriesInfo"]
