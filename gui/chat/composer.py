"""Where one writes. It takes typing at any time, while the model loads or replies too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QMimeData, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.errors import DynoError
from engine.messages import ModelInfo
from engine.scenarios import Scenario
from gui.chat.attachment import Attachment, read_text_file
from gui.chat.budget import ContextMeter
from gui.chat.scenario_bar import ScenarioBar, words
from gui.chat.turns import Way
from gui.theme import icon

_MAX_LINES = 8


class _Field(QPlainTextEdit):
    """Grows with its text up to a few lines. Enter sends, Shift+Enter breaks the line. A file that is dropped or pasted
    is offered as a file."""

    submitted = Signal()
    file_dropped = Signal(str)

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

    def insertFromMimeData(self, source: QMimeData) -> None:
        """A file's name is no text to send."""
        files = [url.toLocalFile() for url in source.urls() if url.isLocalFile()]
        if files:
            self.file_dropped.emit(files[0])
        else:
            super().insertFromMimeData(source)

    def canInsertFromMimeData(self, source: QMimeData) -> bool:
        """Files too; folders are models, and the window takes them."""
        files = [Path(url.toLocalFile()) for url in source.urls() if url.isLocalFile()]
        return files[0].is_file() if files else super().canInsertFromMimeData(source)

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
    """The field with Send (Stop while a reply runs), what the model is to do, a file's text, and the context's budget.

    `sent` carries the whole text; `way` says what is to be done with it. `changed`: what state() gives is another.
    """

    sent = Signal(str)
    changed = Signal()
    stop_requested = Signal()
    sampling_requested = Signal(QWidget)
    refused = Signal(str, str)  # a sentence and a hint about a file

    def __init__(self, scenarios: Sequence[Scenario], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self.scenarios = ScenarioBar(scenarios)
        self.attachment = Attachment()
        self.meter = ContextMeter()
        self.field = _Field()
        self.field.setAccessibleName(self.tr("Message"))
        self.field.setAccessibleDescription(self.tr("Enter sends, Shift+Enter starts a new line."))
        self.field.setToolTip(self.field.accessibleDescription())
        self._sampling = self._tool(self.tr("Sampling, stop strings and system prompt"))
        self._file = self._tool(self.tr("Add the text of a file"))
        self._send = QPushButton(self.tr("Send"))
        self._send.setProperty("primary", True)
        self._stop = QPushButton(self.tr("Stop"))
        self._stop.setToolTip(self.tr("Stop the reply and keep what was written (Esc)"))
        self._stop.hide()
        self.scenarios.row.addWidget(self.meter)
        self.scenarios.row.addWidget(self._file)
        self.scenarios.row.addWidget(self._sampling)
        writing = QHBoxLayout()
        writing.addWidget(self.field, 1)
        for button in (self._stop, self._send):
            writing.addWidget(button, 0, Qt.AlignmentFlag.AlignBottom)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        layout.setSpacing(4)
        layout.addWidget(self.scenarios)
        layout.addWidget(self.attachment)
        layout.addLayout(writing)
        self._busy = False
        self._connect()
        self.restyle()
        self._update()

    def _connect(self) -> None:
        self.field.submitted.connect(self._submit)
        self.field.file_dropped.connect(self.add_file)
        self._send.clicked.connect(self._submit)
        self._stop.clicked.connect(self.stop_requested)
        self._sampling.clicked.connect(lambda: self.sampling_requested.emit(self._sampling))
        self._file.clicked.connect(self._choose_file)
        for signal in (self.field.textChanged, self.attachment.changed, self.scenarios.changed):
            signal.connect(self._update)
            signal.connect(self.changed)

    @property
    def way(self) -> Way:
        """What is to be done with the text."""
        return self.scenarios.way

    @property
    def _empty(self) -> bool:
        return not self.attachment.text and not self.field.toPlainText().strip()

    @property
    def text(self) -> str:
        """All that would be sent: what is written, then the file."""
        parts = (self.field.toPlainText().strip(), self.attachment.text.strip())
        return "\n\n".join(part for part in parts if part)

    def state(self) -> dict[str, Any]:
        """What is written and chosen, for set_state(); empty where that is nothing."""
        state: dict[str, Any] = {}
        if self.field.toPlainText().strip():
            state["text"] = self.field.toPlainText()
        if self.attachment.text:
            kept = {"path": self.attachment.path} if self.attachment.path else {"text": self.attachment.text}
            state["file"] = {"name": self.attachment.name, **kept}
        return state | self.way.to_meta()

    def set_state(self, state: dict[str, Any]) -> None:
        """Show what state() gave. A file that is gone is left out, and said."""
        self.scenarios.choose(state.get("scenario", ""), state.get("values", {}))
        self.attachment.clear()
        file = state.get("file", {})
        if "text" in file:
            self.attachment.put(file.get("name", ""), file["text"])
        elif "path" in file:
            self.add_file(file["path"])
        self.field.setPlainText(state.get("text", ""))
        self.field.moveCursor(self.field.textCursor().MoveOperation.End)

    def add_file(self, path: str) -> None:
        """Take the text of a file along."""
        try:
            self.attachment.put(Path(path).name, read_text_file(Path(path)), path)
        except DynoError as error:
            self.refused.emit(error.summary, error.hint)

    def set_model(self, model: ModelInfo | None) -> None:
        """Judge what can be done by this model."""
        self.scenarios.set_model(model)
        self._update()

    def set_busy(self, busy: bool) -> None:
        """Whether a reply runs: typing goes on, sending waits."""
        self._busy = busy
        self._stop.setVisible(busy)
        self._update()

    def restyle(self) -> None:
        """Draw again in the active colours."""
        self._sampling.setIcon(icon("sliders"))
        self._file.setIcon(icon("attach"))

    def _tool(self, title: str) -> QToolButton:
        button = QToolButton()
        button.setAccessibleName(title)
        button.setToolTip(title)
        return button

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Add the text of a file"), str(Path.home()),
                                              self.tr("Text (*.txt *.md *.rst *.csv *.json *.py);;All files (*)"))
        if path:
            self.add_file(path)
        self.field.setFocus()

    def _submit(self) -> None:
        if not self._empty and not self._busy and not self.scenarios.problem:
            self.sent.emit(self.text)

    def clear(self) -> None:
        """What was written has been taken; the choice of what to do stays."""
        self.attachment.clear()
        self.field.clear()

    def _update(self) -> None:
        empty, problem = self._empty, self.scenarios.problem
        self.field.setPlaceholderText(words(self.way.scenario.hint) or self.tr("Write a message"))
        self._send.setEnabled(not empty and not self._busy and not problem)
        self._send.setToolTip(self.tr("A reply is being written") if self._busy else problem if problem else
                              self.tr("Write something first") if empty else self.tr("Send (Enter)"))
