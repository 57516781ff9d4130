"""An error as a card in a narrow column: what happened, what to do, the details behind a fold, Copy."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QFrame, QHBoxLayout, QPlainTextEdit, QPushButton, QToolButton, QVBoxLayout
from PySide6.QtWidgets import QWidget as Widget

from gui.theme import code_font, theme
from gui.widgets.labels import IconLabel, TextLabel, announce, engine_text, set_icon


class ProblemCard(QFrame):
    """Hidden until `tell()`; dismissed by the user or `clear()`."""

    dismissed = Signal()

    def __init__(self, parent: Widget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("problem", True)
        self.setAccessibleName(self.tr("Problem"))
        self._summary = TextLabel(bold=True)
        self._hint = TextLabel()
        self._close = QToolButton()
        self._close.setAccessibleName(self.tr("Dismiss"))
        self._close.setAccessibleDescription(self.tr("Hide this message."))
        self._close.setToolTip(self.tr("Dismiss"))
        self._close.clicked.connect(self._dismiss)
        self._fold = QToolButton()
        self._fold.setText(self.tr("Details"))
        self._fold.setCheckable(True)
        self._fold.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._fold.setAccessibleName(self.tr("Details"))
        self._fold.setAccessibleDescription(self.tr("Show what the engine reported, for a bug report."))
        self._fold.toggled.connect(self._unfold)
        self._copy = QPushButton(self.tr("Copy"))
        self._copy.setAccessibleName(self.tr("Copy"))
        self._copy.setAccessibleDescription(self.tr("Copy the message and its details to the clipboard."))
        self._copy.clicked.connect(self.copy)
        self._details = QPlainTextEdit()
        self._details.setReadOnly(True)
        self._details.setAccessibleName(self.tr("Details of the problem"))
        self._details.setAccessibleDescription(self.tr("The engine's own report, read-only."))
        self._details.setTabChangesFocus(True)
        self._details.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._arrange()
        theme().changed.connect(self._restyle)
        self._restyle()
        self.clear()

    def tell(self, summary: str, hint: str = "", details: str = "") -> None:
        """Show a problem in place of the one before."""
        self._summary.setText(engine_text(summary))
        self._hint.setText(engine_text(hint))
        self._hint.setVisible(bool(hint))
        self._details.setPlainText(details)
        self._fold.setChecked(False)
        self._details.hide()
        self._fold.setVisible(bool(details))
        self._copy.setVisible(bool(details))
        self.setAccessibleDescription(f"{self._summary.text()} {self._hint.text()}".strip())
        self.show()
        announce(self, self.accessibleDescription())

    def clear(self) -> None:
        """Hide; there is no problem any more."""
        self.hide()
        self._summary.clear()

    @property
    def text(self) -> str:
        """What stands in it, empty where it is hidden."""
        return f"{self._summary.text()} {self._hint.text()}".strip() if not self.isHidden() else ""

    def copy(self) -> None:
        """Put message and details on the clipboard."""
        parts = (self._summary.text(), self._hint.text(), self._details.toPlainText())
        QGuiApplication.clipboard().setText("\n".join(part for part in parts if part))

    def _dismiss(self) -> None:
        self.clear()
        self.dismissed.emit()

    def _unfold(self, unfolded: bool) -> None:
        self._details.setVisible(unfolded)
        self._restyle()

    def _arrange(self) -> None:
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self._summary)
        words.addWidget(self._hint)
        top = QHBoxLayout()
        top.setSpacing(6)
        top.addWidget(IconLabel("warning", "error"), 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(words, 1)
        top.addWidget(self._close, 0, Qt.AlignmentFlag.AlignTop)
        buttons = QHBoxLayout()
        buttons.addWidget(self._fold)
        buttons.addStretch()
        buttons.addWidget(self._copy)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 8, 6, 8)
        column.setSpacing(4)
        column.addLayout(top)
        column.addLayout(buttons)
        column.addWidget(self._details)

    def _restyle(self) -> None:
        set_icon(self._close, "close")
        set_icon(self._fold, "chevron-down" if self._fold.isChecked() else "chevron-right")
        self._details.setFont(code_font(QApplication.font()))
        self._details.setFixedHeight(self._details.fontMetrics().height() * 8)
