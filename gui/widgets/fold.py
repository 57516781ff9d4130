"""A button that folds something away: a chevron and words that wrap, as wide as the column it stands in."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFocusEvent, QFont, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QApplication, QSizePolicy, QWidget

from gui.theme import colours, pixmap, small_font, theme

_PAD = 4
_GAP = 6
_WRAP = int(Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)


class FoldButton(QAbstractButton):
    """Checked while what it folds is open. Space and Enter toggle it; a ring shows the keyboard's focus."""

    def __init__(self, text: str = "", parent: QWidget | None = None, *, factor: float = 0.88,
                 heading: bool = False) -> None:
        """factor: size of the words beside the application's font. heading: in half-bold."""
        super().__init__(parent)
        self._ring = False
        self._factor, self._heading = factor, heading
        self.setCheckable(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.say(text)
        theme().changed.connect(self._restyle)
        self._restyle()

    def say(self, text: str) -> None:
        """Show these words."""
        if text != self.text():
            self.setText(text)
            self.setAccessibleName(text)
            self.updateGeometry()

    def hasHeightForWidth(self) -> bool:
        """The words wrap."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Height of the wrapped words."""
        room = max(1, width - self._side() - _GAP - 2 * _PAD)
        words = self.fontMetrics().boundingRect(QRect(0, 0, room, 10_000), _WRAP, self.text())
        return max(words.height(), self._side()) + 2 * _PAD

    def sizeHint(self) -> QSize:
        """The words on one line."""
        width = self.fontMetrics().horizontalAdvance(self.text()) + self._side() + _GAP + 2 * _PAD + 2
        return QSize(width, self.heightForWidth(width))

    def minimumSizeHint(self) -> QSize:
        """The longest word."""
        word = max((self.fontMetrics().horizontalAdvance(w) for w in self.text().split()), default=0)
        return QSize(word + self._side() + _GAP + 2 * _PAD + 2, self._side() + 2 * _PAD)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter does what Space does."""
        self._ring = True
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.click()
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """A click needs no ring; the keyboard does."""
        if event.reason() != Qt.FocusReason.ActiveWindowFocusReason:
            self._ring = event.reason() != Qt.FocusReason.MouseFocusReason
        super().focusInEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Chevron, words, ring."""
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.underMouse():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.raised))
            painter.drawRoundedRect(self.rect(), 6, 6)
        side = self._side()
        line = min(self.height(), self.fontMetrics().height() + 2 * _PAD)  # the chevron stands beside the first line
        name = "chevron-down" if self.isChecked() else "chevron-right"
        painter.drawPixmap(QRect(_PAD, (line - side) // 2, side, side), pixmap(name, c.muted, side))
        painter.setPen(QColor(c.muted))
        painter.drawText(self.rect().adjusted(_PAD + side + _GAP, _PAD, -_PAD, -_PAD), _WRAP, self.text())
        if self.hasFocus() and self._ring:
            painter.setPen(QPen(QColor(c.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)

    def _side(self) -> int:
        return max(12, round(self.fontMetrics().height() * 0.9))

    def _restyle(self) -> None:
        font = small_font(QApplication.font(), self._factor)
        font.setWeight(QFont.Weight.DemiBold if self._heading else QFont.Weight.Normal)
        self.setFont(font)
        self.updateGeometry()
        self.update()
