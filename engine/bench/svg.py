"""The pieces that charts are drawn from: SVG elements as text, and linear scales with round ticks. It keeps to what SVG
Tiny knows, because Qt draws no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CHAR = 0.56  # width of a letter beside the font's size, roughly


@dataclass(frozen=True)
class Scale:
    """Values low to high on pixels start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round values inside, at most about so many."""
        raw = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
        first = math.ceil(self.low / step)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step) + 1)]


def scale(lows: Sequence[float], highs: Sequence[float], start: float, end: float) -> Scale:
    """A scale with a little room around the values."""
    low, high = min(lows), max(highs)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(low - room, high + room, start, end)


def tick(value: float) -> str:
    """A tick's label."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def cut(text: str, letters: int) -> str:
    """A text of at most so many letters."""
    return text if len(text) <= letters else f"{text[:letters - 1]}…"


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A thin line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1"/>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def text(x: float, y: float, text: str, colour: str, px: float, anchor: str = "start") -> str:
    """A text; anchor: which end of it stands at x."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{px:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>")


def document(width: float, height: float, parts: Sequence[str], background: str) -> str:
    """A whole drawing."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">\n'
            + box(0, 0, width, height, background) + "\n" + "\n".join(parts) + "\n</svg>\n")
