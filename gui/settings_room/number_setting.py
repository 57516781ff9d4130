"""A whole number with a slider and a box, told once it has come to rest: a font that grows under the pointer while
the slider moves would move the slider away."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, QTimer, Signal
from PySide6.QtWidgets import QHBoxLayout, QWidget

from gui.widgets.controls import NumberBox, Slider

PAUSE_MS = 250


class NumberSetting(QWidget):
    """`settled` gives the value the user has chosen."""

    settled = Signal(int)

    def __init__(self, name: str, about: str, limits: tuple[int, int], step: int, suffix: str, value: int,
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slider, self.box = Slider(), NumberBox(0, suffix)
        for control in (self.slider, self.box):
            control.setRange(*limits)
            control.setSingleStep(step)
            control.setAccessibleName(name)
            control.setAccessibleDescription(about)
            control.setToolTip(about)
        self.slider.setPageStep(step)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        row.addWidget(self.slider, 1)
        row.addWidget(self.box)
        self._told = value
        self._pause = QTimer(self, singleShot=True, interval=PAUSE_MS)
        self._pause.timeout.connect(self._tell)
        self.show_value(value)
        self.slider.valueChanged.connect(self._moved)
        self.box.valueChanged.connect(self._moved)
        self.slider.sliderReleased.connect(self._tell)
        self.box.editingFinished.connect(self._tell)

    @property
    def value(self) -> int:
        """The number on screen."""
        return round(self.box.value())

    def show_value(self, value: int) -> None:
        """Show a number; tells nobody."""
        self._told = value
        self._show(value)

    def _show(self, value: int) -> None:
        with QSignalBlocker(self.slider), QSignalBlocker(self.box):
            self.slider.setValue(value)
            self.box.setValue(value)

    def _moved(self, value: float) -> None:
        self._show(round(value))
        if not self.slider.isSliderDown():
            self._pause.start()

    def _tell(self) -> None:
        self._pause.stop()
        if self.value != self._told:
            self._told = self.value
            self.settled.emit(self.value)
