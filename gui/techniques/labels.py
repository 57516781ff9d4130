"""Small things every part of the panel is made of: quiet text, headings, and wheels that do not change values."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, QEvent, QObject, Qt
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent
from PySide6.QtWidgets import QApplication, QFrame, QLabel, QSizePolicy, QWidget

from gui.theme import colours, pixmap, small_font, theme


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
        self._factor, self._bold = factor, bold
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
        font.setBold(self._bold)
        self.setFont(font)


def quiet(text: str = "", parent: QWidget | None = None) -> TextLabel:
    """Small muted text."""
    return TextLabel(text, parent, factor=0.88, muted=True)


class IconLabel(QLabel):
    """A small icon beside a text that says the same; invisible to screen readers' users, so it has no name of its own.

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


class Line(QFrame):
    """A hairline between sections."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("line", True)
        self.setFixedHeight(1)


class WheelGuard(QObject):
    """Lets the wheel scroll the panel instead of changing a value the pointer happens to be over."""

    def guard(self, *widgets: QWidget) -> None:
        """Watch these controls."""
        for widget in widgets:
            widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ignore the wheel over a control without focus."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return super().eventFilter(watched, event)
