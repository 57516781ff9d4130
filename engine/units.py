"""Numbers as people read them: a unit, no more decimals than mean something, no scientific notation."""

from __future__ import annotations


def rate(tokens_per_s: float) -> str:
    """Tokens per second: "87.3 tok/s", "412 tok/s"."""
    return f"{tokens_per_s:.1f} tok/s" if tokens_per_s < 100 else f"{tokens_per_s:,.0f} tok/s"


def size(nbytes: float) -> str:
    """Bytes in decimal units: "1.24 GB", "10.9 MB", "812 B"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            value = nbytes / factor
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{nbytes:.0f} B"


def duration(seconds: float) -> str:
    """A span of time: "31 ms", "2.4 s", "3 min 05 s"."""
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def count(number: float) -> str:
    """A count of parameters: "5.5 M", "1.24 B", "260 k"."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            value = number / factor
            return f"{value:.{2 if value < 10 and unit == 'B' else 1 if value < 100 else 0}f} {unit}"
    return f"{number:.0f}"
