"""A read-only table that can be copied as Markdown: Ctrl+C, or its context menu."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QContextMenuEvent, QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QMenu,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from gui.theme import colours, small_font, theme

_TONE = int(Qt.ItemDataRole.UserRole) + 1


class CopyTable(QTableWidget):
    """Lines of text under headings. words: how many columns at the left are words, also: other columns that are; the
    rest are figures."""

    def __init__(self, name: str, about: str, words: int = 2, parent: QWidget | None = None,
                 also: Collection[int] = ()) -> None:
        super().__init__(parent)
        self._words, self._also = words, also
        self.setAccessibleName(name)
        self.setAccessibleDescription(about)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.horizontalHeader().setHighlightSections(False)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        theme().changed.connect(self._restyle)
        self._restyle()

    def set_headings(self, headings: Sequence[str]) -> None:
        """The columns; clears the table."""
        self.clear()
        self.setRowCount(0)
        self.setColumnCount(len(headings))
        self.setHorizontalHeaderLabels(list(headings))
        for column in range(len(headings)):
            self.horizontalHeaderItem(column).setTextAlignment(self._side(column))

    def set_line(self, row: int, cells: Sequence[str], tip: str = "", tone: str = "") -> None:
        """Write a line, a new one at the end where there is none. tone: "", "muted" or "error"."""
        if row >= self.rowCount():
            self.setRowCount(row + 1)
        for column, text in enumerate(cells):
            item = self.item(row, column)
            if item is None:
                item = QTableWidgetItem()
                item.setTextAlignment(self._side(column))
                self.setItem(row, column, item)
            item.setText(text)
            item.setToolTip(tip or text)
            item.setData(_TONE, tone)
            item.setForeground(self._colour(tone))

    def spread(self, row: int, column: int) -> None:
        """Let the cell of a line reach to the end of it; column 0: every cell has its own place again."""
        if not 0 <= row < self.rowCount():
            return
        first = self._words if column == 0 else column
        item = self.item(row, first)
        if column:
            self.setSpan(row, column, 1, self.columnCount() - column)
        elif self.columnSpan(row, first) > 1:
            self.setSpan(row, first, 1, 1)
        if item is not None:
            item.setTextAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter if column
                                  else self._side(first))

    def markdown(self) -> str:
        """The whole table."""
        heads = [self.horizontalHeaderItem(c).text() for c in range(self.columnCount())]
        rule = ["---" if self._is_words(c) else "---:" for c in range(self.columnCount())]
        lines = [[self._cell(r, c) for c in range(self.columnCount())] for r in range(self.rowCount())]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                         for line in (heads, rule, *lines)) + "\n"

    def copy_markdown(self) -> None:
        """Put the whole table on the clipboard."""
        QGuiApplication.clipboard().setText(self.markdown())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Copy copies Markdown."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy_markdown()
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Copy as Markdown."""
        menu = QMenu(self)
        menu.addAction(self.tr("Copy as Markdown"), self.copy_markdown)
        menu.exec(event.globalPos())

    def _cell(self, row: int, column: int) -> str:
        item = self.item(row, column)
        return item.text().replace("\n", ", ") if item is not None else ""

    def _is_words(self, column: int) -> bool:
        return column < self._words or column in self._also

    def _side(self, column: int) -> Qt.AlignmentFlag:
        side = Qt.AlignmentFlag.AlignLeft if self._is_words(column) else Qt.AlignmentFlag.AlignRight
        return side | Qt.AlignmentFlag.AlignVCenter

    @staticmethod
    def _colour(tone: str) -> QColor:
        c = colours()
        return QColor({"muted": c.muted, "error": c.error}.get(tone, c.text))

    def _restyle(self) -> None:
        self.setFont(small_font(QApplication.font(), 1.0))
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 10)
        self.setStyleSheet(f"QTableView:focus {{ border: 1px solid {colours().accent}; }}"
                           "QTableView::item { padding: 0 6px; }")
        for row in range(self.rowCount()):
            for column in range(self.columnCount()):
                item = self.item(row, column)
                if item is not None:
                    item.setForeground(self._colour(item.data(_TONE) or ""))
