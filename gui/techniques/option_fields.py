"""The controls of one option: a switch, a choice box, or a slider with a number box, as its metadata asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from PySide6.QtCore import QObject, QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from gui.widgets.controls import ChoiceBox, NumberBox, Slider
from gui.widgets.labels import TextLabel, announce, engine_text, quiet
from gui.widgets.switch import Switch
from gui.widgets.words import NBSP

PAUSE_MS = 250


def reason_text(choice: str, reason: str) -> str:
    """Why a choice cannot be had, in a sentence that names it."""
    said = engine_text(reason)
    return said if choice in said else f"{engine_text(choice)}: {said}"


class Field(QObject):
    """One option's controls. settled: the user has come to rest on `value()`."""

    settled = Signal()
    widget: QWidget
    controls: tuple[QWidget, ...]

    def value(self) -> Any:
        """The value on screen, in the option's own type."""
        raise NotImplementedError

    def show_value(self, value: Any) -> None:
        """Show a value without telling."""
        raise NotImplementedError


class BoolField(Field):
    """A switch with its own words."""

    def __init__(self, field: dataclasses.Field[Any], name: str) -> None:
        super().__init__()
        self._switch = Switch(engine_text(field.metadata["label"]))
        self._switch.setAccessibleName(name)
        self._switch.toggled.connect(self.settled)
        self.widget, self.controls = self._switch, (self._switch,)

    def value(self) -> bool:
        return self._switch.isChecked()

    def show_value(self, value: Any) -> None:
        with QSignalBlocker(self._switch):
            self._switch.setChecked(bool(value))
        self._switch.update()


class ChoiceField(Field):
    """A choice box; choices that cannot be had are disabled, and the reasons stand below it in words."""

    def __init__(self, field: dataclasses.Field[Any], name: str) -> None:
        super().__init__()
        self._combo = ChoiceBox(letters=4)
        self._combo.setAccessibleName(name)
        for choice in field.metadata["choices"]:
            self._combo.addItem(engine_text(choice), choice)
        self._combo.activated.connect(self.settled)
        self.reasons = quiet()
        self.reasons.hide()
        self.widget, self.controls = self._combo, (self._combo,)

    def value(self) -> str:
        return str(self._combo.currentData())

    def show_value(self, value: Any) -> None:
        self._combo.setCurrentIndex(self._combo.findData(value))

    def set_reasons(self, reasons: Mapping[str, str]) -> None:
        """choice -> why it cannot be had here; those choices are shown but cannot be picked."""
        model = self._combo.model()
        assert isinstance(model, QStandardItemModel)
        for row in range(self._combo.count()):
            reason = reasons.get(str(self._combo.itemData(row)), "")
            model.item(row).setEnabled(not reason)
            self._combo.setItemData(row, engine_text(reason), Qt.ItemDataRole.ToolTipRole)
        self.reasons.setText("\n".join(reason_text(choice, reason) for choice, reason in reasons.items()))
        self.reasons.setVisible(bool(reasons))


class NumberField(Field):
    """A number between limits: a slider and a box. factor: 100 for shares, which are shown in percent."""

    def __init__(self, field: dataclasses.Field[Any], name: str) -> None:
        super().__init__()
        meta = field.metadata
        self._whole = isinstance(field.default, int)
        share = meta["unit"] == "share"
        self._factor = 100.0 if share else 1.0
        low, high = meta["low"] * self._factor, meta["high"] * self._factor
        step = (meta["step"] or (1.0 if self._whole else (meta["high"] - meta["low"]) / 100)) * self._factor
        self._tick = min(1.0, step) if share else step  # what one notch of the slider is worth
        self._low = low
        unit = "%" if share else engine_text(meta["unit"])
        self._box = NumberBox(0 if self._whole else 1 if share else _decimals(step), f"{NBSP}{unit}" if unit else "")
        self._box.setRange(low, high)
        self._box.setSingleStep(step)
        self._box.setAccessibleName(name)
        self._slider = Slider()
        self._slider.setRange(0, round((high - low) / self._tick))
        self._slider.setSingleStep(max(1, round(step / self._tick)))
        self._slider.setPageStep(max(1, round(2 * step / self._tick)))
        self._slider.setAccessibleName(name)
        self.widget = QWidget()
        column, row = QVBoxLayout(self.widget), QHBoxLayout()
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        row.addWidget(self._slider, 1)
        row.addWidget(self._box)
        self.correction = TextLabel(factor=0.88)
        self.correction.hide()
        column.addLayout(row)
        column.addWidget(self.correction)
        self.controls = (self._slider, self._box)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE_MS)
        self._pause.timeout.connect(self.settled)
        self._slider.valueChanged.connect(self._slid)
        self._slider.sliderReleased.connect(self._settle_now)
        self._box.valueChanged.connect(self._typed)
        self._box.editingFinished.connect(self._settle_now)
        self._box.corrected.connect(self._tell)
        self._box.lineEdit().textEdited.connect(lambda _: self._tell(""))
        self._exact: Any = field.default

    def value(self) -> Any:
        return self._exact

    def show_value(self, value: Any) -> None:
        if self._pause.isActive() or self._slider.isSliderDown():
            return
        self._exact = value
        with QSignalBlocker(self._box), QSignalBlocker(self._slider):
            self._box.setValue(value * self._factor)
            self._slider.setValue(round((value * self._factor - self._low) / self._tick))

    def _tell(self, correction: str) -> None:
        """Say what became of a number that cannot be, until the next one is typed."""
        self.correction.setText(correction)
        self.correction.setVisible(bool(correction))
        if correction:
            announce(self._box, correction)

    def _slid(self, notch: int) -> None:
        self._tell("")
        shown = self._low + notch * self._tick
        with QSignalBlocker(self._box):
            self._box.setValue(shown)
        self._change(shown)

    def _typed(self, shown: float) -> None:
        with QSignalBlocker(self._slider):
            self._slider.setValue(round((shown - self._low) / self._tick))
        self._change(shown)

    def _change(self, shown: float) -> None:
        self._exact = round(shown) if self._whole else round(shown / self._factor, 6)
        self._pause.start()

    def _settle_now(self) -> None:
        if self._pause.isActive():
            self._pause.stop()
            self.settled.emit()


def _decimals(step: float) -> int:
    return next((n for n in range(6) if abs(step * 10**n - round(step * 10**n)) < 1e-9), 6)


def make_field(field: dataclasses.Field[Any], name: str) -> Field:
    """The controls that fit an option. name: for assistive technology."""
    makers: tuple[tuple[bool, Callable[[dataclasses.Field[Any], str], Field]], ...] = (
        (bool(field.metadata["choices"]), ChoiceField), (isinstance(field.default, bool), BoolField),
        (isinstance(field.default, (int, float)), NumberField))
    for fits, maker in makers:
        if fits:
            return maker(field, name)
    raise TypeError(f"{name}: an option needs choices, or a default that is a number or a bool")
