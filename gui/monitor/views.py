"""Which series each of the four charts shows. A series is found by its group, so a new one needs no change here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from engine.monitor import SeriesInfo
from gui.monitor.words import card_name

Picks = Callable[[SeriesInfo], bool]


@dataclass(frozen=True)
class View:
    """One choice of series within a chart. title: the chart's heading; picks: says which series belong to it."""

    key: str
    title: str
    picks: Picks


@dataclass(frozen=True)
class ChartSpec:
    """A chart. group: of its series; hint: said in the tool tip; idle_top, unit: its axis before there are values.
    second_axis: its points mean something else than its lines, and have the axis at the right."""

    key: str
    title: str
    group: str
    hint: str
    idle_top: float
    unit: str = ""
    may_be_log: bool = False
    second_axis: bool = False


MEMORY = ChartSpec("memory", str(QT_TRANSLATE_NOOP("monitor", "Memory")), "memory", "", 1e9, "B")
UTILISATION = ChartSpec("utilisation", str(QT_TRANSLATE_NOOP("monitor", "Utilisation")), "utilisation", "", 100.0, "%")
THROUGHPUT = ChartSpec(
    "throughput", str(QT_TRANSLATE_NOOP("monitor", "Tokens per second")), "throughput",
    str(QT_TRANSLATE_NOOP("monitor", "Time before the first token does not count.")), 10.0, "tok/s")
PERPLEXITY = ChartSpec(
    "perplexity", str(QT_TRANSLATE_NOOP("monitor", "Perplexity")), "perplexity",
    str(QT_TRANSLATE_NOOP("monitor", "The line says how sure the model is of its own words, not how good they are. "
                                     "The diamonds, on the axis at the right, are the quality probe: a fixed text, "
                                     "scored after each change.")),
    10.0, may_be_log=True, second_axis=True)
CHARTS = (MEMORY, UTILISATION, THROUGHPUT, PERPLEXITY)


def is_points(info: SeriesInfo) -> bool:
    """Whether a series is single measurements, drawn as symbols, rather than something sampled over time."""
    return info.key.startswith("probe_")


def is_switch(info: SeriesInfo) -> bool:
    """Whether a series is yes or no: said in the legend, not drawn."""
    return info.unit == "on/off"


def cards_of(infos: Sequence[SeriesInfo]) -> list[str]:
    """The cards the series speak of: ["gpu0", "gpu1"]."""
    return sorted({info.device for info in infos if info.device.startswith("gpu")})


def views_of(spec: ChartSpec, infos: Sequence[SeriesInfo]) -> list[View]:
    """What the chart can show with the series known now; the first is what it shows unless the user chose."""
    candidates = {"memory": _memory_views, "utilisation": _utilisation_views}.get(spec.key, _only_view)(spec, infos)
    return [view for view in candidates if any(view.picks(info) for info in infos)] or candidates[:1]


def _only_view(spec: ChartSpec, infos: Sequence[SeriesInfo]) -> list[View]:
    return [View("all", said(spec.title), lambda info: info.group == spec.group)]


def _memory_views(spec: ChartSpec, infos: Sequence[SeriesInfo]) -> list[View]:
    """Cards, each card where there are several, RAM. What torch holds is left to the single card's view then."""
    cards = cards_of(infos)

    def of(devices: Sequence[str], *without: str) -> Picks:
        return lambda info: info.group == "memory" and info.device in devices and not info.key.endswith(without)

    ram = [View("ram", said("RAM"), of(["cpu"], "process_uss")),
           View("program", said("RAM, this program"), of(["cpu"], "ram_used"))]
    if len(cards) < 2:
        return [View("gpu", said("GPU memory") if cards else said(spec.title), of(cards)), *ram]
    each = [View(card, said("{card} memory").format(card=card_name(card)), of([card])) for card in cards]
    return [View("gpu", said("GPU memory"), of(cards, "torch_reserved", "torch_allocated")), *each, *ram]


def _utilisation_views(spec: ChartSpec, infos: Sequence[SeriesInfo]) -> list[View]:
    def gpu(group: str) -> Picks:
        return lambda info: info.group == group and info.device.startswith("gpu")

    return [
        View("gpu", said("GPU utilisation") if cards_of(infos) else said(spec.title), gpu("utilisation")),
        View("cpu", said("CPU utilisation"), lambda info: info.group == "utilisation" and info.device == "cpu"),
        View("power", said("GPU power"), gpu("power")),
        View("temperature", said("GPU temperature"), gpu("temperature")),
        View("clocks", said("GPU clocks"), gpu("clocks")),
    ]


def said(text: str) -> str:
    """A text of this module in the window's language."""
    return QCoreApplication.translate("monitor", text)
