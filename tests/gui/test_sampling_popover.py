"""The sampling popover: every field says what it does."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from engine.messages import SAMPLING_LIMITS
from gui.chat.sampling_popover import SamplingPopover
from gui.settings import Settings


def test_every_sampling_field_says_what_it_does_and_what_switches_it_off(
        themed: None, qtbot: QtBot, tmp_path: Path) -> None:
    host = QWidget()
    qtbot.addWidget(host)
    popover = SamplingPopover(Settings(tmp_path), host)
    fields = [*popover.findChildren(QAbstractSpinBox), *(e for e in popover.findChildren(QLineEdit)
                                                         if not isinstance(e.parent(), QAbstractSpinBox))]
    assert len(fields) == len(SAMPLING_LIMITS)
    for field in fields:
        assert field.accessibleName() and len(field.accessibleDescription().split()) > 4
        assert field.toolTip() == field.accessibleDescription()
    switched_off = [field.accessibleName() for field in fields if "; 0 for" in field.toolTip()
                    or "; 1 for" in field.toolTip()]
    assert switched_off == ["Top-k", "Top-p", "Min-p", "Repetition penalty"]


def test_the_pace_is_remembered_and_an_odd_one_is_none(themed: None, qtbot: QtBot, tmp_path: Path) -> None:
    host, settings = QWidget(), Settings(tmp_path)
    qtbot.addWidget(host)
    popover = SamplingPopover(settings, host)
    box = popover.findChild(QComboBox)
    assert box is not None and box.currentText() == "As fast as it can" and popover.pace() == 0.0
    assert box.accessibleName() == "Pace for watching" and box.toolTip() == box.accessibleDescription() != ""
    box.setCurrentIndex(box.findText("10 tokens per second"))
    assert popover.pace() == 10.0 and SamplingPopover(settings, host).pace() == 10.0
    settings.set("sampling/pace", -7.5)
    assert popover.pace() == 0.0
