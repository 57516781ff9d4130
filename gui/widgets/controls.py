"""Sliders, number boxes and choice boxes as the panel wants them: quiet, themed, and deaf to a wheel that is on its way
down the panel."""

from __future__ import annotations

import math
from collections.abc import Callable

from PySide6.QtCore import QLocale, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent, QValidator, QWheelEvent
from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QPushButton, QSlider

from gui.theme import colours, theme


class Slider(QSlider):
    """A thin horizontal groove; the part up to the handle in the accent colour."""

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumWidth(60)
        theme().changed.connect(self.restyle)
        self.restyle()

    def restyle(self) -> None:
        """Take the theme's colours and size."""
        c, side = colours(), max(14, round(self.fontMetrics().height() * 0.85) // 2 * 2)
        self.setFixedHeight(side + 6)
        self.setStyleSheet(f"""
            QSlider::groove:horizontal {{ height: 4px; border-radius: 2px; background: {c.border}; }}
            QSlider::sub-page:horizontal {{ height: 4px; border-radius: 2px; background: {c.accent}; }}
            QSlider::handle:horizontal {{ width: {side - 4}px; height: {side - 4}px; margin: -{(side - 4) // 2}px 0;
                border: 2px solid {c.accent}; border-radius: {side // 2}px; background: {c.surface}; }}
            QSlider::handle:horizontal:focus {{ background: {c.accent}; border-color: {c.text}; }}""")

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Turn only with focus; otherwise the panel scrolls."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class NumberBox(QDoubleSpinBox):
    """A number without needless zeros or arrows: slider, arrow keys and typing are enough. Anything can be typed; what
    is no number within the limits is put right when the user is done. touched: a key is about to do what it does.
    corrected: what was put right, in words."""

    touched = Signal()
    corrected = Signal(str)

    def __init__(self, decimals: int, suffix: str) -> None:
        super().__init__()
        self.setDecimals(decimals)
        self.setSuffix(suffix)
        # Under a style sheet ButtonSymbols.NoButtons leaves the field one pixel wide (Qt 6.11): shrink the buttons.
        self.setStyleSheet(", ".join(f"QDoubleSpinBox::{part}" for part in (
            "up-button", "down-button", "up-arrow", "down-arrow"))
            + " { width: 0; height: 0; border: none; image: none; }")
        self.setKeyboardTracking(False)  # a half-typed number is nobody's wish
        self.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.setLocale(QLocale.c())
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        # The theme's frame for text fields is meant for the box, not for the field inside it.
        self.lineEdit().setStyleSheet("border: none; padding: 0; background: transparent;")
        self.lineEdit().setTextMargins(8, 0, 8, 0)
        theme().changed.connect(self.updateGeometry)

    def textFromValue(self, value: float) -> str:
        """50, not 50.0."""
        text = f"{value:.{self.decimals()}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        """Every key is taken: Qt would swallow a digit that leads out of the limits, and 200 would become 20."""
        number = self._number(text)
        good = number is not None and self.minimum() <= number <= self.maximum()
        return (QValidator.State.Acceptable if good else QValidator.State.Intermediate), text, position

    def valueFromText(self, text: str) -> float:
        """The number in a text, the value so far where there is none."""
        number = self._number(text)
        return self.value() if number is None else number

    def fixup(self, text: str) -> str:
        """The nearest limit for a number beyond it, the value so far for what is no number; says which."""
        number, typed = self._number(text), text.removesuffix(self.suffix()).strip()
        kept = self.value() if number is None else min(max(number, self.minimum()), self.maximum())
        shown = self.textFromValue(kept) + self.suffix()
        low, high = (self.textFromValue(limit) + self.suffix() for limit in (self.minimum(), self.maximum()))
        if number is None:
            words = self.tr("“{typed}” is not a number: {kept} stays.")
        else:
            words = self.tr("{typed} is outside {low} to {high}: the nearest is {kept}.")
        self.corrected.emit(words.format(typed=typed, low=low, high=high, kept=shown))
        return shown

    def _number(self, text: str) -> float | None:
        try:
            number = float(text.removesuffix(self.suffix()).strip())
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def sizeHint(self) -> QSize:
        """Room for the widest number."""
        longest = max((self.textFromValue(v) for v in (self.minimum(), self.maximum())), key=len)
        if self.decimals():
            longest += ".5"
        return QSize(self.fontMetrics().horizontalAdvance(longest + self.suffix()) + 28, super().sizeHint().height())

    def minimumSizeHint(self) -> QSize:
        """The same: a number is never cut."""
        return self.sizeHint()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Tell first."""
        self.touched.emit()
        super().keyPressEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Turn only with focus; otherwise the panel scrolls."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class ChoiceBox(QComboBox):
    """A choice box that may be narrower than its longest choice. touched: it is about to open, or a key to
    change it."""

    touched = Signal()

    def __init__(self, letters: int = 6) -> None:
        super().__init__()
        self.setMinimumContentsLength(letters)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Tell first."""
        self.touched.emit()
        super().keyPressEvent(event)

    def showPopup(self) -> None:
        """Tell first."""
        self.touched.emit()
        super().showPopup()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Turn only with focus; otherwise the panel scrolls."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


def action_button(text: str, about: str, slot: Callable[[], object] | None = None) -> QPushButton:
    """A button that says what it does: in its tip, and to a screen reader."""
    button = QPushButton(text)
    button.setAccessibleName(text)
    button.setAccessibleDescription(about)
    button.setToolTip(about)
    if slot is not None:
        button.clicked.connect(lambda _=False: slot())
    return button
