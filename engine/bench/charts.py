"""Charts of a benchmark as SVG text: speed against quality, and bars of memory or speed. Pure: rows in, text out.

The window, the HTML report and the picture files all draw this one SVG, so a chart looks the same everywhere. `Mark`
says where each recipe lies in it, for pointing. It keeps to what SVG Tiny knows, because Qt draws no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from engine.bench.results import size
from engine.bench.svg import CHAR as _CHAR
from engine.bench.svg import box as _box
from engine.bench.svg import cut as _cut
from engine.bench.svg import document as _document
from engine.bench.svg import line as _line
from engine.bench.svg import scale as _scale
from engine.bench.svg import text as _text
from engine.bench.svg import tick as _tick
from engine.measurements import BenchRow

RADIUS = 6.0


@dataclass(frozen=True)
class Look:
    """Colours and words of a chart, and the size of its letters in pixels."""

    text: str = "#1b1f24"
    muted: str = "#5d6673"
    grid: str = "#dfe3e8"
    background: str = "#ffffff"
    series: tuple[str, ...] = ("#1f6feb", "#c2410c")
    font_px: float = 13.0
    speed: str = "tok/s, more is better"
    quality: str = "perplexity, less is better"
    front: str = "Pareto front"
    weights: str = "weights"
    cache: str = "KV cache"
    empty: str = "Nothing to draw yet."


@dataclass(frozen=True)
class Dot:
    """A recipe's speed and quality. speed in tokens/s, speed_error its sample standard deviation; quality a perplexity,
    quality_error its standard error. front: no other recipe is both faster and better."""

    lane: int
    recipe: str
    speed: float
    speed_error: float
    quality: float
    quality_error: float
    front: bool


@dataclass(frozen=True)
class Mark:
    """Where a recipe is drawn: the box around its dot or bar, in the chart's pixels."""

    lane: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """SVG text and what can be pointed at in it."""

    svg: str
    marks: tuple[Mark, ...]


def speed_tests(rows: Iterable[BenchRow]) -> tuple[str, ...]:
    """Names of the speed tests that have a figure, those of generation first."""
    found = dict.fromkeys((bool(row.n_prompt), row.test) for row in rows if row.avg_ts and not row.error)
    return tuple(test for _, test in sorted(found, key=lambda item: item[0]))


def dots(rows: Sequence[BenchRow], test: str = "") -> tuple[Dot, ...]:
    """The recipes that have both a speed in `test` (the first one of generation by default) and a perplexity."""
    test = test or next(iter(speed_tests(rows)), "")
    quality = {row.lane: row for row in rows if row.perplexity and not row.error}
    pairs = [(row, quality[row.lane]) for row in rows
             if row.test == test and row.avg_ts and not row.error and row.lane in quality]
    return tuple(
        Dot(fast.lane, fast.recipe, fast.avg_ts or 0.0, fast.stddev_ts or 0.0, good.perplexity or 0.0,
            good.perplexity_error or 0.0,
            not any((o.avg_ts or 0) >= (fast.avg_ts or 0) and (p.perplexity or 0) <= (good.perplexity or 0)
                    and (o.avg_ts, p.perplexity) != (fast.avg_ts, good.perplexity) for o, p in pairs))
        for fast, good in pairs)


def scatter(rows: Sequence[BenchRow], width: float, height: float, look: Look | None = None, test: str = "") -> Chart:
    """Speed to the right, perplexity upwards, error bars of one deviation, the Pareto front as a line."""
    look = look or Look()
    found = dots(rows, test)
    if not found:
        return _empty(width, height, look)
    test = test or speed_tests(rows)[0]
    em = look.font_px
    left, right, top, bottom = 5.2 * em, width - 1.2 * em, 1.6 * em, height - 3.4 * em
    across = _scale([d.speed - d.speed_error for d in found], [d.speed + d.speed_error for d in found], left, right)
    upwards = _scale([d.quality - d.quality_error for d in found], [d.quality + d.quality_error for d in found],
                     bottom, top)
    parts = []
    for value in across.ticks(max(2, int((right - left) / (6 * em)))):
        x = across(value)
        parts += [_line(x, top, x, bottom, look.grid),
                  _text(x, bottom + 1.3 * em, _tick(value), look.muted, em, "middle")]
    for value in upwards.ticks(max(2, int((bottom - top) / (3 * em)))):
        y = upwards(value)
        parts += [_line(left, y, right, y, look.grid),
                  _text(left - 6, y + 0.35 * em, _tick(value), look.muted, em, "end")]
    parts += [_text((left + right) / 2, height - 0.6 * em, f"{test}: {look.speed}", look.muted, em, "middle"),
              _text(left, 0.95 * em, look.quality, look.muted, em)]
    front = sorted((d for d in found if d.front), key=lambda d: d.speed)
    if len(front) > 1:
        points = " ".join(f"{across(d.speed):.1f},{upwards(d.quality):.1f}" for d in front)
        parts += [f'<polyline points="{points}" fill="none" stroke="{look.series[0]}" stroke-width="1.5" '
                  'stroke-dasharray="5 3"/>', _text(right, 0.95 * em, f"- - {look.front}", look.series[0], em, "end")]
    marks, taken = [], []  # taken: boxes of labels and dots that the next label must leave free
    for d in found:
        x, y = across(d.speed), upwards(d.quality)
        taken.append((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS))
        marks.append(Mark(d.lane, x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS))
        colour = look.series[0 if d.front else 1]
        parts += [_line(across(d.speed - d.speed_error), y, across(d.speed + d.speed_error), y, colour),
                  _line(x, upwards(d.quality - d.quality_error), x, upwards(d.quality + d.quality_error), colour),
                  f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" stroke="{colour}" stroke-width="2" '
                  f'fill="{colour if d.front else look.background}"/>']
    for d in found:
        box = _free(across(d.speed), upwards(d.quality), _cut(d.recipe, 28), em, (left, top, right, bottom), taken)
        taken.append(box)
        parts.append(_text(box[0], box[3] - 0.25 * em, _cut(d.recipe, 28), look.text, em))
    return Chart(_document(width, height, parts, look.background), tuple(marks))


