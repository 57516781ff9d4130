"""The plot of one chart, on pyqtgraph: its view, its axes, and one item that draws every line.

Measured at 1280 pixels with eight series: pyqtgraph's axes replay their text and grid at every paint (16 ms for four
charts), so they are kept as pictures here and drawn anew only when a range moves. A PlotCurveItem each costs another
millisecond in bounding rectangles, so one item with a fixed one draws all. The horizontal axis is relative to now: data
move, axes do not. What means something else than the lines has an axis of its own at the right, marked with its symbol.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPoint, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QContextMenuEvent, QFontMetrics, QMouseEvent, QWheelEvent
from PySide6.QtWidgets import QGraphicsGridLayout, QGraphicsItem, QWidget

from engine.monitor.ring import FloatArray
from gui.monitor.canvas import Canvas
from gui.monitor.polyline import Scale
from gui.monitor.style import SYMBOL
from gui.monitor.words import ago_text, axis_text
from gui.theme import colours, small_font

_RIGHT_MARGIN = 18
_TICK_OVERHANG = 40
_SYMBOL_PX = 5
_MOST_HEADROOM = 0.3
_TALL_PX = 130
_TALL_PARTS, _LOW_PARTS = 5, 2
_USUAL_TIME = "−60 s"
_USUAL_TICK = "500 MB"
"""At least this much room beside each plot, so that the four are equally wide."""


class Plot(pg.GraphicsView):  # type: ignore[misc]
    """View, axes and canvas. Tells where the mouse is; what that means the panel decides.

    hovered: seconds before now, or None when the mouse has left. dragged: seconds the hand moved the picture.
    zoomed: factor by which the window of time should grow. reset: a double click.
    """

    hovered = Signal(object)
    dragged = Signal(float)
    zoomed = Signal(float)
    reset = Signal()

    def __init__(self, parent: QWidget | None = None, *, second_axis: bool = False) -> None:
        super().__init__(parent, useOpenGL=False, background=None)
        self.setInteractive(False)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setMinimumHeight(40)
        self._unit = ""
        self._scale = Scale(1.0)
        self._second = Scale(1.0)
        self._x_range = (-60.0, 0.0)
        self._grip: QPoint | None = None
        self._shown_parts = 0
        self._places: list[float] = []
        self.view = pg.ViewBox(enableMouse=False, enableMenu=False, defaultPadding=0)
        self.left, self.bottom = pg.AxisItem("left"), pg.AxisItem("bottom")
        self.right = pg.AxisItem("right") if second_axis else None
        places = [(self.left, 0, 0), (self.bottom, 1, 1)] + ([(self.right, 0, 2)] if self.right is not None else [])
        self._axes = [axis for axis, _, _ in places]
        self.canvas = Canvas()
        self._grid = QGraphicsGridLayout()
        self._grid.setSpacing(0)
        frame = pg.GraphicsWidget()
        frame.setLayout(self._grid)
        for axis, row, column in places:
            axis.linkToView(self.view)
            axis.setStyle(tickLength=0, tickAlpha=255, hideOverlappingLabels=_TICK_OVERHANG, autoExpandTextSpace=False,
                          autoReduceTextSpace=False)
            axis.setCacheMode(QGraphicsItem.CacheMode.DeviceCoordinateCache)
            self._grid.addItem(axis, row, column)
        self._grid.addItem(self.view, 0, 1)
        self._grid.setRowStretchFactor(0, 1)
        self._grid.setColumnStretchFactor(1, 1)
        self.setCentralItem(frame)
        self.view.disableAutoRange()
        self.view.addItem(self.canvas, ignoreBounds=True)
        self.view.sigResized.connect(self._resized)

    # Ranges

    def set_x_range(self, start_s: float, end_s: float, ticks: Sequence[float]) -> None:
        """The visible time, in seconds before now."""
        self._x_range = (start_s, end_s)
        self.bottom.setTicks([[(tick, ago_text(tick)) for tick in ticks]])
        self._apply_range()

    def set_scale(self, unit: str, scale: Scale) -> None:
        """The vertical axis; call after the scale moved."""
        self._unit, self._scale = unit, scale
        self._shown_parts = self._parts()
        values = scale.ticks(self._shown_parts)
        places = [float(place) for place in scale.place(np.asarray(values, dtype=np.float64))]
        texts = [axis_text(unit, value) for value in values]
        metrics = QFontMetrics(self.canvas.font)
        width = max(metrics.horizontalAdvance(text) for text in [*texts, _USUAL_TICK]) + 8
        if self.left.width() != width:
            self.left.setWidth(width)
        self.left.setTicks([list(zip(places, texts, strict=True))])
        self._places = places
        self._apply_range()
        self.set_second_scale(self._second)

    def set_second_scale(self, scale: Scale) -> None:
        """The axis at the right; call after that scale moved."""
        self._second = scale
        if self.right is None:
            return
        values = scale.ticks(_LOW_PARTS)
        texts = [f"{axis_text('', value)}{SYMBOL}" for value in values]
        width = max(map(QFontMetrics(self.canvas.font).horizontalAdvance, texts)) + 10
        if self.right.width() != width:
            self.right.setWidth(width)
        places = self.beside(np.asarray(values, dtype=np.float64))
        self.right.setTicks([list(zip((float(place) for place in places), texts, strict=True))])

    def beside(self, values: FloatArray) -> FloatArray:
        """Values of the axis at the right, in the drawing coordinates of the one at the left, (n,)."""
        second, scale = self._second, self._scale
        share = (second.place(values) - second.bottom) / ((second.top or 1.0) - second.bottom)
        return scale.bottom + share * ((scale.top or 1.0) - scale.bottom)

    def _apply_range(self) -> None:
        (start_s, end_s), scale = self._x_range, self._scale
        # The markers' labels stand in a strip of their own, above all lines and points.
        strip = QFontMetrics(self.canvas.font).height() + _SYMBOL_PX
        share = min(_MOST_HEADROOM, strip / max(1.0, self.view.height()))
        height = ((scale.top or 1.0) - scale.bottom) / (1.0 - share)
        self.view.setRange(xRange=(start_s, end_s), yRange=(scale.bottom, scale.bottom + height), padding=0)
        self.canvas.set_bounds(QRectF(start_s, scale.bottom, end_s - start_s, height), self._places)

    def time_parts(self) -> int:
        """Into how many parts the labels of the horizontal axis may cut it without touching each other."""
        return max(1, int(self.view.width() / (1.6 * QFontMetrics(self.canvas.font).horizontalAdvance(_USUAL_TIME))))

    def columns(self) -> int:
        """Pixels across the plot."""
        return max(1, int(self.view.width()))

    def restyle(self) -> None:
        """Fonts or colours changed."""
        c, font = colours(), small_font(self.font(), 0.82)
        self.setBackground(c.window)
        for axis in self._axes:
            axis.setStyle(tickFont=font)
            axis.setPen(c.border)
            axis.setTickPen(c.border)
            axis.setTextPen(c.muted)
        line = QFontMetrics(font).height()
        self.bottom.setStyle(tickTextOffset=line // 4 + 2)  # clear of the lowest label at the left
        self.bottom.setHeight(line + line // 4 + 3)
        self._grid.setContentsMargins(0, line // 2, 0 if self.right is not None else _RIGHT_MARGIN, 0)
        self.canvas.restyle(font)
        self.set_scale(self._unit, self._scale)
        self.set_second_scale(self._second)

    def _resized(self) -> None:
        """A taller plot has room for more ticks, and gives the labels a smaller share."""
        if self._parts() != self._shown_parts:
            self.set_scale(self._unit, self._scale)
        else:
            self._apply_range()
        self._forget_pictures()

    def _forget_pictures(self) -> None:
        """Qt keeps what of a picture an axis of another size still covers, and the labels in it then stand where they
        stood before."""
        for axis in self._axes:
            axis.picture = None
            axis.setCacheMode(QGraphicsItem.CacheMode.NoCache)  # an update alone does not drop it
            axis.setCacheMode(QGraphicsItem.CacheMode.DeviceCoordinateCache)

    def _parts(self) -> int:
        return _TALL_PARTS if self.view.height() >= _TALL_PX else _LOW_PARTS

    # The mouse: pyqtgraph's own scene would look through every item at every move

    def _seconds_at(self, position: QPointF) -> float | None:
        area = self.view.sceneBoundingRect()
        if not area.contains(position):
            return None
        start_s, end_s = self._x_range
        return float(start_s + (position.x() - area.left()) / area.width() * (end_s - start_s))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Point at a moment, or drag the picture."""
        if self._grip is not None and event.buttons() & Qt.MouseButton.LeftButton:
            moved = event.position().toPoint().x() - self._grip.x()
            self._grip = event.position().toPoint()
            self.dragged.emit(moved / self.columns() * (self._x_range[1] - self._x_range[0]))
        self.hovered.emit(self._seconds_at(event.position()))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take hold of the picture."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._grip = event.position().toPoint()
        event.ignore()  # so that the chart takes the focus

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let go."""
        self._grip = None

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Back to the chosen window of time."""
        self.reset.emit()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """With Ctrl the window of time grows and shrinks; without, the wheel scrolls what is around."""
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier and event.angleDelta().y():
            self.zoomed.emit(0.8 if event.angleDelta().y() > 0 else 1.25)
            event.accept()
        else:
            event.ignore()

    def leaveEvent(self, event: object) -> None:
        """Nobody points any more."""
        self.hovered.emit(None)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """The menu is the panel's."""
        event.ignore()

    def keyPressEvent(self, event: object) -> None:
        """Keys belong to the chart."""
        event.ignore()  # type: ignore[attr-defined]

