"""A chart's title and legend in one: drawn by hand, so that new values cost a repaint and never a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRect, QSize, Qt, Signal
from PySide6.QtGui import (
    QAction,
    QActionGroup,
    QColor,
    QFont,
    QFontMetrics,
    QHelpEvent,
    QPainter,
    QPaintEvent,
    QPixmap,
    QResizeEvent,
)
from PySide6.QtWidgets import QMenu, QSizePolicy, QToolButton, QToolTip, QWidget

from gui.monitor.style import DIAMOND, series_colour, series_pen
from gui.monitor.views import View
from gui.monitor.words import ABSENT
from gui.theme import colours, small_font

_SWATCH = 15
_GAP = 4
_BETWEEN = 10
_VALUE_PLACE = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


@dataclass(frozen=True)
class Entry:
    """One series in the legend. number: its colour and dash; brief: the label where room is scarce; widest: what its
    value may be as wide as.

    symbol: "line", "points", or "" for what is said and not drawn.
    """

    number: int
    label: str
    brief: str
    widest: str
    tip: str
    symbol: str = "line"


class _Heading(QToolButton):
    """A heading that opens a menu. Painted by hand: style sheets would give it a button's font and padding."""

    def paintEvent(self, event: QPaintEvent) -> None:
        """The text at the left edge; a line below it for the keyboard's focus."""
        painter, c = QPainter(self), colours()
        painter.setFont(_heading_font(self.parentWidget()))
        painter.setPen(QColor(c.text if self.underMouse() else c.muted))
        text = painter.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(0, painter.fontMetrics().ascent() + 1, text)
        if self.hasFocus():
            painter.fillRect(0, self.height() - 2, self.width(), 2, QColor(c.accent))


def _heading_font(font_of: QWidget | None) -> QFont:
    font = small_font(font_of.font() if font_of is not None else QFont())
    font.setWeight(QFont.Weight.DemiBold)
    return font


