"""The charts as a table, for those whom lines tell nothing: a row per sample, the newest at the top."""

from __future__ import annotations

import math
import time

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QAbstractItemView, QDialog, QHeaderView, QLabel, QTableView, QVBoxLayout, QWidget

from engine.monitor import SeriesInfo
from gui.monitor.frame import Frame
from gui.monitor.views import cards_of
from gui.monitor.words import ABSENT, long_label, translated, value_text
from gui.theme import small_font

_ROWS = 240
_SAME_MOMENT_S = 0.002

Index = QModelIndex | QPersistentModelIndex


class SamplesModel(QAbstractTableModel):
    """Rows: the last 240 samples; columns: the time, every series shown, and the switches.

    New rows are inserted at the top, so that a selection and a screen reader's place stay where they are.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._series: tuple[SeriesInfo, ...] = ()
        self._many_cards = False
        self._rows: list[tuple[float, dict[str, float], str]] = []  # newest first: time, values, switches
        self._marker_s = -math.inf  # of the newest marker taken in
        self._clock_offset_s = time.time() - time.monotonic()

    def take(self, frame: Frame) -> None:
        """Add what is new in the frame."""
        series = tuple(info for info in frame.series if info.key in frame.points)
        if [info.key for info in series] != [info.key for info in self._series]:
            self.beginResetModel()
            self._series, self._rows, self._marker_s = series, [], -math.inf
            self._many_cards = len(cards_of(frame.series)) > 1
            self.endResetModel()
        self._series = series
        newest_s = self._rows[0][0] if self._rows else -math.inf
        fresh = self._fresh_rows(frame, newest_s + _SAME_MOMENT_S)[:_ROWS]
        if fresh:
            self.beginInsertRows(QModelIndex(), 0, len(fresh) - 1)
            self._rows[:0] = fresh
            self.endInsertRows()
        if len(self._rows) > _ROWS:
            self.beginRemoveRows(QModelIndex(), _ROWS, len(self._rows) - 1)
            del self._rows[_ROWS:]
            self.endRemoveRows()

    def _fresh_rows(self, frame: Frame, after_s: float) -> list[tuple[float, dict[str, float], str]]:
        rows: dict[float, tuple[dict[str, float], list[str]]] = {}
        for info in self._series:
            times_s, values = frame.points[info.key]
            for t_s, value in zip(times_s[-_ROWS:].tolist(), values[-_ROWS:].tolist(), strict=True):
                if t_s > after_s:
                    rows.setdefault(round(t_s, 3), ({}, []))[0][info.key] = value
        for marker in frame.markers:
            if marker.t_s > self._marker_s and rows:
                following = min((t_s for t_s in rows if t_s >= marker.t_s), default=max(rows))
                rows[following][1].append(marker.label)
        if rows and frame.markers:
            self._marker_s = frame.markers[-1].t_s
        return [(t_s, values, ", ".join(labels)) for t_s, (values, labels) in sorted(rows.items(), reverse=True)]

    def rowCount(self, parent: Index | None = None) -> int:
        """One per sample."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index | None = None) -> int:
        """Time, series, switches."""
        return 0 if parent is not None and parent.isValid() else len(self._series) + 2

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """A value with its unit."""
        t_s, values, switches = self._rows[index.row()]
        column = index.column()
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(column)
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == 0:
            moment_s = t_s + self._clock_offset_s
            return f"{time.strftime('%H:%M:%S', time.localtime(moment_s))}.{int(moment_s * 10) % 10}"
        if column > len(self._series):
            return switches
        info = self._series[column - 1]
        return value_text(info.unit, values[info.key]) if info.key in values else ABSENT

    def _alignment(self, column: int) -> int:
        """Figures to the right, words to the left."""
        side = Qt.AlignmentFlag.AlignRight if 0 < column <= len(self._series) else Qt.AlignmentFlag.AlignLeft
        return int(side | Qt.AlignmentFlag.AlignVCenter)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """The series' names; their tool tips say why values are missing."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(section)
        if orientation != Qt.Orientation.Horizontal or role not in (
                Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        if section == 0:
            return self.tr("Time")
        if section > len(self._series):
            return self.tr("Switches")
        info = self._series[section - 1]
        reason = info.reason_missing if role == Qt.ItemDataRole.ToolTipRole else None
        return translated(reason) if reason else long_label(info, self._many_cards)


class _Table(QTableView):
    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Ctrl+C copies the selected cells; Qt would copy one."""
        if event.matches(QKeySequence.StandardKey.Copy):
            rows: dict[int, list[str]] = {}
            for index in sorted(self.selectedIndexes(), key=lambda index: (index.row(), index.column())):
                rows.setdefault(index.row(), []).append(str(index.data()))
            QGuiApplication.clipboard().setText("\n".join("\t".join(cells) for cells in rows.values()))
        else:
            super().keyPressEvent(event)


class TableDialog(QDialog):
    """The table in a window of its own; the charts stay usable beside it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Monitor as a table"))
        self.setModal(False)
        self.model = SamplesModel(self)
        self.view = _Table()
        self.view.setModel(self.model)
        self.view.setAccessibleName(self.tr("Samples of the monitor, the newest first"))
        self.view.setFont(small_font(self.font(), 0.95))
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ContiguousSelection)
        self.view.setTabKeyNavigation(False)
        self.view.verticalHeader().hide()
        self.view.setShowGrid(False)
        self.view.setAlternatingRowColors(True)
        self.view.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        hint = QLabel(self.tr("A dash: no value at that moment. Ctrl+C copies the selection. Pausing the charts "
                              "pauses the table."))
        hint.setProperty("muted", True)
        hint.setWordWrap(True)
        column = QVBoxLayout(self)
        column.addWidget(hint)
        column.addWidget(self.view, 1)
        self.model.modelReset.connect(self._fit_columns)
        self.resize(860, 420)

    def _fit_columns(self) -> None:
        """Wide enough for the names; only when the columns change."""
        metrics = self.view.horizontalHeader().fontMetrics()
        for column in range(self.model.columnCount()):
            text = str(self.model.headerData(column, Qt.Orientation.Horizontal))
            self.view.setColumnWidth(column, max(90, metrics.horizontalAdvance(text) + 24))
