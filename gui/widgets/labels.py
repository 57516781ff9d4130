"""Small things every part of the panel is made of: text in three sizes, marks, hairlines, and spoken announcements."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, QSize, Qt
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent, QFont, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractButton, QApplication, QFrame, QHBoxLayout, QLabel, QSizePolicy, QWidget

from gui.theme import colours, icon, pixmap, small_font, theme


def engine_text(text: str) -> str:
    """A sentence of the engine in the app's language."""
    return QCoreApplication.translate("engine", text) if text else ""


def announce(widget: QWidget, text: str) -> None:
    """Have a screen reader speak a change that happened away from the focus."""
    if QAccessible.isActive():
        QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(widget, text))


class TextLabel(QLabel):
    """Wrapping text that follows the theme's font size. factor: its size beside the application's font."""

    def __init__(self, text: str = "", parent: QWidget | None = None, *, factor: float = 1.0, muted: bool = False,
                 heading: bool = False, bold: bool = False) -> None:
        super().__init__(text, parent)
        self._factor = factor
        self._weight = QFont.Weight.Bold if bold else QFont.Weight.DemiBold if heading else QFont.Weight.Normal
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setProperty("muted", muted)
        self.setProperty("heading", heading)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme().changed.connect(self.restyle)
        self.restyle()

    def restyle(self) -> None:
        """Take the theme's font."""
        font = small_font(QApplication.font(), self._factor)
        font.setWeight(self._weight)
        self.setFont(font)


def quiet(text: str = "", parent: QWidget | None = None) -> TextLabel:
    """Small muted text."""
    return TextLabel(text, parent, factor=0.88, muted=True)


class IconLabel(QLabel):
    """A small icon beside a text that says the same, so it has no accessible name of its own.

    colour: name of a field of theme.Colours.
    """

    def __init__(self, name: str, colour: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name, self._colour = name, colour
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        theme().changed.connect(self.restyle)
        self.restyle()

    def restyle(self) -> None:
        """Draw the icon in the theme's colour, as high as a line of text."""
        size = max(12, round(self.fontMetrics().height() * 0.95))
        self.setPixmap(pixmap(self._name, getattr(colours(), self._colour), size))
        self.setFixedWidth(size)


def set_icon(button: QAbstractButton, name: str, colour: str | None = None) -> None:
    """Give a button an icon as high as its text. Call again when the theme changes."""
    side = max(16, round(QFontMetrics(QApplication.font()).height() * 1.05))
    button.setIconSize(QSize(side, side))
    button.setIcon(icon(name, colour, side))


def marked_line(icon_name: str, colour: str, muted: bool) -> tuple[QWidget, TextLabel]:
    """A small wrapping text behind an icon, hidden at first: (the line, its text)."""
    line = QWidget()
    row = QHBoxLayout(line)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(6)
    text = TextLabel(factor=0.88, muted=muted)
    row.addWidget(IconLabel(icon_name, colour), 0, Qt.AlignmentFlag.AlignTop)
    row.addWidget(text, 1)
    line.hide()
    return line, text


class ElidedLabel(QLabel):
    """One line that ends in "…" where there is no room for it; the whole is its tool tip then."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(text, parent)
        self.setTextFormat(Qt.TextFormat.PlainText)

    def minimumSizeHint(self) -> QSize:
        """Room for a few letters."""
        return QSize(self.fontMetrics().averageCharWidth() * 8, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """As much of the text as fits."""
        room = self.contentsRect()
        shown = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, room.width())
        self.setToolTip(self.text() if shown != self.text() else "")
        painter = QPainter(self)
        painter.setPen(self.palette().windowText().color())
        painter.drawText(room, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), shown)


class Line(QFrame):
    """A hairline between sections."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("line", True)
        self.setFixedHeight(1)
