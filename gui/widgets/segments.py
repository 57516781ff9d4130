"""A row of segments of which one is chosen: radio buttons to assistive technology, one control to the eye."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QFont, QFontMetrics, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QRadioButton, QSizePolicy, QWidget

from gui.theme import colours, theme

_RADIUS = 6


class _Segment(QRadioButton):
    """One choice. The chosen one is raised, edged and bold."""

    def __init__(self, text: str, parent: QWidget) -> None:
        super().__init__(text, parent)
        self._ring = False
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def hitButton(self, pos: object) -> bool:
        """The whole segment answers."""
        return True

    def sizeHint(self) -> QSize:
        """Room for the bold text."""
        metrics = QFontMetrics(self._font(True))
        return QSize(metrics.horizontalAdvance(self.text()) + 16, metrics.height() + 12)

    def minimumSizeHint(self) -> QSize:
        """A segment never hides its word; where there is little room it stands close to the edges."""
        return self.sizeHint() - QSize(10, 0)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Any key brings the ring out."""
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
        """The word, on a raised piece where chosen."""
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        piece = QRectF(self.rect()).adjusted(2.5, 2.5, -2.5, -2.5)
        if self.isChecked():
            painter.setPen(QPen(QColor(c.accent), 1))
            painter.setBrush(QColor(c.accent_soft))
            painter.drawRoundedRect(piece, _RADIUS - 1, _RADIUS - 1)
        elif self.isEnabled() and self.underMouse():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.surface))
            painter.drawRoundedRect(piece, _RADIUS - 1, _RADIUS - 1)
        font = self._font(self.isChecked())
        font.setStrikeOut(not self.isEnabled())
        painter.setFont(font)
        painter.setPen(QColor(c.text if self.isEnabled() else c.muted))
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, self.text())
        if self.hasFocus() and self._ring:
            painter.setPen(QPen(QColor(c.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), _RADIUS, _RADIUS)

    def _font(self, bold: bool) -> QFont:
        font = QFont(self.font())
        font.setBold(bold)
        return font


class Segments(QWidget):
    """`chosen` tells a choice the user made; `choose()` shows one without telling."""

    chosen = Signal(str)

    def __init__(self, name: str, choices: Sequence[tuple[str, str]], parent: QWidget | None = None) -> None:
        """name: for assistive technology. choices: (value, text) from left to right."""
        super().__init__(parent)
        self.setAccessibleName(name)
        row = QHBoxLayout(self)
        row.setContentsMargins(1, 1, 1, 1)
        row.setSpacing(0)
        self._segments: dict[str, _Segment] = {}
        for value, text in choices:
            segment = _Segment(text, self)
            segment.setAccessibleName(f"{name}: {text}")
            segment.clicked.connect(lambda _checked, value=value: self.chosen.emit(value))
            row.addWidget(segment)
            self._segments[value] = segment
        theme().changed.connect(self.update)

    @property
    def value(self) -> str:
        """The chosen value, empty where none is."""
        return next((value for value, segment in self._segments.items() if segment.isChecked()), "")

    def choose(self, value: str) -> None:
        """Show `value` as chosen."""
        self._segments[value].setChecked(True)

    def describe(self, value: str, text: str) -> None:
        """Say what a choice means, in its tool tip and to assistive technology."""
        self._segments[value].setToolTip(text)
        self._segments[value].setAccessibleDescription(text)

    def set_available(self, value: str, available: bool) -> None:
        """Let a choice be made, or not. The chosen one always stays live, so that it can be left."""
        self._segments[value].setEnabled(available or self._segments[value].isChecked())

    def segment(self, value: str) -> QRadioButton:
        """The button of a choice."""
        return self._segments[value]

    def paintEvent(self, event: QPaintEvent) -> None:
        """The trough the segments lie in."""
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(c.border), 1))
        painter.setBrush(QColor(c.raised))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), _RADIUS, _RADIUS)
