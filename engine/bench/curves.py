"""Curves over steps as an SVG chart: lines told apart by colour and dash, levels across, marks at moments.

Pure: numbers in, text out; what they mean it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.bench.charts import Chart, Look, Mark
from engine.bench.svg import CHAR, Scale, box, cut, document, line, text, tick

_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2")
_LOG_ABOVE = 30.0  # ratio of the largest to the smallest value from which the axis is logarithmic
_DOT = 3.5
_POINTS_PER_PX = 2


@dataclass(frozen=True)
class Curve:
    """A line through (step, value). dots: each point is drawn, and can be pointed at. A single point of a `level` is a
    line across the whole chart."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    level: bool = False


@dataclass(frozen=True)
class Moment:
    """A vertical mark at a step. short: drawn as a tick at the bottom instead of through the chart."""

    step: float
    label: str
    short: bool = False


def draw(curves: Sequence[Curve], width: float, height: float, look: Look, last_step: float,
         moments: Sequence[Moment] = (), written: Callable[[float], str] = tick, may_be_log: bool = False,
         from_zero: bool = False, legend: bool = True) -> Chart:
    """A chart from step 0 to `last_step`. written: a value as the axis writes it. The marks' lanes count the points of
    the first curve with dots."""
    em = look.font_px
    shown = [Curve(c.name, [p for p in c.points if math.isfinite(p[1])], c.dots, c.level) for c in curves]
    shown = [c for c in shown if c.points]
    if not shown:
        words = text(width / 2, height / 2, look.empty, look.muted, em, "middle")
        return Chart(document(width, height, [words], look.background), ())
    values = [v for c in shown for _, v in c.points]
    log = may_be_log and min(values) > 0 and max(values) / min(values) > _LOG_ABOVE
    place = math.log10 if log else float
    low, high = place(min(values)), place(max(values))
    low = min(low, 0.0) if from_zero and not log else low
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    top, bottom = (1.9 if legend else 0.7) * em, height - 1.8 * em
    upwards = Scale(low - (0.0 if from_zero and not log else room), high + room, bottom, top)
    ticks = upwards.ticks(max(2, int((bottom - top) / (2.6 * em))))
    labels = [written(10.0**t if log else t) for t in ticks]
    left = max(len(label) for label in labels) * em * CHAR + 10
    right = width - 0.8 * em
    across = Scale(0.0, max(1.0, last_step), left, right)
    parts = []
    for value, label in zip(ticks, labels, strict=True):
        parts += [line(left, upwards(value), right, upwards(value), look.grid),
                  text(left - 5, upwards(value) + 0.35 * em, label, look.muted, em, "end")]
    for value in across.ticks(max(1, int((right - left) / (5.5 * em)))):
        wide = len(f"{value:,.0f}") * em * CHAR / 2
        if value == int(value) and across(value) + wide <= width:
            parts.append(text(across(value), bottom + 1.3 * em, f"{value:,.0f}", look.muted, em, "middle"))
    parts += _moments(moments, across, top, bottom, look)
    parts += _legend(shown, look, left, right) if legend else []
    marks: list[Mark] = []
    for number, curve in enumerate(shown):
        points = [(across(s), upwards(place(v))) for s, v in curve.points]
        if curve.level:
            points = [(left, points[0][1]), (right, points[0][1])]
        colour = look.series[number % len(look.series)]
        parts.append(_polyline(_thinned(points, right - left), colour, number))
        if curve.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_DOT}" fill="{colour}"/>' for x, y in points]
            if not marks:
                marks = [Mark(n, x - _DOT, y - _DOT, 2 * _DOT, 2 * _DOT) for n, (x, y) in enumerate(points)]
    return Chart(document(width, height, parts, look.background), tuple(marks))


def _moments(moments: Sequence[Moment], across: Scale, top: float, bottom: float, look: Look) -> list[str]:
    parts: list[str] = []
    for moment in moments:
        x = across(moment.step)
        parts.append(line(x, bottom - 6 if moment.short else top, x, bottom, look.muted))
        if moment.label:
            fits = x + 3 + len(moment.label) * look.font_px * CHAR < across.end
            parts.append(text(x + 3 if fits else x - 3, top + 0.8 * look.font_px, moment.label, look.muted,
                              look.font_px, "start" if fits else "end"))
    return parts


def _legend(curves: Sequence[Curve], look: Look, left: float, right: float) -> list[str]:
    """Names beside a piece of their line, as far as there is room."""
    em, parts, x = look.font_px, list[str](), left
    for number, curve in enumerate(curves):
        left_over = int((right - x - 2.4 * em) / (em * CHAR))
        if left_over < 4:
            break
        name = cut(curve.name, left_over)
        parts += [_polyline([(x, 0.8 * em), (x + 1.8 * em, 0.8 * em)], look.series[number % len(look.series)], number),
                  text(x + 2.2 * em, 1.15 * em, name, look.muted, em)]
        x += (len(name) * CHAR + 3.4) * em
    return parts


def _polyline(points: Sequence[tuple[float, float]], colour: str, number: int) -> str:
    if len(points) == 1:
        (x, y), = points
        return box(x - 1.5, y - 1.5, 3, 3, colour)
    dash = _DASHES[number % len(_DASHES)]
    return (f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{colour}" '
            f'stroke-width="1.6"' + (f' stroke-dasharray="{dash}"' if dash else "") + "/>")


def _thinned(points: list[tuple[float, float]], width: float) -> list[tuple[float, float]]:
    """At most a few points a pixel: the highest and the lowest of each."""
    if len(points) <= _POINTS_PER_PX * width:
        return points
    kept: list[tuple[float, float]] = []
    column: list[tuple[float, float]] = []
    for point in points:
        if column and int(point[0]) != int(column[0][0]):
            kept += sorted({min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])})
            column = []
        column.append(point)
    return kept + column
