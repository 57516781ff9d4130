"""A list and a card: side by side where there is room for both, one above the other in a narrow window."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QScrollArea, QWidget

_WIDE_IN_LETTERS = 105
_CARD_IN_LETTERS = 48


class Beside(QWidget):
    """The card scrolls where it is higher than its place."""

    def __init__(self, main: QWidget, card: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._card = card
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setWidget(card)
        self._row = QBoxLayout(QBoxLayout.Direction.TopToBottom, self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(8)
        self._row.addWidget(main, 3)
        self._row.addWidget(self._scroll, 2)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Turn the two as the width asks."""
        super().resizeEvent(event)
        letter = self.fontMetrics().averageCharWidth()
        wide = self.width() > letter * _WIDE_IN_LETTERS
        self._row.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)
        self._scroll.setMinimumWidth(letter * _CARD_IN_LETTERS if wide else 0)
