"""Sampling settings and system prompt in one popover, remembered; the model's own suggestion is one click away."""

from __future__ import annotations

import re
from dataclasses import replace

from PySide6.QtCore import QPoint, QRegularExpression, Qt, Signal
from PySide6.QtGui import QRegularExpressionValidator
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from engine.messages import Sampling
from gui.settings import Settings
from gui.widgets.controls import ChoiceBox

_PACES = (0.0, 30.0, 10.0, 3.0)


class SamplingPopover(QFrame):
    """Edits a Sampling and the system prompt of the conversation."""

    system_prompt_changed = Signal(str)

    def __init__(self, settings: Settings, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self._settings = settings
        self._suggested = Sampling()
        self.setProperty("card", True)
        self.setMinimumWidth(320)
        form = QFormLayout()
        self._number: dict[str, QSpinBox | QDoubleSpinBox] = {}
        self._add(form, "temperature", self.tr("Temperature"), self.tr(
            "How much chance there is in the choice of a token; 0 always takes the likeliest one"), 0, 5, 0.05)
        self._add(form, "top_k", self.tr("Top-k"), self.tr("Choose among the k likeliest tokens; 0 for all"),
                  0, 100000, 0)
        self._add(form, "top_p", self.tr("Top-p"), self.tr(
            "Choose among the likeliest tokens that together hold this share of the probability; 1 for all"),
                  0.01, 1, 0.01)
        self._add(form, "min_p", self.tr("Min-p"), self.tr(
            "Leave out tokens with less than this share of the likeliest one's probability; 0 for none"), 0, 1, 0.01)
        self._add(form, "repetition_penalty", self.tr("Repetition penalty"), self.tr(
            "Above 1, tokens that stand in the text already become less likely; 1 for none"), 1, 3, 0.05)
        self._add(form, "max_tokens", self.tr("Longest reply"), self.tr("Where a reply ends at the latest, in tokens"),
                  1, 100000, 0)
        self._pace = self._add_pace(form)
        self._seed = QLineEdit()
        self._seed.setValidator(QRegularExpressionValidator(QRegularExpression("[0-9]{0,18}"), self))
        self._seed.setPlaceholderText(self.tr("random"))
        self._seed.setAccessibleName(self.tr("Seed"))
        tip = self.tr("A number makes replies repeat exactly; empty for a fresh one each time")
        self._seed.setToolTip(tip)
        self._seed.setAccessibleDescription(tip)
        form.addRow(self.tr("Seed"), self._seed)
        self._stop = QPlainTextEdit()
        self._stop.setTabChangesFocus(True)
        self._stop.setAccessibleName(self.tr("Stop strings"))
        self._stop.setPlaceholderText(self.tr("None"))
        tip = self.tr("A reply ends before any of these texts, one a line; \\n stands for a line end.")
        self._stop.setToolTip(tip)
        self._stop.setAccessibleDescription(tip)
        self._stop.setFixedHeight(2 * self._stop.fontMetrics().lineSpacing() + 14)
        form.addRow(self.tr("Stop strings"), self._stop)
        self._system = QPlainTextEdit()
        self._system.setAccessibleName(self.tr("System prompt of this conversation"))
        self._system.setPlaceholderText(self.tr("None"))
        self._system.setTabChangesFocus(True)
        self._system.setFixedHeight(84)
        reset = QPushButton(self.tr("Use what the model suggests"))
        reset.clicked.connect(self._reset)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(QLabel(self.tr("System prompt of this conversation")))
        layout.addWidget(self._system)
        layout.addWidget(reset)
        self._system.textChanged.connect(lambda: self.system_prompt_changed.emit(self._system.toPlainText().strip()))
        self._seed.textChanged.connect(lambda text: settings.set("sampling/seed", text))
        self._stop.textChanged.connect(lambda: settings.set("sampling/stop", self._stop.toPlainText()))
        self._show(self.sampling())

    def suggest(self, sampling: Sampling) -> None:
        """The model's own suggestion: used wherever the user has chosen nothing."""
        self._suggested = sampling
        self._show(self.sampling())

    def sampling(self) -> Sampling:
        """The settings to generate with."""
        chosen = {name: self._settings.get(f"sampling/{name}", getattr(self._suggested, name)) for name in self._number}
        seed = self._settings.get("sampling/seed", "").strip()
        return replace(self._suggested, **chosen, seed=int(seed) if seed.isascii() and seed.isdigit() else None)

    def pace(self) -> float:
        """Tokens per second to hold replies back to; 0: as fast as it can."""
        wanted = self._settings.get("sampling/pace", 0.0)
        return wanted if wanted in _PACES else 0.0

    def stop(self) -> tuple[str, ...]:
        """The texts that end a reply."""
        return parse_stop(self._settings.get("sampling/stop", ""))

    def open_at(self, anchor: QWidget, system_prompt: str) -> None:
        """Open above a button, for a conversation with this system prompt."""
        self._system.blockSignals(True)
        self._system.setPlainText(system_prompt)
        self._system.blockSignals(False)
        self._show(self.sampling())
        self.adjustSize()
        screen, place = anchor.screen().availableGeometry(), anchor.mapToGlobal(QPoint(0, -self.height() - 6))
        self.move(max(screen.left(), min(place.x(), screen.right() - self.width())), max(screen.top(), place.y()))
        self.show()
        self._number["temperature"].setFocus()

    def _add(self, form: QFormLayout, name: str, title: str, tip: str, low: float, high: float, step: float) -> None:
        field: QSpinBox | QDoubleSpinBox
        if step:
            field = QDoubleSpinBox(singleStep=step, decimals=2)
            field.setRange(low, high)
        else:
            field = QSpinBox()
            field.setRange(int(low), int(high))
        field.setAccessibleName(title)
        field.setAccessibleDescription(tip)
        field.setToolTip(tip)
        field.valueChanged.connect(lambda value, n=name: self._settings.set(f"sampling/{n}", value))
        form.addRow(title, field)
        self._number[name] = field

    def _add_pace(self, form: QFormLayout) -> ChoiceBox:
        box, tip = ChoiceBox(), self.tr(
            "Holds replies back from the next one on, so that a technique can be switched while a small model writes. "
            "The speed under the reply stays that of decoding alone; the monitor shows none meanwhile.")
        for pace in _PACES:
            box.addItem(self.tr("{pace} tokens per second").format(pace=f"{pace:g}") if pace
                        else self.tr("As fast as it can"), pace)
        box.setCurrentIndex(max(0, box.findData(self.pace())))
        box.setAccessibleName(self.tr("Pace for watching"))
        box.setAccessibleDescription(tip)
        box.setToolTip(tip)
        box.currentIndexChanged.connect(lambda _: self._settings.set("sampling/pace", box.currentData()))
        form.addRow(self.tr("Pace for watching"), box)
        return box

    def _show(self, sampling: Sampling) -> None:
        for name, field in self._number.items():
            field.blockSignals(True)
            field.setValue(getattr(sampling, name))
            field.blockSignals(False)
        self._seed.blockSignals(True)
        self._seed.setText("" if sampling.seed is None else str(sampling.seed))
        self._seed.blockSignals(False)
        self._stop.blockSignals(True)
        self._stop.setPlainText(self._settings.get("sampling/stop", ""))
        self._stop.blockSignals(False)

    def _reset(self) -> None:
        for name in self._number:
            self._settings.remove(f"sampling/{name}")
        self._settings.remove("sampling/seed")
        self._settings.remove("sampling/stop")
        self._show(self.sampling())


def parse_stop(text: str) -> tuple[str, ...]:
    """The stop strings in a text of one a line, in which \\n and \\t stand for a line end and a tab."""
    marks = {"n": "\n", "t": "\t", "\\": "\\"}
    lines = (re.sub(r"\\([nt\\])", lambda found: marks[found[1]], line) for line in text.split("\n"))
    return tuple(dict.fromkeys(line for line in lines if line))
