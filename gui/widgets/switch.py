"""A switch: a whole row to press, its words at the left, a painted track and knob at the right.

It is a check box to assistive technology. Colour is never the only sign: the knob's place says the same, and a tick
stands in the track when it is on.
"""

from __future__ import annotations

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QCheckBox, QSizePolicy, QWidget

from gui.theme import colours, theme

PAD = 4
_GAP = 10
_WRAP = int(Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)


class Switch(QCheckBox):
    """Space and Enter toggle it; a ring shows the keyboard's focus."""

    def __init__(self, text: str, parent: QWidget | None = None) -> None:
        super().__init__(text, parent)
        self._ring = False
        self.setAccessibleName(text)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        # Fixed would hold the row to the height of one line: a layout takes the size hint for it.
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme().changed.connect(self.updateGeometry)

    def hasHeightForWidth(self) -> bool:
        """The words wrap."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Height of the wrapped words, or of the track where that is more."""
        room = max(1, width - self._track_size().width() - _GAP - 2 * PAD)
        words = self.fontMetrics().boundingRect(QRect(0, 0, room, 10_000), _WRAP, self.text())
        return max(words.height(), self._track_size().height()) + 2 * PAD

    def sizeHint(self) -> QSize:
        """The words on one line beside the track."""
        width = self.fontMetrics().horizontalAdvance(self.text()) + _GAP + self._track_size().width() + 2 * PAD + 2
        return QSize(width, self.heightForWidth(width))

    def minimumSizeHint(self) -> QSize:
        """The longest word beside the track."""
        word = max((self.fontMetrics().horizontalAdvance(w) for w in self.text().split()), default=0)
        width = word + _GAP + self._track_size().width() + 2 * PAD + 2
        return QSize(width, self._track_size().height() + 2 * PAD)

    def hitButton(self, pos: QPoint) -> bool:
        """The whole row answers."""
        return self.rect().contains(pos)

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
        """Words, track, knob, tick, ring."""
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.isEnabled() and self.underMouse():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.raised))
            painter.drawRoundedRect(self.rect(), 6, 6)
        track = self._track_size()
        place = QRectF(self.width() - PAD - track.width(), (self.height() - track.height()) / 2,
                       track.width(), track.height())
        painter.setPen(QColor(c.text if self.isEnabled() else c.muted))
        words = self.rect().adjusted(PAD, PAD, -PAD - _GAP - track.width(), -PAD)
        painter.drawText(words, _WRAP, self.text())
        self._paint_track(painter, place)
        if self.hasFocus() and self._ring:
            painter.setPen(QPen(QColor(c.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)

    def _paint_track(self, painter: QPainter, place: QRectF) -> None:
        c, on, enabled = colours(), self.isChecked(), self.isEnabled()
        radius, inset = place.height() / 2, place.height() * 0.18
        track = c.accent if on else c.window
        edge = c.accent if on else c.muted
        knob = c.on_accent if on else c.muted
        if not enabled:
            track, edge, knob = c.raised, c.muted, c.muted
            painter.setOpacity(0.5)
        painter.setPen(QPen(QColor(edge), 1.4))
        painter.setBrush(QColor(track))
        painter.drawRoundedRect(place.adjusted(0.7, 0.7, -0.7, -0.7), radius, radius)
        side = place.height() - 2 * inset
        left = place.right() - inset - side if on else place.left() + inset
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(knob))
        painter.drawEllipse(QRectF(left, place.top() + inset, side, side))
        if on:
            painter.setPen(QPen(QColor(knob), 1.8, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap,
                                Qt.PenJoinStyle.RoundJoin))
            x, y, s = place.left() + place.width() * 0.19, place.center().y(), side * 0.28
            painter.drawPolyline([QPoint(round(x), round(y)), QPoint(round(x + s), round(y + s)),
                                  QPoint(round(x + 2.6 * s), round(y - s))])
        painter.setOpacity(1.0)

    def _track_size(self) -> QSize:
        height = max(16, round(self.fontMetrics().height() * 1.05))
        return QSize(round(height * 1.85), height)
