"""One sentence of what happened, one of what to do, details behind a fold, Copy. For errors that a dialog would be
too much for, and for the quiet "deleted, undo" kind."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gui.theme import code_font, icon, theme


class Notice(QFrame):
    """A bar that says something and goes when dismissed (or after `lasting_ms`). Hidden while it has nothing to say."""

    dismissed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = QLabel(wordWrap=True)
        self._text.setTextFormat(Qt.TextFormat.PlainText)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse
                                           | Qt.TextInteractionFlag.TextSelectableByKeyboard)
        self._action = QPushButton()
        self._fold = QPushButton(self.tr("Details"))
        self._fold.setCheckable(True)
        self._copy = QPushButton(self.tr("Copy"))
        self._close = QToolButton()
        self._close.setIcon(icon("close"))
        self._close.setAccessibleName(self.tr("Dismiss"))
        self._close.setAccessibleDescription(self.tr("Hide this message."))
        self._close.setToolTip(self.tr("Dismiss"))
        self._details = QPlainTextEdit(readOnly=True)
        self._details.setAccessibleName(self.tr("Details of the error"))
        self._details.setAccessibleDescription(self.tr("What was reported, read-only."))
        self._fold.setAccessibleName(self._fold.text())
        self._fold.setAccessibleDescription(self.tr("Show what was reported, for a bug report."))
        self._copy.setAccessibleName(self._copy.text())
        self._copy.setAccessibleDescription(self.tr("Copy the message and its details to the clipboard."))
        self._details.setMaximumHeight(180)
        self._on_action: Callable[[], None] | None = None
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self.clear)
        for button in (self._action, self._fold, self._copy):
            button.setProperty("quiet", True)
        head, actions = QHBoxLayout(), QHBoxLayout()
        head.addWidget(self._text, 1)
        head.addWidget(self._close, 0, Qt.AlignmentFlag.AlignTop)
        for button in (self._action, self._fold, self._copy):
            actions.addWidget(button)
        actions.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 8, 8, 8)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addLayout(actions)
        layout.addWidget(self._details)
        theme().changed.connect(self._restyle)
        self._fold.toggled.connect(self._details.setVisible)
        self._copy.clicked.connect(self._copy_all)
        self._close.clicked.connect(self.clear)
        self._close.clicked.connect(self.dismissed)
        self._action.clicked.connect(self._act)
        self.hide()

    def show_problem(self, summary: str, hint: str = "", details: str = "") -> None:
        """Say what went wrong."""
        self._show(f"{summary} {hint}".strip(), problem=True, details=details)

    def show_message(self, text: str, action: str = "", on_action: Callable[[], None] | None = None,
                     lasting_ms: int = 8000) -> None:
        """Say something in passing (until dismissed with `lasting_ms` 0), with one thing the user may do about it."""
        self._show(text, problem=False, action=action, on_action=on_action)
        if lasting_ms:
            self._timer.start(lasting_ms)

    def clear(self) -> None:
        """Say nothing."""
        self._timer.stop()
        self.hide()

    def text(self) -> str:
        """What it says."""
        return self._text.text()

    def _show(self, text: str, problem: bool, action: str = "", on_action: Callable[[], None] | None = None,
              details: str = "") -> None:
        self._timer.stop()
        self.setProperty("problem", problem)
        self.setProperty("card", not problem)
        self.style().unpolish(self)
        self.style().polish(self)
        self._text.setText(text)
        self._text.setAccessibleName(text)
        self._on_action = on_action
        self._action.setText(action)
        self._action.setAccessibleName(action)
        self._action.setAccessibleDescription(text)
        self._action.setVisible(bool(action))
        self._copy.setVisible(problem)
        self._fold.setVisible(bool(details))
        self._fold.setChecked(False)
        self._restyle()
        self._details.setPlainText(details)
        self._details.setVisible(False)
        self.show()

    def _restyle(self) -> None:
        self._close.setIcon(icon("close"))
        self._details.setFont(code_font(self.font()))

    def _act(self) -> None:
        action = self._on_action
        self.clear()
        if action is not None:
            action()

    def _copy_all(self) -> None:
        QGuiApplication.clipboard().setText(f"{self._text.text()}\n\n{self._details.toPlainText()}".strip())
