"""The one item that draws a plot's lines, points, markers and cursor: cheaper than an item for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPainterPath, QPen
from PySide6.QtWidgets import QStyleOptionGraphicsItem, QWidget

from engine.monitor.ring import FloatArray
from gui.monitor.style import DIAMOND, series_colour, series_pen
from gui.monitor.words import ago_text
from gui.theme import colours

_DOT = 4.0
_JOB_TICK_PX = 8
_MARKER_NEAR_PX = 5
_MARKER_APART_PX = 6
_SHORTEST_LABEL_PX = 40


@dataclass
class Drawing:
    """What the canvas draws, in its own coordinates (seconds before now; the scale's place).

    lines: (series number, path). dots: what no line reaches, and points: measurements, both (series number, x, y).
    markers: switches, jobs: beginnings of jobs, both (x, label). message: said in the middle.
    """

    lines: list[tuple[int, QPainterPath]] = field(default_factory=list)
    dots: list[tuple[int, FloatArray, FloatArray]] = field(default_factory=list)
    points: list[tuple[int, FloatArray, FloatArray]] = field(default_factory=list)
    markers: list[tuple[float, str]] = field(default_factory=list)
    jobs: list[tuple[float, str]] = field(default_factory=list)
    message: str = ""
    cursor_x: float | None = None
    cursor_label: bool = False


class Canvas(pg.GraphicsObject):  # type: ignore[misc]
    """Draws a Drawing. Its bounding rectangle is the visible range, whatever the data are."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing = Drawing()
        self._bounds = QRectF(0, 0, 1, 1)
        self._grid: tuple[float, ...] = ()
        self._pens: dict[int, QPen] = {}
        self.font = QFont()

    def restyle(self, font: QFont) -> None:
        """Fonts or colours changed."""
        self.font = font
        self._pens.clear()
        self.update()

    def set_bounds(self, bounds: QRectF, grid: Sequence[float]) -> None:
        """The visible range, and where the labelled values lie."""
        self.prepareGeometryChange()
        self._bounds, self._grid = bounds, tuple(grid)

    def boundingRect(self) -> QRectF:
        """The visible range."""
        return self._bounds

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        """Markers below, lines and points above them, the cursor on top."""
        drawing, transform = self.drawing, painter.worldTransform()
        area = transform.mapRect(self._bounds)
        painter.save()
        painter.resetTransform()
        if not drawing.message:  # a line through words makes neither readable
            self._paint_grid(painter, area)
        if drawing.markers:
            self._paint_markers(painter, area)
        painter.setWorldTransform(transform)
        for number, path in drawing.lines:
            if number not in self._pens:
                self._pens[number] = series_pen(number, painter.device().devicePixelRatioF())
            painter.setPen(self._pens[number])
            painter.drawPath(path)
        painter.resetTransform()
        for number, xs, ys in drawing.dots:
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
                at = transform.map(QPointF(x, y))
                painter.fillRect(QRectF(at.x() - _DOT / 2, at.y() - _DOT / 2, _DOT, _DOT), series_colour(number))
        for number, xs, ys in drawing.points:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(series_colour(number))
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
                painter.drawPolygon(DIAMOND.translated(transform.map(QPointF(x, y))))
        if drawing.message:
            painter.setFont(self.font)
            painter.setPen(QColor(colours().muted))
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(area.adjusted(6, 2, -6, -2), flags, drawing.message)
        if drawing.cursor_x is not None:
            self._paint_cursor(painter, area, drawing.cursor_x)
        painter.restore()

    def x_of(self, seconds: float, area: QRectF) -> float:
        """Where a moment lies within `area`, in pixels."""
        return area.left() + (seconds - self._bounds.left()) / self._bounds.width() * area.width()

    def _paint_grid(self, painter: QPainter, area: QRectF) -> None:
        """pyqtgraph's axes could, but then hide their outermost labels."""
        painter.setPen(QColor(colours().border))
        for value in self._grid:
            y = round(area.bottom() - (value - self._bounds.top()) / self._bounds.height() * area.height())
            painter.drawLine(round(area.left()), y, round(area.right()), y)

    def _paint_markers(self, painter: QPainter, area: QRectF) -> None:
        """A line each, and its label at the top as far as its neighbours leave room."""
        top, scale = round(area.top()), area.width() / self._bounds.width()
        painter.setFont(self.font)
        painter.setPen(QPen(QColor(colours().muted), 1, Qt.PenStyle.DotLine))
        bottom = round(area.bottom())
        for seconds, _ in self.drawing.jobs:  # a short tick: the curves themselves show what a job did
            x = round(area.left() + (seconds - self._bounds.left()) * scale)
            painter.drawLine(x, bottom - _JOB_TICK_PX, x, bottom)
        apart: list[tuple[str, int]] = []
        for seconds, label in self.drawing.markers:
            x = round(area.left() + (seconds - self._bounds.left()) * scale)
            if not apart or x - apart[-1][1] >= _MARKER_APART_PX:
                apart.append((label, x))
        ends = [x for _, x in apart[1:]] + [round(area.right())]
        taken = round(area.left())  # up to where labels and lines before this one reach
        for (label, x), end in zip(apart, ends, strict=True):
            painter.drawLine(x, top, x, round(area.bottom()))
            after, before = end - x - 6, x - taken - 6
            taken = x
            if max(after, before) < _SHORTEST_LABEL_PX:
                continue
            metrics = QFontMetrics(self.font)
            if after >= _SHORTEST_LABEL_PX:
                text = metrics.elidedText(label, Qt.TextElideMode.ElideRight, after)
                painter.drawText(x + 3, top + metrics.ascent(), text)
                taken = x + 3 + metrics.horizontalAdvance(text)
            else:
                text = metrics.elidedText(label, Qt.TextElideMode.ElideRight, before)
                painter.drawText(x - 3 - metrics.horizontalAdvance(text), top + metrics.ascent(), text)

    def _paint_cursor(self, painter: QPainter, area: QRectF, seconds: float) -> None:
        c, x = colours(), round(self.x_of(seconds, area))
        painter.setPen(QColor(c.text))
        painter.drawLine(x, round(area.top()), x, round(area.bottom()))
        if not self.drawing.cursor_label:
            return
        near = [label for at, label in (*self.drawing.markers, *self.drawing.jobs)
                if abs(self.x_of(at, area) - x) <= _MARKER_NEAR_PX]
        text = "  ·  ".join([ago_text(seconds), *near])
        metrics = QFontMetrics(self.font)
        width = min(metrics.horizontalAdvance(text) + 10, int(area.width()))
        left = x + 4 if x + 4 + width <= area.right() else max(int(area.left()), x - 4 - width)
        chip = QRectF(left, area.bottom() - metrics.height() - 6, width, metrics.height() + 4)
        painter.fillRect(chip, QColor(c.raised))
        painter.setFont(self.font)
        painter.drawText(chip, Qt.AlignmentFlag.AlignCenter, metrics.elidedText(
            text, Qt.TextElideMode.ElideRight, width - 6))