class Header(QWidget):
    """The title, a button to choose what the chart shows (where there is a choice), and the legend, wrapped."""

    view_chosen = Signal(str)
    other_chosen = Signal(str)
    lines_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.lines = 1
        self._least_lines = 1
        self._room = 0
        self._title, self._hint, self._chosen = "", "", ""
        self._entries: tuple[Entry, ...] = ()
        self._values: tuple[str, ...] = ()
        self._boxes: list[QRect] = []
        self._base: QPixmap | None = None
        self._font = QFont()
        self._choose = _Heading(self)
        self._choose.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._choose.setMenu(QMenu(self._choose))
        self._choose.hide()
        self._views: list[tuple[str, str]] = []
        self._others: list[tuple[str, str]] = []

    # What it says

    def set_title(self, title: str, hint: str, views: Sequence[View], chosen: str) -> None:
        """The heading, what its tool tip adds, and the choice behind it where there is one."""
        self._title, self._hint = title, hint
        self._chosen = chosen
        self._choose.setText(f"{title} ▾")
        self._choose.setAccessibleName(self.tr("What this chart shows: {choice}").format(choice=title))
        self._choose.setToolTip(self.tr("Choose what this chart shows"))
        if [(view.key, view.title) for view in views] != self._views:
            self._views = [(view.key, view.title) for view in views]
            self._fill_menu()
        for action in self._choose.menu().actions():
            action.setChecked(action.isCheckable() and action.data() == chosen)
        self._show_choice()

    def set_others(self, others: Sequence[tuple[str, str]]) -> None:
        """Other charts (key, title) to choose in this one's place."""
        if list(others) != self._others:
            self._others = list(others)
            self._fill_menu()
            self._show_choice()

    def _show_choice(self) -> None:
        self._choose.setVisible(len(self._views) > 1 or bool(self._others))
        self._arrange()

    def set_entries(self, entries: Sequence[Entry]) -> None:
        """The series; their values follow with set_values."""
        if tuple(entries) != self._entries:
            self._entries = tuple(entries)
            self._values = (ABSENT,) * len(self._entries)
            self._arrange()

    def set_values(self, values: Sequence[str]) -> bool:
        """One text per entry; returns whether any is new, and repaints only then."""
        if tuple(values) == self._values:
            return False
        self._values = tuple(values)
        self.update()
        return True

    def values(self) -> list[tuple[str, str]]:
        """The legend as (label, value)."""
        return [(entry.label, value) for entry, value in zip(self._entries, self._values, strict=True)]

    def restyle(self) -> None:
        """Fonts and colours changed."""
        self._arrange()

    # Where it says it

    def sizeHint(self) -> QSize:
        """As wide as given, as high as the legend needs."""
        return QSize(120, self.height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Wrap anew."""
        if event.size().width() != event.oldSize().width():
            self._arrange()

    def _fill_menu(self) -> None:
        menu = self._choose.menu()
        menu.clear()
        group = QActionGroup(menu)
        for key, title in self._views if len(self._views) > 1 else ():
            action = QAction(title, menu, checkable=True)
            action.setData(key)
            action.setChecked(key == self._chosen)
            action.triggered.connect(lambda _=False, key=key: self.view_chosen.emit(key))
            group.addAction(action)
            menu.addAction(action)
        if self._others and menu.actions():
            menu.addSeparator()
        for key, title in self._others:
            action = QAction(self.tr("Instead: {chart}").format(chart=title), menu)
            action.triggered.connect(lambda _=False, key=key: self.other_chosen.emit(key))
            menu.addAction(action)

    def _arrange(self) -> None:
        """Place heading and entries in lines; sets the height. lines_changed tells when they are more or fewer.

        The legend begins beside the heading where that saves a line, else below it. lines: how many are needed, though
        the neighbours may ask for more. Entries that would take more lines than there is room for are counted instead
        ("+3").
        """
        small, bold = self._fonts()
        metrics = QFontMetrics(small)
        line = metrics.height() + 2
        x = QFontMetrics(bold).horizontalAdvance(self._title)
        if not self._choose.isHidden():
            x = min(QFontMetrics(bold).horizontalAdvance(self._choose.text()) + 4, max(20, self.width()))
            self._choose.setGeometry(0, 0, x, line)  # narrower than its hint, so that its text starts at the edge
        widths = [self._width_of(entry, metrics) for entry in self._entries]
        most = max(2, self._room // line)
        beside, below = ([box for box in boxes if box.bottom() < most * line] for boxes in (
            self._flow(widths, x + _BETWEEN, 0, line), self._flow(widths, 0, line, line)))
        one, other = (1 + max((box.top() // line for box in boxes), default=0) for boxes in (beside, below))
        is_tidy = one > 1 and other <= max(one, self._least_lines) and len(below) == len(beside)
        self._boxes = below if is_tidy else beside
        lines, self.lines = self.lines, one
        self.setFixedHeight(max(self.lines, self._least_lines) * line)
        self._base = None
        self.update()
        if lines != self.lines:
            self.lines_changed.emit()

    def _width_of(self, entry: Entry, metrics: QFontMetrics) -> int:
        swatch = _SWATCH + _GAP if entry.symbol else 0
        return swatch + metrics.horizontalAdvance(entry.label) + 2 * _GAP + metrics.horizontalAdvance(entry.widest)

    def _flow(self, widths: Sequence[int], x: int, y: int, line: int) -> list[QRect]:
        """A box for each entry, from left to right and down."""
        boxes = []
        for width in widths:
            if x > 0 and x + width > self.width():
                x, y = 0, y + line
            boxes.append(QRect(x, y, min(width, self.width()), line))
            x += width + _BETWEEN
        return boxes

    def set_room(self, height: int) -> None:
        """At most this high, but for two lines that are always shown."""
        if height != self._room:
            self._room = height
            self._arrange()

    def set_least_lines(self, lines: int) -> None:
        """Be as high as the neighbours, so that the plots stand level."""
        if lines != self._least_lines:
            self._least_lines = lines
            self._arrange()

    def _fonts(self) -> tuple[QFont, QFont]:
        return small_font(self.font()), _heading_font(self)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The values, on a picture of all that stays the same between them."""
        if self._base is None:
            self._base = self._paint_base()
        c = colours()
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._base)
        painter.setFont(self._font)
        painter.setPen(QColor(c.text))
        for value, box in zip(self._values, self._boxes, strict=False):
            painter.drawText(box, _VALUE_PLACE, value)

    def _paint_base(self) -> QPixmap:
        """Heading, swatches, labels. A label leaves as much room as the widest value needs."""
        c = colours()
        base = QPixmap(self.size() * self.devicePixelRatioF())
        base.setDevicePixelRatio(self.devicePixelRatioF())
        base.fill(QColor(c.window))
        painter = QPainter(base)
        self._font, bold = self._fonts()
        metrics = QFontMetrics(self._font)
        painter.setPen(QColor(c.muted))
        if self._choose.isHidden():
            painter.setFont(bold)
            title = QFontMetrics(bold).elidedText(self._title, Qt.TextElideMode.ElideRight, self.width())
            painter.drawText(0, metrics.ascent() + 1, title)
        painter.setFont(self._font)
        if len(self._boxes) < len(self._entries):
            corner = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignTop
            painter.drawText(self.rect(), corner, f"+{len(self._entries) - len(self._boxes)}")
        for entry, box in zip(self._entries, self._boxes, strict=False):
            left = box.left()
            if entry.symbol:
                self._paint_swatch(painter, entry, box)
                left += _SWATCH + _GAP
            room = box.right() - left - metrics.horizontalAdvance(entry.widest) - _GAP
            label = entry.label if metrics.horizontalAdvance(entry.label) <= room else entry.brief
            painter.setPen(QColor(c.muted))
            painter.drawText(left, box.top() + metrics.ascent() + 1,
                             metrics.elidedText(label, Qt.TextElideMode.ElideRight, room))
        painter.end()
        return base

    def _paint_swatch(self, painter: QPainter, entry: Entry, box: QRect) -> None:
        middle = box.top() + box.height() // 2
        if entry.symbol == "points":
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(series_colour(entry.number))
            painter.drawPolygon(DIAMOND.translated(box.left() + _SWATCH / 2, middle))
            return
        pen = series_pen(entry.number)
        pen.setWidth(2)
        if pen.dashPattern():
            pen.setDashPattern([part / 2 for part in pen.dashPattern()])
        painter.setPen(pen)
        painter.drawLine(box.left(), middle, box.left() + _SWATCH, middle)

    def event(self, event: QEvent) -> bool:
        """Tool tips: the whole name of a series and why it has no value."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            boxes = zip(self._entries, self._boxes, strict=False)
            tip = next((entry.tip for entry, box in boxes if box.contains(event.pos())), self._hint)
            if not tip and len(self._boxes) < len(self._entries):
                tip = "\n".join(f"{label} {value}" for label, value in self.values())
            QToolTip.showText(event.globalPos(), tip, self)
            return True
        return super().event(event)
