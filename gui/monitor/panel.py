"""The monitor's dock: charts that share one stretch of time, refreshed twice a second while anyone can see them.

It knows when to refresh and what is visible; how a chart looks the chart knows. The model decodes on the same cores
and shares the interpreter's lock, so a refresh takes one look at the monitor, draws, and moves no layout.
"""

from __future__ import annotations

import math

from PySide6.QtCore import QEvent, QObject, Qt, QTimer
from PySide6.QtGui import QContextMenuEvent, QHideEvent, QKeyEvent, QShowEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from engine.monitor import Marker, Monitor
from gui.monitor.chart import Chart
from gui.monitor.footer import Footer
from gui.monitor.frame import WINDOWS_S, Frame, Window, take_frame
from gui.monitor.grid import ChartGrid
from gui.monitor.menu import MonitorMenu
from gui.monitor.table import TableDialog
from gui.monitor.views import CHARTS
from gui.monitor.words import translated
from gui.settings import Settings
from gui.theme import theme

REFRESH_MS = 500
_CURSOR_MS = 33
_CURSOR_STEPS = 120
_SAID_MS = 8000
_STALE_S = 3.0
"""The lines are drawn anew at least this often, however long the window is."""
_FRONT = "throughput perplexity"
"""The charts that are shown where there is no room for all: what techniques change most."""
_MARGIN_S = 5.0
"""Seconds copied beyond the left edge, so that lines come in from outside."""


