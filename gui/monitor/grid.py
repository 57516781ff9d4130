"""Where the four charts stand: in a row, in two rows, or, where there is no room for that, a few of them at a time."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QScrollArea, QWidget

from gui.monitor.chart import Chart

_EASY_LETTERS, _TIGHT_LETTERS = 30, 20
"""Widths of a chart in which it reads well, and in which it can still be read, in letters."""
_CHART_LINES = 8


class ChartGrid(QScrollArea):
    """Four in a row; two rows where they are too narrow and there is height for it; else as many as read well, each
    with the others in its heading's menu.

    content: the charts without scroll bars, for pictures. shown: the charts that have a place now. front_chosen: the
    user called another chart to the front; the keys of all, the first ones in front.
    """

    front_chosen = Signal(list)

    def __init__(self, charts: Sequence[Chart], front: Sequence[str] = (), parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.columns = 0
        self.shown: list[Chart] = []
        self.content = QWidget()
        self._charts = charts
        self._order = sorted(charts, key=lambda c: front.index(c.spec.key) if c.spec.key in front else len(front))
        self._grid = QGridLayout(self.content)
        self._grid.setContentsMargins(4, 2, 4, 0)
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(4)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(self.content)
        for chart in charts:
            chart.header.lines_changed.connect(self._level_headers)
            chart.other_chosen.connect(lambda key, c=chart: self._swap(c, key))
        self._arrange()

    def restyle(self) -> None:
        """Fonts changed."""
        self.columns = 0
        self._arrange()

    def name_others(self) -> None:
        """Offer the charts that have no place in the menus of those that have one; call when titles changed."""
        hidden = [(chart.spec.key, chart.title) for chart in self._charts if chart not in self.shown]
        for chart in self.shown:
            chart.offer_others(hidden)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Wrap the charts."""
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        columns, count = self._plan()
        if (columns, count) == (self.columns, len(self.shown)):
            return
        self.columns = columns
        self._place(count)

    def _place(self, count: int) -> None:
        focused = next((chart for chart in self.shown if chart.hasFocus()), None)
        self.shown = list(self._charts) if count == len(self._charts) else self._order[:count]
        for chart in self._charts:
            self._grid.removeWidget(chart)
            chart.setParent(self.content)  # shown without one it would be a window for a moment, and take the focus
            chart.setVisible(chart in self.shown)
        least = self._least_height() if len(self.shown) > self.columns else 0
        for number, chart in enumerate(self.shown):
            chart.setMinimumHeight(least)
            self._grid.addWidget(chart, number // self.columns, number % self.columns)
        for column in range(len(self._charts)):
            self._grid.setColumnStretch(column, 1 if column < self.columns else 0)
        if focused is not None and focused not in self.shown:
            self.shown[0].setFocus()
        self.name_others()
        self._level_headers()

    def _swap(self, chart: Chart, key: str) -> None:
        """Put another chart in this one's place."""
        other = next(c for c in self._charts if c.spec.key == key)
        here, there = self._order.index(chart), self._order.index(other)
        self._order[here], self._order[there] = other, chart
        self._place(len(self.shown))
        other.setFocus()
        self.front_chosen.emit([c.spec.key for c in self._order])

    def _plan(self) -> tuple[int, int]:
        """(charts in a row, charts shown)."""
        letter, width, every = self.fontMetrics().averageCharWidth(), self.width(), len(self._charts)
        if width >= every * _EASY_LETTERS * letter:
            return every, every
        columns = 2 if width >= 2 * _TIGHT_LETTERS * letter else 1
        return columns, every if self.height() >= 2 * self._least_height() else columns

    def _least_height(self) -> int:
        return self.fontMetrics().height() * _CHART_LINES

    def _level_headers(self) -> None:
        """Headers in one row are equally high."""
        most = max(chart.header.lines for chart in self.shown) if self.columns == len(self.shown) else 1
        for chart in self._charts:
            chart.header.set_least_lines(most)
