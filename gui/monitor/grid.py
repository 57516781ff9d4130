"""Where the four charts stand: in a row, in two rows, or one below the other."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QScrollArea, QWidget

from gui.monitor.chart import Chart

_EASY_LETTERS, _TIGHT_LETTERS = 23, 14
"""Widths of a chart in which it reads well, and in which it can still be read, in letters."""
_CHART_LINES = 8


class ChartGrid(QScrollArea):
    """Four in a row; two rows where they are too narrow and there is height for it; what does not fit scrolls.

    content: the charts without scroll bars, for pictures.
    """

    def __init__(self, charts: Sequence[Chart], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.columns = 0
        self.content = QWidget()
        self._charts = charts
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
        self._arrange()

    def restyle(self) -> None:
        """Fonts changed."""
        self.columns = 0
        self._arrange()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Wrap the charts."""
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        columns = self._best_columns()
        if columns == self.columns:
            return
        self.columns = columns
        for number, chart in enumerate(self._charts):
            chart.setMinimumHeight(self._least_height() if columns < 4 else 0)
            self._grid.addWidget(chart, number // columns, number % columns)
        for column in range(4):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)
        self._level_headers()

    def _best_columns(self) -> int:
        letter, width = self.fontMetrics().averageCharWidth(), self.width()
        tight = 4 if width >= 4 * _TIGHT_LETTERS * letter else 2 if width >= 2 * _TIGHT_LETTERS * letter else 1
        if width >= 4 * _EASY_LETTERS * letter or self.height() < 2 * self._least_height():
            return tight
        return min(2, tight)

    def _least_height(self) -> int:
        return self.fontMetrics().height() * _CHART_LINES

    def _level_headers(self) -> None:
        """Headers in one row are equally high."""
        most = max(chart.header.lines for chart in self._charts) if self.columns == 4 else 1
        for chart in self._charts:
            chart.header.set_least_lines(most)
