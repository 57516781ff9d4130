"""What all lanes share: the prompt, the seed, the length, and whether chance has a part in it."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPlainTextEdit, QSpinBox, QVBoxLayout, QWidget

from engine.messages import Sampling
from gui.theme import theme

_LINES = 2
_MOST_SEED = (1 << 31) - 1


class Prompt(QPlainTextEdit):
    """Enter submits, Shift+Enter breaks the line, Tab goes on."""

    submitted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setTabChangesFocus(True)
        theme().changed.connect(self.restyle)
        self.restyle()

    def restyle(self) -> None:
        """As high as two lines of the theme's font."""
        self.setFixedHeight(_LINES * self.fontMetrics().lineSpacing() + 18)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter submits."""
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.submitted.emit()
            return
        super().keyPressEvent(event)


class Options(QWidget):
    """`changed` when the prompt was."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.prompt = Prompt()
        self.prompt.setPlaceholderText(self.tr("One prompt for all lanes"))
        self._name(self.prompt, self.tr("Prompt"), self.tr("Enter starts watching, Shift+Enter starts a new line."))
        self.seed = self._number(0, _MOST_SEED, 1, self.tr("Seed"), self.tr(
            "All lanes draw the same random numbers; the same seed repeats the texts exactly."))
        self.length = self._number(1, 100_000, 80, self.tr("Length"), self.tr("Tokens that each lane writes at most."))
        self.greedy = QCheckBox(self.tr("Greedy"))
        self._name(self.greedy, self.greedy.text(), self.tr(
            "Always the likeliest token, no chance: lanes part only where a recipe makes another one likeliest."))
        row = QHBoxLayout()
        row.setSpacing(6)
        for box in (self.seed, self.length):
            label = QLabel(box.accessibleName())
            label.setBuddy(box)
            row.addWidget(label)
            row.addWidget(box)
            row.addSpacing(6)
        row.addWidget(self.greedy)
        row.addStretch(1)
        self.row = row
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.prompt)
        column.addLayout(row)
        self.prompt.textChanged.connect(self.changed)

    def text(self) -> str:
        """The prompt."""
        return self.prompt.toPlainText().strip()

    def sampling(self, suggested: Sampling) -> Sampling:
        """What the model suggests, with the seed and length of now."""
        found = replace(suggested, seed=self.seed.value(), max_tokens=self.length.value())
        if self.greedy.isChecked():
            return replace(found, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
        return found

    def _number(self, low: int, high: int, value: int, name: str, about: str) -> QSpinBox:
        box = QSpinBox(minimum=low, maximum=high, value=value)
        box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        box.setMinimumWidth(box.fontMetrics().averageCharWidth() * 10)
        self._name(box, name, about)
        return box

    @staticmethod
    def _name(widget: QWidget, name: str, about: str) -> None:
        widget.setAccessibleName(name)
        widget.setAccessibleDescription(about)
        widget.setToolTip(about)
