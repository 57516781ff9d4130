"""Numbers of the panel: those of engine.units, kept on one line with their unit, and comparisons. No Qt here."""

from __future__ import annotations

from engine import units as numbers

NBSP = "\u00a0"  # keeps a number and its unit on one line


def size_text(nbytes: float) -> str:
    """Bytes: "10.9 MB"."""
    return numbers.size(nbytes).replace(" ", NBSP)


def count_text(count: int) -> str:
    """How many weights: "5.5 M"."""
    return numbers.count(count).replace(" ", NBSP)


def duration_text(seconds: float) -> str:
    """A time: "31 ms"."""
    return numbers.duration(seconds).replace(" ", NBSP)


def precise_text(seconds: float) -> str:
    """A time in three figures, for times that are compared: "11.5 ms", "0.27 ms", "12.4 µs"."""
    if seconds <= 0:
        return f"0{NBSP}ms"
    for unit, factor, least in (("s", 1.0, 1.0), ("ms", 1e-3, 0.1), ("µs", 1e-6, 0.0)):
        value = seconds / factor
        if value >= least:
            return f"{value:.{2 if value < 10 else 1 if value < 99.95 else 0}f}{NBSP}{unit}"
    raise AssertionError("unreachable")


def percent_text(share: float) -> str:
    """A share: "50 %", "0.4 %", "0.02 %"."""
    percent = 100 * share
    if 0 < percent < 0.005:
        return f"<{NBSP}0.01{NBSP}%"
    if 0 < percent < 0.095:
        return f"{percent:.2f}{NBSP}%"
    return f"{percent:.1f}{NBSP}%" if 0 < percent < 9.95 else f"{percent:.0f}{NBSP}%"


def ratio_text(after: float, before: float) -> str:
    """How large `after` is beside `before`: "0.38×"; a dash where there is nothing to compare with."""
    return f"{after / before:.2f}×" if before > 0 else "–"


def change_text(before: float, after: float) -> str:
    """Bytes before and after: "10.9 MB → 4.20 MB (0.38×)"."""
    return f"{size_text(before)} → {size_text(after)} ({ratio_text(after, before)})"