def memory_bars(rows: Sequence[BenchRow], width: float, height: float, look: Look | None = None) -> Chart:
    """A bar for each recipe: weights, and the KV cache of its largest test behind them."""
    look = look or Look()
    lanes: dict[int, tuple[str, list[float]]] = {}
    for row in rows:
        if row.weight_bytes and not row.error:
            name, (weights, cache) = lanes.get(row.lane, (row.recipe, [0.0, 0.0]))
            lanes[row.lane] = (name, [max(weights, row.weight_bytes), max(cache, row.kv_bytes or 0)])
    return _bars(lanes, width, height, look, (look.weights, look.cache), size)


def speed_bars(rows: Sequence[BenchRow], width: float, height: float, look: Look | None = None,
               test: str = "") -> Chart:
    """A bar for each recipe: its tokens/s in `test`, for runs without a perplexity."""
    look = look or Look()
    test = test or next(iter(speed_tests(rows)), "")
    lanes = {row.lane: (row.recipe, [row.avg_ts]) for row in rows if row.test == test and row.avg_ts and not row.error}
    return _bars(lanes, width, height, look, (f"{test}: {look.speed}",), _rate)


def _bars(lanes: dict[int, tuple[str, list[float]]], width: float, height: float, look: Look,
          names: Sequence[str], written: Callable[[float], str]) -> Chart:
    if not lanes:
        return _empty(width, height, look)
    em, most = look.font_px, max(sum(values) for _, values in lanes.values())
    letters = min(28, max(len(name) for name, _ in lanes.values()))
    left, right, top = min(width * 0.4, letters * em * _CHAR + 14), width - 7 * em, 1.9 * em
    step = min(2.4 * em, (height - top - 0.4 * em) / len(lanes))
    parts, marks, x = [], [], left
    for number, name in enumerate(names):
        parts += [_box(x, 0.45 * em, 0.7 * em, 0.7 * em, look.series[number % 2]),
                  _text(x + em, 1.1 * em, name, look.muted, em)]
        x += (len(name) * _CHAR + 2.5) * em
    for number, (lane, (name, values)) in enumerate(sorted(lanes.items())):
        y, x = top + number * step, left
        fits = max(4, int((left - 12) / (em * _CHAR)))
        parts.append(_text(left - 8, y + step / 2 + 0.35 * em, _cut(name, fits), look.text, min(em, step), "end"))
        for place, value in enumerate(values):
            wide = (right - left) * value / most
            parts.append(_box(x, y + 0.18 * step, wide, 0.64 * step, look.series[place % 2]))
            x += wide
        parts.append(_text(x + 6, y + step / 2 + 0.35 * em, written(sum(values)), look.text, min(em, step)))
        marks.append(Mark(lane, left, y, max(8.0, x - left), step))
    return Chart(_document(width, height, parts, look.background), tuple(marks))


_Box = tuple[float, float, float, float]


def _free(x: float, y: float, label: str, em: float, inside: _Box, taken: Sequence[_Box]) -> _Box:
    """A box for a label near its dot that overlaps least with what is there."""
    wide = len(label) * em * _CHAR
    places = [(x + 9, y - 1.4 * em), (x + 9, y + 0.3 * em), (x - 9 - wide, y - 1.4 * em), (x - 9 - wide, y + 0.3 * em),
              *((x - wide / 2, y + n * 1.25 * em) for n in (-2, 1, -3, 2, -4, 3))]

    def cost(place: tuple[float, float]) -> float:
        a, b = place
        total = 0.0 if inside[0] <= a and a + wide <= inside[2] and inside[1] - em <= b and b + em <= inside[3] else 1e6
        for c, d, e, f in taken:
            total += max(0.0, min(a + wide, e) - max(a, c)) * max(0.0, min(b + 1.2 * em, f) - max(b, d))
        return total

    a, b = min(places, key=cost)
    return a, b, a + wide, b + 1.2 * em


def _rate(value: float) -> str:
    return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.1f} tok/s"


def _empty(width: float, height: float, look: Look) -> Chart:
    words = _text(width / 2, height / 2, look.empty, look.muted, look.font_px, "middle")
    return Chart(_document(width, height, [words], look.background), ())
