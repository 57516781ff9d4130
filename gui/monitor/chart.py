"""One chart of the monitor: header and plot, and the way from a frame to lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QRect, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QGuiApplication,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QVBoxLayout, QWidget

from engine.monitor import SeriesInfo
from engine.monitor.ring import FloatArray
from gui.monitor.canvas import Drawing
from gui.monitor.frame import NO_POINTS, Frame, Window
from gui.monitor.header import Entry, Header
from gui.monitor.plot import Plot
from gui.monitor.polyline import Scale, lone_points, thinned, value_at
from gui.monitor.views import ChartSpec, View, cards_of, is_points, is_switch, said, views_of
from gui.monitor.words import brief_label, long_label, short_label, translated, value_text, widest_value
from gui.theme import colours

_HOLDS_S = 20.0
"""How long a value counts as current when nothing newer came: the rarest sampled series come every ten seconds."""
_AWAITED = "…"
_LEGEND_SHARE = 0.5
_FIXED_TOP = {"%": 100.0}
_IDLE_TOP = {"W": 100.0, "°C": 100.0, "MHz": 1000.0}


class Chart(QWidget):
    """Shows the series of one group. Left and Right walk the cursor, Ctrl+C copies the values.

    view_chosen: the user chose what to show (a View's key). other_chosen: another chart in this one's place (its key).
    cursor_walked: steps, or None to put the cursor away.
    """

    view_chosen = Signal(str)
    other_chosen = Signal(str)
    cursor_walked = Signal(object)

    def __init__(self, spec: ChartSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        self.title = ""
        self.shown: tuple[SeriesInfo, ...] = ()
        self.wanted_view = ""
        self._infos: tuple[SeriesInfo, ...] = ()
        self._view: View | None = None
        self._numbers: dict[str, int] = {}
        self._scale = Scale(spec.idle_top, may_be_log=spec.may_be_log)
        self._second = Scale(spec.idle_top, may_be_log=spec.may_be_log)
        self._unit = spec.unit
        self._x_ticks: tuple[float, float, int] | None = None
        self.header = Header()
        self.plot = Plot(second_axis=spec.second_axis)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 3, 2, 2)
        column.setSpacing(0)
        column.addWidget(self.header)
        column.addWidget(self.plot, 1)
        self.header.view_chosen.connect(self.view_chosen)
        self.header.other_chosen.connect(self.other_chosen)
        self.set_series(())

    # Which series

    def set_series(self, infos: tuple[SeriesInfo, ...]) -> None:
        """Take in the series known now."""
        self._infos = infos
        views = views_of(self.spec, infos)
        view = next((view for view in views if view.key == self.wanted_view), views[0])
        if self._view is None or view.key != self._view.key:
            self._scale = Scale(self.spec.idle_top, may_be_log=self.spec.may_be_log)
            self._numbers = {}
        self._view, self.title = view, view.title
        self.shown = tuple(info for info in infos if view.picks(info))
        for info in self.shown:
            if not is_switch(info) and info.key not in self._numbers:
                free = itertools.count(1 if is_points(info) else 0)  # a chart's first line is always the plain one
                self._numbers[info.key] = next(n for n in free if n not in self._numbers.values())
        self._set_unit(next((info.unit for info in self.shown if not is_switch(info)), self._unit))
        hint = said(self.spec.hint) if self.spec.hint else ""
        self.header.set_title(self.title, hint, views, view.key)
        many_cards = len(cards_of(infos)) > 1
        self.header.set_entries([self._entry(info, many_cards) for info in self.shown])
        self.setAccessibleName(self.tr("{title} chart").format(title=self.title))

    def choose_view(self, key: str) -> None:
        """Show another choice of series, now or as soon as it exists."""
        self.wanted_view = key
        self.set_series(self._infos)

    def offer_others(self, others: Sequence[tuple[str, str]]) -> None:
        """Charts (key, title) that the heading's menu offers in this one's place."""
        self.header.set_others(others)

    def _entry(self, info: SeriesInfo, many_cards: bool) -> Entry:
        tip = long_label(info, many_cards)
        if info.reason_missing is not None:
            tip = f"{tip}: {translated(info.reason_missing)}"
        label, brief = short_label(info, many_cards), brief_label(info, many_cards)
        if self._is_second(info):
            label, brief = (self.tr("{series}, right axis").format(series=name) for name in (label, brief))
            tip = self.tr("{series}: the diamonds, on the axis at the right").format(series=tip)
        symbol = "" if is_switch(info) else "points" if is_points(info) else "line"
        return Entry(self._numbers.get(info.key, 0), label, brief, widest_value(info.unit), tip, symbol)

    def _is_second(self, info: SeriesInfo) -> bool:
        return self.spec.second_axis and is_points(info)

    def _set_unit(self, unit: str) -> None:
        if unit != self._unit or self._scale.top == 0.0:
            self._unit = unit
            self._scale.fixed_top = _FIXED_TOP.get(unit)
            self._scale.idle_top = _IDLE_TOP.get(unit, self.spec.idle_top)
            self._scale.fit(math.nan, math.nan)
            self.plot.set_scale(unit, self._scale)

    # What they are

    def show_frame(self, frame: Frame, window: Window, cursor_s: float | None, hovered: bool) -> None:
        """Draw. cursor_s: the moment pointed at, relative to now; hovered: whether at this chart."""
        self._show_window(window)
        visible = [(info, *frame.points[info.key]) for info in self.shown
                   if info.key in frame.points and not is_switch(info)]
        self._fit(visible, frame.now_s, window)
        marked = [marker for marker in frame.markers if marker.t_s >= frame.now_s + window.start_s]
        drawing = Drawing(markers=[(m.t_s - frame.now_s, m.label) for m in marked if not m.job],
                          jobs=[(m.t_s - frame.now_s, m.label) for m in marked if m.job],
                          cursor_x=cursor_s, cursor_label=hovered)
        bin_s = window.length_s / self.plot.columns()
        for info, times_s, values in visible:
            number = self._numbers[info.key]
            if is_points(info):
                place = self.plot.beside if self._is_second(info) else self._scale.place
                drawing.points.append((number, times_s - frame.now_s, place(values)))
                continue
            times_s, values = thinned(times_s, values, bin_s)
            xs, ys = times_s - frame.now_s, self._scale.place(values)
            drawing.lines.append((number, pg.arrayToQPath(xs, ys, connect="finite")))
            lone = lone_points(values)
            if len(lone):
                drawing.dots.append((number, xs[lone], ys[lone]))
        drawing.message = self._why_empty(frame, window)
        self.plot.canvas.drawing = drawing
        self.plot.canvas.update()
        self.show_values(frame, cursor_s)

    def move_cursor(self, frame: Frame, cursor_s: float | None, hovered: bool) -> None:
        """The same drawing with the cursor elsewhere."""
        self.plot.canvas.drawing.cursor_x = cursor_s
        self.plot.canvas.drawing.cursor_label = hovered
        self.plot.canvas.update()
        self.show_values(frame, cursor_s)

    def _show_window(self, window: Window) -> None:
        parts = self.plot.time_parts()
        key = (window.start_s, window.end_s, parts)
        if key != self._x_ticks:
            self._x_ticks = key
            self.plot.set_x_range(window.start_s, window.end_s, window.ticks(parts))

    def _fit(self, visible: Sequence[tuple[SeriesInfo, FloatArray, FloatArray]], now_s: float, window: Window) -> None:
        """Move the vertical axes when what is visible asks for it."""
        for second, scale in ((False, self._scale), (True, self._second)):
            lowest, highest = math.nan, math.nan
            for info, times_s, values in visible:
                inside = values[(times_s >= now_s + window.start_s) & (times_s <= now_s + window.end_s)]
                if len(inside) and self._is_second(info) == second:
                    lowest = float(np.fmin(lowest, np.fmin.reduce(inside)))
                    highest = float(np.fmax(highest, np.fmax.reduce(inside)))
            if not scale.fit(lowest, highest):
                continue
            if second:
                self.plot.set_second_scale(scale)
            else:
                self.plot.set_scale(self._unit, scale)

    def _why_empty(self, frame: Frame, window: Window) -> str:
        """Said in the plot when it has nothing to draw; the legend's tool tips say it of single series."""
        for info in self.shown:
            times_s, values = frame.points.get(info.key, NO_POINTS)
            if len(values) and np.any(np.isfinite(values) & (times_s >= frame.now_s + window.start_s)):
                return ""
        reason = next((info.reason_missing for info in self.shown if info.reason_missing), None)
        if reason is not None:
            return translated(reason)
        return self.tr("Nothing in this stretch of time.") if self.shown else self.tr("Nothing to show yet.")

    def show_values(self, frame: Frame, cursor_s: float | None) -> None:
        """The legend's values at the cursor, or now."""
        at_s = frame.now_s + (cursor_s if cursor_s is not None else 0.0)
        texts = []
        for info in self.shown:
            times_s, values = frame.points.get(info.key, NO_POINTS)
            holds_s = math.inf if is_points(info) else _HOLDS_S
            waits = is_points(info) and len(times_s) and any(
                times_s[times_s <= at_s].max(initial=-math.inf) < m.t_s <= at_s for m in frame.markers if not m.job)
            # A measurement from before a switch is none of the recipe that is named now.
            texts.append(_AWAITED if waits else value_text(info.unit, value_at(times_s, values, at_s, holds_s)))
        if self.header.set_values(texts) or not self.accessibleDescription():
            self.setAccessibleDescription(self.values_text(", ", "; "))

    def values_text(self, equals: str = "\t", between: str = "\n") -> str:
        """The values in the legend, as text."""
        rows = [f"{label}{equals}{value}" for label, value in self.header.values()]
        return between.join([self.title, *rows])

    def restyle(self) -> None:
        """Fonts or colours changed."""
        self.header.restyle()
        self.plot.restyle()
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The legend takes no more than its share."""
        super().resizeEvent(event)
        self.header.set_room(int(self.height() * _LEGEND_SHARE))

    # Keyboard and focus

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and Right walk the cursor, End puts it away."""
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key()))
        if steps is not None:
            self.cursor_walked.emit(steps * (10 if event.modifiers() & Qt.KeyboardModifier.ControlModifier else 1))
        elif event.key() == Qt.Key.Key_End:
            self.cursor_walked.emit(None)
        elif event.matches(QKeySequence.StandardKey.Copy):
            QGuiApplication.clipboard().setText(self.values_text())
        else:
            super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click takes the focus."""
        self.setFocus(Qt.FocusReason.MouseFocusReason)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show that keys go here."""
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Keys go elsewhere."""
        super().focusOutEvent(event)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The focus mark: a bar at the left edge."""
        if self.hasFocus():
            QPainter(self).fillRect(QRect(0, 3, 2, self.height() - 5), QColor(colours().accent))
