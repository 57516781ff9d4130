"""The content of a scroll area whose texts wrap: as high as they are at its width, and no higher."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtWidgets import QWidget


class Column(QWidget):
    """Qt would make it as high as its texts are at their narrowest, and scroll over nothing."""

    def minimumSizeHint(self) -> QSize:
        """The width of the widest word; the height follows from the width."""
        return QSize(super().minimumSizeHint().width(), 0)
