"""Where one writes. It takes typing at any time, while the model loads or replies too."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPlainTextEdit, QPushButton, QToolButton, QVBoxLayout, QWidget

from gui.theme import icon

_MAX_LINES = 8


class _Field(QPlainTextEdit):
    """Grows with its text up to a few lines. Enter sends, Shift+Enter breaks the line."""

    submitted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setTabChangesFocus(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setStyleSheet("QPlainTextEdit, QPlainTextEdit:focus { border: none; background: transparent; }")
        self.textChanged.connect(self._fit)
        self._fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.submitted.emit()
            return
        super().keyPressEvent(event)

    def changeEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        super().changeEvent(event)
        self._fit()

    def sizeHint(self) -> QSize:
        return QSize(300, self.height())

    def _fit(self) -> None:
        lines = sum(max(1, self.document().findBlockByNumber(i).layout().lineCount())
                    for i in range(min(self.document().blockCount(), _MAX_LINES)))
        height = min(max(lines, 1), _MAX_LINES) * self.fontMetrics().lineSpacing() + 14
        full = lines > _MAX_LINES
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded if full else
                                        Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        if height != self.height():
            self.setFixedHeight(height)


class Composer(QFrame):
    """The field with Send (Stop while a reply runs) and the sampling button."""

    sent = Signal(str)
    stop_requested = Signal()
    sampling_requested = Signal(QWidget)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self.field = _Field()
        self.field.setPlaceholderText(self.tr("Write a message"))
        self.field.setAccessibleName(self.tr("Message"))
        self.field.setAccessibleDescription(self.tr("Enter sends, Shift+Enter starts a new line."))
        self.field.setToolTip(self.field.accessibleDescription())
        self._sampling = QToolButton()
        self._sampling.setAccessibleName(self.tr("Sampling and system prompt"))
        self._sampling.setToolTip(self.tr("Sampling and system prompt"))
        self._send = QPushButton(self.tr("Send"))
        self._send.setProperty("primary", True)
        self._stop = QPushButton(self.tr("Stop"))
        self._stop.setToolTip(self.tr("Stop the reply and keep what was written (Esc)"))
        self._stop.hide()
        buttons = QHBoxLayout()
        buttons.addWidget(self._sampling)
        buttons.addStretch(1)
        buttons.addWidget(self._stop)
        buttons.addWidget(self._send)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        layout.setSpacing(2)
        layout.addWidget(self.field)
        layout.addLayout(buttons)
        self._busy = False
        self.field.submitted.connect(self._submit)
        self.field.textChanged.connect(self._update)
        self._send.clicked.connect(self._submit)
        self._stop.clicked.connect(self.stop_requested)
        self._sampling.clicked.connect(lambda: self.sampling_requested.emit(self._sampling))
        self.restyle()
        self._update()

    def set_busy(self, busy: bool) -> None:
        """Whether a reply runs: typing goes on, sending waits."""
        self._busy = busy
        self._stop.setVisible(busy)
        self._update()

    def restyle(self) -> None:
        """Draw again in the active colours."""
        self._sampling.setIcon(icon("sliders"))

    def _submit(self) -> None:
        text = self.field.toPlainText().strip()
        if text and not self._busy:
            self.field.clear()
            self.sent.emit(text)

    def _update(self) -> None:
        empty = not self.field.toPlainText().strip()
        self._send.setEnabled(not empty and not self._busy)
        self._send.setToolTip(self.tr("A reply is being written") if self._busy else
                              self.tr("Write something first") if empty else self.tr("Send (Enter)"))