class MonitorPanel(QWidget):
    """Charts, and the line with their controls (`title_controls`, which the dock's title bar takes over). Remembers the
    window of time, what each chart shows, and which ones stand in front."""

    def __init__(self, monitor: Monitor, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._held = False
        self.setAccessibleName(self.tr("Monitor"))
        self._monitor, self._settings = monitor, settings
        remembered_s = settings.get("monitor/window_s", WINDOWS_S[0])
        self._chosen_s = remembered_s if remembered_s in WINDOWS_S else WINDOWS_S[0]
        self.window_shown = Window(self._chosen_s)
        self._frame: Frame | None = None
        self._drawn_s = -math.inf
        self._drawn_marker: tuple[Marker, ...] = ()
        self._cursor_s: float | None = None
        self._pointed: Chart | None = None
        self._watched: QWidget | None = None
        self._table: TableDialog | None = None
        self.charts = [Chart(spec) for spec in CHARTS]
        front = settings.get("monitor/front", _FRONT).split()
        self.grid = ChartGrid(self.charts, front)
        self.menu = MonitorMenu(monitor, self.grid.content, self.since_s, self)
        self.footer = self.title_controls = Footer(self.menu)  # a dock's title bar may take it
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.grid, 1)
        column.addWidget(self.footer)
        for chart in self.charts:
            chart.choose_view(settings.get(f"monitor/{chart.spec.key}_view", ""))
            self._connect(chart)
        self.grid.front_chosen.connect(lambda keys: settings.set("monitor/front", " ".join(keys)))
        self.menu.reset.connect(self.reset_view)
        self.menu.paused.connect(self.footer.pause.setChecked)
        self.menu.table.connect(self.show_table)
        self.menu.said.connect(self._say)
        self.footer.window_chosen.connect(self.choose_window)
        self.footer.paused.connect(self._pause)
        self.footer.show_window(self._chosen_s)
        self.timer = QTimer(self, interval=REFRESH_MS)
        self.timer.timeout.connect(self.refresh)
        self._cursor_timer = QTimer(self, interval=_CURSOR_MS, singleShot=True)
        self._cursor_timer.timeout.connect(self._move_cursor)
        self._said_timer = QTimer(self, interval=_SAID_MS, singleShot=True)
        self._said_timer.timeout.connect(self._show_notes)
        # Once at once, once more when the new fonts have reached every axis: their widths are known only then.
        self._restyle_timer = QTimer(self, interval=0, singleShot=True)
        self._restyle_timer.timeout.connect(self._restyle)
        theme().changed.connect(self._restyle)
        theme().changed.connect(self._restyle_timer.start)
        self._restyle()

    # Build

    def _connect(self, chart: Chart) -> None:
        chart.view_chosen.connect(lambda key: self._choose_view(chart, key))
        chart.cursor_walked.connect(lambda steps: self._walk_cursor(chart, steps))
        chart.plot.hovered.connect(lambda seconds: self._point_at(chart, seconds))
        chart.plot.dragged.connect(lambda seconds: self._look_at(self.window_shown.moved(seconds)))
        chart.plot.zoomed.connect(lambda factor: self._look_at(self.window_shown.zoomed(factor)))
        chart.plot.reset.connect(self.reset_view)

    # Refresh

    def refresh(self) -> None:
        """Look at the monitor and draw; does nothing when no sample is new."""
        if self._held or self.footer.pause.isChecked():
            return
        infos, before = self._monitor.series(), self._frame
        news = before is None or infos != before.series
        if news:
            for chart in self.charts:
                chart.set_series(infos)
            self.grid.name_others()
        shown = [info for chart in self.charts for info in chart.shown]
        since_s = before.now_s + self.window_shown.start_s - _MARGIN_S if before else -math.inf
        self._frame = frame = take_frame(self._monitor, infos, shown, since_s)
        if not self._said_timer.isActive():
            self._show_notes()
        if news or frame.markers[-1:] != self._drawn_marker or frame.now_s - self._drawn_s >= self._pixel_s():
            self._draw()
        elif before is not None and frame.now_s != before.now_s:
            for chart in self.charts:
                chart.show_values(frame, self._cursor_s)
            self._fill_table()

    def _pixel_s(self) -> float:
        """Seconds per pixel: moving the lines by less shows nothing new."""
        columns = max(chart.plot.columns() for chart in self.charts)
        return min(_STALE_S, self.window_shown.length_s / columns)

    def _draw(self) -> None:
        if self._frame is None:
            return
        self._drawn_s, self._drawn_marker = self._frame.now_s, self._frame.markers[-1:]
        for chart in self.charts:
            chart.show_frame(self._frame, self.window_shown, self._cursor_s, chart is self._pointed)
        self._fill_table()

    def _fill_table(self) -> None:
        if self._frame is not None and self._table is not None and self._table.isVisible():
            self._table.model.take(self._frame)

    def _show_notes(self) -> None:
        if self._held:
            self.footer.show_notes([self.tr("The charts stand still while the benchmark measures; recording goes on.")])
            return
        self.footer.show_notes([translated(note) for note in self._monitor.notes()])

    def _say(self, text: str) -> None:
        """Something in passing, in place of the notes."""
        self.footer.note.set_text(text)
        self._said_timer.start()

    # What is visible

    def choose_window(self, window_s: int) -> None:
        """Show the last `window_s` seconds, and remember it."""
        self._chosen_s = window_s
        self._settings.set("monitor/window_s", window_s)
        self.reset_view()

    def reset_view(self) -> None:
        """The chosen window up to now, without a cursor."""
        self._cursor_s = None
        self._look_at(Window(self._chosen_s))

    def _look_at(self, window: Window) -> None:
        longer = window.start_s < self.window_shown.start_s
        self.window_shown = window
        self.footer.show_window(window.length_s if window.back_s == 0 else 0)
        if longer:
            self._fetch_back()
        self._draw()

    def _fetch_back(self) -> None:
        """A longer stretch than the frame holds: look again, but stay at the frame's moment, paused or not."""
        if self._frame is not None:
            shown = [info for chart in self.charts for info in chart.shown]
            since_s = self._frame.now_s + self.window_shown.start_s - _MARGIN_S
            frame = take_frame(self._monitor, self._frame.series, shown, since_s)
            self._frame = Frame(self._frame.now_s, frame.series, frame.points, frame.markers)

    def _choose_view(self, chart: Chart, key: str) -> None:
        self._settings.set(f"monitor/{chart.spec.key}_view", key)
        chart.choose_view(key)
        self.grid.name_others()
        self._fetch_back()
        self._draw()

    def hold(self, held: bool) -> None:
        """Stand still while something is measured, and say so; the recording goes on."""
        self._held = held
        self._show_notes()
        self._run_timer()
        if not held:
            self.refresh()

    def _pause(self, paused: bool) -> None:
        self.menu.pause.setChecked(paused)
        self._run_timer()
        if not paused:
            self.refresh()

    # The cursor

    def _point_at(self, chart: Chart, seconds: float | None) -> None:
        self._cursor_s, self._pointed = seconds, chart if seconds is not None else None
        if not self._cursor_timer.isActive():
            self._cursor_timer.start()

    def _walk_cursor(self, chart: Chart, steps: int | None) -> None:
        if steps is None:
            self._cursor_s = None
        else:
            window = self.window_shown
            at_s = window.end_s if self._cursor_s is None else self._cursor_s
            at_s += steps * window.length_s / _CURSOR_STEPS
            self._cursor_s = min(window.end_s, max(window.start_s, at_s))
        self._pointed = chart if self._cursor_s is not None else None
        self._move_cursor()

    def _move_cursor(self) -> None:
        if self._frame is not None:
            for chart in self.charts:
                chart.move_cursor(self._frame, self._cursor_s, chart is self._pointed)

    # Menu and table

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """The menu, by mouse or key."""
        self.menu.popup(event.globalPos())

    def show_table(self) -> None:
        """The charts as a table, in a window of its own."""
        if self._table is None:
            self._table = TableDialog(self)
        if self._frame is not None:
            self._table.model.take(self._frame)
        self._table.show()
        self._table.raise_()
        self._table.activateWindow()

    def since_s(self) -> float:
        """The left edge on the monitor's clock."""
        return self._frame.now_s + self.window_shown.start_s if self._frame else -math.inf

    # When to run

    def _run_timer(self) -> None:
        """Refresh only while somebody can see it."""
        still = self._held or self.footer.pause.isChecked()
        wanted = self.isVisible() and not self.window().isMinimized() and not still
        if wanted and not self.timer.isActive():
            self.timer.start()
        elif not wanted:
            self.timer.stop()

    def showEvent(self, event: QShowEvent) -> None:
        """Begin; the window is watched, as being minimised hides nothing."""
        super().showEvent(event)
        if self._watched is not self.window():
            if self._watched is not None:
                self._watched.removeEventFilter(self)
            self._watched = self.window()
            self._watched.installEventFilter(self)
        self.refresh()
        self._run_timer()

    def hideEvent(self, event: QHideEvent) -> None:
        """Stop."""
        super().hideEvent(event)
        self._run_timer()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The window was minimised or came back."""
        if event.type() == QEvent.Type.WindowStateChange:
            self._run_timer()
        return super().eventFilter(watched, event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Space pauses."""
        if event.key() == Qt.Key.Key_Space:
            self.footer.pause.toggle()
        else:
            super().keyPressEvent(event)

    def _restyle(self) -> None:
        for chart in self.charts:
            chart.restyle()
        self.footer.restyle()
        self.grid.restyle()
        self._draw()
