"""The list of keyboard shortcuts behind F1, read from the window's own actions so that it cannot go stale."""

from __future__ import annotations

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QFormLayout, QLabel, QMainWindow, QVBoxLayout


class ShortcutsDialog(QDialog):
    """Every action of the window that has a shortcut, and the keys of the chat."""

    def __init__(self, window: QMainWindow) -> None:
        super().__init__(window)
        self.setWindowTitle(self.tr("Keyboard shortcuts"))
        form = QFormLayout()
        for action in window.findChildren(QAction):
            if not action.shortcut().isEmpty():
                keys = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
                form.addRow(QLabel(keys), QLabel(action.text().replace("&", "")))
        for keys, what in ((self.tr("Enter"), self.tr("Send the message")),
                           (self.tr("Shift+Enter"), self.tr("New line in the message")),
                           (self.tr("F2"), self.tr("Rename the selected chat")),
                           (self.tr("Del"), self.tr("Delete the selected chat")),
                           (self.tr("Left, Right in a reply"), self.tr("Walk through its tokens")),
                           (self.tr("Alt+Left, Alt+Right in a turn"), self.tr("Walk to the branch before or after")),
                           (self.tr("Arrows, +, -, 0 in a graph"), self.tr("Move, zoom, show all of it"))):
            form.addRow(QLabel(keys), QLabel(what))
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(buttons)
