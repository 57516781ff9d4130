"""The list of keyboard shortcuts behind F1, read from the window's own actions and its pages so that it cannot go
stale."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QFrame,
    QLabel,
    QMainWindow,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from gui.context import find_pages
from gui.widgets.labels import TextLabel


class ShortcutsDialog(QDialog):
    """Every action of the window that has a shortcut, then the keys of each page."""

    def __init__(self, window: QMainWindow) -> None:
        super().__init__(window)
        self.setWindowTitle(self.tr("Keyboard shortcuts"))
        content = QWidget()
        form = QFormLayout(content)
        for action in window.findChildren(QAction):
            if not action.shortcut().isEmpty():
                keys = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
                form.addRow(QLabel(keys), QLabel(action.text().replace("&", "")))
        for page in find_pages():
            if page.keys:
                form.addRow(TextLabel(QCoreApplication.translate("pages", page.title), heading=True))
            for line in page.keys:
                form.addRow(*map(QLabel, QCoreApplication.translate("pages", line).split(": ", 1)))
        area = QScrollArea()
        area.setWidget(content)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(area)
        layout.addWidget(buttons)
        room = content.sizeHint()
        self.resize(room.width() + 60, min(room.height() + 80, round(0.9 * window.height())))
