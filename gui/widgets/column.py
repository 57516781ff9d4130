"""The content of a scroll area whose texts wrap: as high as they are at its width, and no higher."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QSize, Signal
from PySide6.QtWidgets import QWidget


class Column(QWidget):
    """Qt would make it as high as its texts are at their narrowest, and scroll over nothing. laid_out: its content may
    have moved."""

    laid_out = Signal()

    def minimumSizeHint(self) -> QSize:
        """The width of the widest word; the height follows from the width."""
        return QSize(super().minimumSizeHint().width(), 0)

    def event(self, event: QEvent) -> bool:
        """Tell when the layout has run."""
        done = super().event(event)
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            self.laid_out.emit()
        return done
