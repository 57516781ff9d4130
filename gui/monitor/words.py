"""What the monitor's series are called in the window, and their values with units.

The engine's labels are plain English; here they are marked for translation, and shortened for legends, where the chart
already says what it is about.
"""

from __future__ import annotations

import math

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from engine import units as numbers
from engine.monitor import SeriesInfo

ABSENT = "–"
_NBSP = "\u00a0"

_LABELS = (
    QT_TRANSLATE_NOOP("series", "CPU, all programs"),
    QT_TRANSLATE_NOOP("series", "CPU, this program"),
    QT_TRANSLATE_NOOP("series", "RAM in use, all programs"),
    QT_TRANSLATE_NOOP("series", "RAM, this program (resident)"),
    QT_TRANSLATE_NOOP("series", "RAM, this program (unique)"),
    QT_TRANSLATE_NOOP("series", "GPU memory in use, all programs"),
    QT_TRANSLATE_NOOP("series", "GPU memory, this program"),
    QT_TRANSLATE_NOOP("series", "GPU memory reserved by torch"),
    QT_TRANSLATE_NOOP("series", "GPU memory allocated by torch"),
    QT_TRANSLATE_NOOP("series", "GPU utilisation"),
    QT_TRANSLATE_NOOP("series", "GPU power"),
    QT_TRANSLATE_NOOP("series", "GPU temperature"),
    QT_TRANSLATE_NOOP("series", "GPU clock"),
    QT_TRANSLATE_NOOP("series", "GPU memory clock"),
    QT_TRANSLATE_NOOP("series", "GPU held back (power, heat)"),
    QT_TRANSLATE_NOOP("series", "Tokens per second"),
    QT_TRANSLATE_NOOP("series", "Live perplexity (how sure the model is)"),
    QT_TRANSLATE_NOOP("series", "Quality probe (perplexity)"),
    QT_TRANSLATE_NOOP("series", "Nothing has been generated yet."),
    QT_TRANSLATE_NOOP("series", "No speed has been measured yet."),
    QT_TRANSLATE_NOOP("series", "Nothing has been measured for this yet."),
    QT_TRANSLATE_NOOP("series", "The model holds no memory through torch on this card now."),
    QT_TRANSLATE_NOOP("series", "The model's probabilities are not finite numbers."),
    QT_TRANSLATE_NOOP("series", "The system does not tell the unique memory of this program."),
)
"""Marked so that the translation tools find what the engine says in English."""

_SHORT = {
    "cpu_total": QT_TRANSLATE_NOOP("series", "all programs"),
    "process_cpu": QT_TRANSLATE_NOOP("series", "this program"),
    "ram_used": QT_TRANSLATE_NOOP("series", "all programs"),
    "process_rss": QT_TRANSLATE_NOOP("series", "this program"),
    "process_uss": QT_TRANSLATE_NOOP("series", "not shared"),
    "memory_used": QT_TRANSLATE_NOOP("series", "all programs"),
    "process_memory": QT_TRANSLATE_NOOP("series", "this program"),
    "torch_reserved": QT_TRANSLATE_NOOP("series", "torch reserved"),
    "torch_allocated": QT_TRANSLATE_NOOP("series", "torch allocated"),
    "utilisation": QT_TRANSLATE_NOOP("series", "GPU"),
    "power": QT_TRANSLATE_NOOP("series", "GPU"),
    "temperature": QT_TRANSLATE_NOOP("series", "GPU"),
    "sm_clock": QT_TRANSLATE_NOOP("series", "clock"),
    "memory_clock": QT_TRANSLATE_NOOP("series", "memory clock"),
    "throttled": QT_TRANSLATE_NOOP("series", "held back"),
    "tokens_per_s": QT_TRANSLATE_NOOP("series", "decode"),
    "live_perplexity": QT_TRANSLATE_NOOP("series", "of its own words"),
    "probe_perplexity": QT_TRANSLATE_NOOP("series", "of a fixed text (probe)"),
}

_BRIEF = {"live_perplexity": QT_TRANSLATE_NOOP("series", "own words"),
          "probe_perplexity": QT_TRANSLATE_NOOP("series", "of the probe")}
"""For legends with even less room, where cutting the label off would cut off what matters."""


def translated(english: object) -> str:
    """What the engine says, in the window's language; as it is where no translation is known."""
    return QCoreApplication.translate("series", str(english))


def card_name(device: str) -> str:
    """ "gpu0" as people say it."""
    return QCoreApplication.translate("series", "GPU {number}").format(number=device.removeprefix("gpu"))


def long_label(info: SeriesInfo, many_cards: bool = False) -> str:
    """The label for tables and tool tips; names the card where there are several."""
    label = translated(info.label)
    return f"{card_name(info.device)}: {label}" if many_cards and info.device.startswith("gpu") else label


def short_label(info: SeriesInfo, many_cards: bool = False) -> str:
    """The label for a legend."""
    name = info.key.removeprefix(f"{info.device}_") if info.device.startswith("gpu") else info.key
    label = translated(_SHORT.get(name, info.label))
    if not many_cards or not info.device.startswith("gpu"):
        return label
    return card_name(info.device) if label == translated("GPU") else f"{card_name(info.device)} {label}"


def brief_label(info: SeriesInfo, many_cards: bool = False) -> str:
    """The label for a narrow legend."""
    return translated(_BRIEF[info.key]) if info.key in _BRIEF else short_label(info, many_cards)


def value_text(unit: str, value: float) -> str:
    """A value with its unit, a dash where there is none: "1.24 GB", "87.3 tok/s", "61 °C"."""
    if not math.isfinite(value):
        return ABSENT
    if unit == "B":
        text = numbers.size(value)
    elif unit == "tok/s":
        text = numbers.rate(value)
    elif unit == "on/off":
        text = QCoreApplication.translate("series", "yes") if value else QCoreApplication.translate("series", "no")
    elif unit == "":
        text = _plain(value)
    else:
        text = f"{value:.1f} {unit}" if unit == "%" and 0 < value < 9.95 else f"{value:,.0f} {unit}"
    return text.replace(" ", _NBSP)


def widest_value(unit: str) -> str:
    """As wide as a value of this unit usually gets, so that a legend need not move as values change."""
    return {"B": "88.8 GB", "tok/s": "88.8 tok/s", "%": "100 %", "W": "888 W", "°C": "88 °C", "MHz": "8,888 MHz",
            "on/off": "yes"}.get(unit, "88.88")


def axis_text(unit: str, value: float) -> str:
    """A tick's label: as short as it can be with its unit."""
    if unit == "B":
        for name, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if value >= factor:
                return f"{_trimmed(value / factor)}{_NBSP}{name}"
    if value == 0 or unit in ("", "tok/s"):
        return _trimmed(value)
    return f"{_trimmed(value)}{_NBSP}{unit}"


def ago_text(seconds: float) -> str:
    """A moment relative to now: "now", "−12 s", "−4 min", "−2:30 min"."""
    if seconds > -0.05:
        return QCoreApplication.translate("series", "now")
    if seconds > -100:
        return f"−{_trimmed(round(-seconds, 1))}{_NBSP}s"
    minutes, rest = divmod(round(-seconds), 60)
    return f"−{minutes}:{rest:02d}{_NBSP}min" if rest else f"−{minutes}{_NBSP}min"


def _plain(value: float) -> str:
    """A bare number with about three figures; huge ones are only said to be huge."""
    if value >= 1e7:
        return QCoreApplication.translate("series", "over 10 million")
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _trimmed(value: float) -> str:
    text = f"{value:,.3f}".rstrip("0").rstrip(".")
    return text or "0"
