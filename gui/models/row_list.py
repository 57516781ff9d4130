"""A list of two-line rows: a name with a verdict at its right, facts below it. Text that does not fit ends in "…"."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPen
from PySide6.QtWidgets import QApplication, QListWidget, QListWidgetItem, QStyle, QStyledItemDelegate
from PySide6.QtWidgets import QStyleOptionViewItem as Option
from PySide6.QtWidgets import QWidget as Widget

from gui.models.words import NO_VERDICT, Verdict
from gui.theme import colours, pixmap, small_font, theme

_ROW = int(Qt.ItemDataRole.UserRole)
_PAD, _GAP = 8, 6
_Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class Row:
    """key: what the row stands for."""

    key: str
    title: str
    facts: str
    verdict: Verdict = NO_VERDICT
    muted: bool = False


class RowList(QListWidget):
    """Rows by key; the selection stays where its key is."""

    def __init__(self, name: str, about: str, parent: Widget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(name)
        self.setAccessibleDescription(about)
        self.setItemDelegate(_Delegate(self))
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QListWidget.ScrollMode.ScrollPerPixel)
        self.setUniformItemSizes(True)
        self.setMinimumHeight(60)
        theme().changed.connect(self._restyle)

    def show_rows(self, rows: list[Row]) -> None:
        """Show these and no others. The selection is told anew only where its row is gone."""
        chosen = self.key()
        same = [item.data(_ROW).key for item in self._items()] == [row.key for row in rows]
        blocked = self.blockSignals(True)
        if not same:
            self.clear()
            for _ in rows:
                self.addItem(QListWidgetItem())
        for item, row in zip(self._items(), rows, strict=True):
            item.setData(_ROW, row)
            item.setToolTip(f"{row.title}\n{row.facts}")
            spoken = ", ".join(part for part in (row.title, row.verdict.text, row.facts.replace("  ·  ", ", ")) if part)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, spoken)
        places = [place for place, row in enumerate(rows) if row.key == chosen]
        self.setCurrentRow(places[0] if places else (0 if rows else -1))
        self.blockSignals(blocked)
        self.viewport().update()
        if self.key() != chosen:
            self.currentItemChanged.emit(self.currentItem(), None)

    def key(self) -> str:
        """The key of the current row, "" for none."""
        item = self.currentItem()
        row = item.data(_ROW) if item is not None else None
        return row.key if isinstance(row, Row) else ""

    def choose(self, key: str) -> None:
        """Make a row the current one."""
        for place, item in enumerate(self._items()):
            if item.data(_ROW).key == key:
                self.setCurrentRow(place)

    def rows(self) -> list[Row]:
        """What is shown."""
        return [item.data(_ROW) for item in self._items()]

    def _items(self) -> list[QListWidgetItem]:
        return [self.item(place) for place in range(self.count())]

    def _restyle(self) -> None:
        self.scheduleDelayedItemsLayout()


class _Delegate(QStyledItemDelegate):
    """Paints a Row."""

    def sizeHint(self, option: Option, index: _Index) -> QSize:
        """Two lines, however narrow."""
        big, small = _fonts()
        return QSize(120, QFontMetrics(big).height() + QFontMetrics(small).height() + 2 * _PAD + 2)

    def paint(self, painter: QPainter, option: Option, index: _Index) -> None:
        """Title and verdict, then facts."""
        row, c = index.data(_ROW), colours()
        if not isinstance(row, Row):
            return
        state, rect = option.state, option.rect
        selected = bool(state & QStyle.StateFlag.State_Selected)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        piece = rect.adjusted(2, 1, -2, -1)
        if selected or state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.accent_soft if selected else c.raised))
            painter.drawRoundedRect(piece, 6, 6)
        if state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(QPen(QColor(c.accent), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(piece.adjusted(0, 0, -1, -1), 6, 6)
        big, small = _fonts()
        room = rect.adjusted(_PAD + 2, _PAD, -_PAD - 2, -_PAD)
        line = QRect(room.left(), room.top(), room.width(), QFontMetrics(big).height())
        right = self._verdict(painter, row, line, small)
        _text(painter, big, c.muted if row.muted else c.text,
              QRect(line.left(), line.top(), right - line.left() - _GAP, line.height()), row.title)
        below = QRect(room.left(), line.bottom() + 3, room.width(), QFontMetrics(small).height())
        _text(painter, small, c.muted, below, row.facts)
        painter.restore()

    def _verdict(self, painter: QPainter, row: Row, line: QRect, font: QFont) -> int:
        """At the right end of the line; returns where it begins."""
        if not row.verdict.text:
            return line.right()
        metrics = QFontMetrics(font)
        side = metrics.height() if row.verdict.icon else 0
        width = min(metrics.horizontalAdvance(row.verdict.text) + 2, line.width() // 2)
        left = line.right() - width - (side + 4 if side else 0)
        colour = getattr(colours(), row.verdict.colour)
        if side:
            painter.drawPixmap(QRect(left, line.top() + (line.height() - side) // 2, side, side),
                               pixmap(row.verdict.icon, colour, side))
        _text(painter, font, colour, QRect(line.right() - width, line.top(), width, line.height()), row.verdict.text)
        return left


def _fonts() -> tuple[QFont, QFont]:
    big = QFont(QApplication.font())
    big.setWeight(QFont.Weight.DemiBold)
    return big, small_font(QApplication.font(), 0.9)


def _text(painter: QPainter, font: QFont, colour: str, rect: QRect, text: str) -> None:
    painter.setFont(font)
    painter.setPen(QColor(colour))
    shown = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideRight, rect.width())
    painter.drawText(rect, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), shown)
