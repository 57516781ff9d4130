"""The figures of a SpeedReport: headline, where the time goes, findings, operators, and what the figures rest on."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QAbstractScrollArea,
    QApplication,
    QGridLayout,
    QHeaderView,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from engine.messages import SpeedReport
from gui.techniques import why_words
from gui.theme import colours, small_font, theme
from gui.widgets.labels import TextLabel, engine_text, quiet

_FADED = 0.35  # bars of figures that are being measured anew


class WhyReport(QWidget):
    """One report, shown once; another takes another. Disabled while others are measured."""

    def __init__(self, report: SpeedReport, model: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        head = TextLabel(why_words.headline(report), factor=1.35, bold=True)
        floor = TextLabel(why_words.floor_line(report))
        column.addWidget(head)
        column.addWidget(floor)
        column.addSpacing(2)
        column.addLayout(_shares(report))
        column.addWidget(TextLabel(self.tr("What follows from it"), heading=True, factor=0.94))
        for finding in report.findings:
            text = TextLabel(engine_text(finding))
            text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            column.addWidget(text)
        column.addWidget(TextLabel(self.tr("Operators that take most, per token"), heading=True, factor=0.94))
        self.table = _OperatorTable(report)
        column.addWidget(self.table)
        note = why_words.operator_note(report)
        if note:
            column.addWidget(quiet(note))
        column.addWidget(TextLabel(self.tr("What the figures rest on"), heading=True, factor=0.94))
        column.addLayout(_facts(report, model))


def _shares(report: SpeedReport) -> QGridLayout:
    """A line for each part: its name, a bar that begins where the one before ended, its figures in words."""
    grid = QGridLayout()
    grid.setHorizontalSpacing(10)
    grid.setVerticalSpacing(6)
    grid.setColumnStretch(1, 1)
    middle = Qt.AlignmentFlag.AlignVCenter
    for row, (name, begin, length, words) in enumerate(why_words.share_lines(report)):
        caption, figures = TextLabel(name), TextLabel(words)
        for label in (caption, figures):
            label.setWordWrap(False)
        grid.addWidget(caption, row, 0, middle)
        grid.addWidget(_Bar(begin, length, row, report.floor_s / report.token_s if report.token_s else 0.0), row, 1)
        grid.addWidget(figures, row, 2, middle)
    mark = why_words.floor_mark(report)
    if mark:
        grid.addWidget(quiet(mark), len(report.shares), 1)
    return grid


def _facts(report: SpeedReport, model: str) -> QGridLayout:
    grid = QGridLayout()
    grid.setHorizontalSpacing(10)
    grid.setVerticalSpacing(4)
    grid.setColumnStretch(1, 1)
    top = Qt.AlignmentFlag.AlignTop
    for row, (name, value) in enumerate(why_words.facts(report, model)):
        caption, text = quiet(name), TextLabel(value, factor=0.94)
        caption.setWordWrap(False)
        caption.setBuddy(text)
        grid.addWidget(caption, row, 0, top)
        grid.addWidget(text, row, 1, top)
    return grid


class _Bar(QWidget):
    """A part of the token's time on a track as long as the whole, and a line where the floor is. The words beside it
    say the same, so it has no name of its own."""

    def __init__(self, begin: float, length: float, number: int, floor: float) -> None:
        super().__init__()
        self._begin, self._length, self._number, self._floor = begin, length, number, floor
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setMinimumWidth(80)
        theme().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        """As high as a line of text."""
        return QSize(160, self.fontMetrics().height() + 4)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Track, part, floor."""
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setOpacity(1.0 if self.isEnabled() else _FADED)
        height = round(self.fontMetrics().height() * 0.7)
        track = QRectF(0, (self.height() - height) / 2, self.width(), height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(c.raised))
        painter.drawRoundedRect(track, 3, 3)
        if self._length > 0:
            self._paint_part(painter, track)
        if 0 < self._floor <= 1:
            x = self._floor * track.width()
            painter.setPen(QPen(QColor(c.text), 1.4, Qt.PenStyle.DashLine))
            painter.drawLine(round(x), 0, round(x), self.height())

    def _paint_part(self, painter: QPainter, track: QRectF) -> None:
        c = colours()
        part = QRectF(track.x() + self._begin * track.width(), track.y(),
                      max(2.0, self._length * track.width()), track.height())
        painter.setBrush(QColor(c.series[self._number % len(c.series)]))
        painter.drawRoundedRect(part.intersected(track), 3, 3)


class _OperatorTable(QTableWidget):
    """As high as its rows: the window around it scrolls."""

    def __init__(self, report: SpeedReport) -> None:
        rows, titles = why_words.operator_rows(report), why_words.operator_titles()
        super().__init__(len(rows), len(titles))
        self.setHorizontalHeaderLabels(list(titles))
        for r, row in enumerate(rows):
            for c, text in enumerate(row):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                if c:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.setItem(r, c, item)
        for c in range(len(titles)):
            side = Qt.AlignmentFlag.AlignRight if c else Qt.AlignmentFlag.AlignLeft
            self.horizontalHeaderItem(c).setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
        self.setAccessibleName(self.tr("Operators"))
        self.setAccessibleDescription(self.tr("Those that take most of a token's time: time, share and calls."))
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setTabKeyNavigation(False)
        self.setSizeAdjustPolicy(QAbstractScrollArea.SizeAdjustPolicy.AdjustToContents)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setStyleSheet("QTableView::item { padding: 0 8px; } QHeaderView::section { padding: 4px 8px; }")
        theme().changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        self.setFont(small_font(QApplication.font(), 0.94))
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 8)
        self.updateGeometry()
