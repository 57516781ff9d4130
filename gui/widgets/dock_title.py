"""A dock's title bar: its name, and beside it what the dock's content wants within reach, so that it takes no line of
its own."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget


class DockTitle(QWidget):
    """Qt's own title keeps its size when fonts grow. The dock is dragged wherever no control stands."""

    def __init__(self, title: str) -> None:
        super().__init__()
        name = QLabel(title)
        name.setProperty("heading", True)
        name.setMargin(6)
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(4)
        self._row.addWidget(name)

    def add(self, controls: QWidget) -> None:
        """Put the content's controls at the right."""
        self._row.addWidget(controls, 1)
