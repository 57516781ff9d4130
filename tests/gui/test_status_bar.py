"""The line at the window's foot: what is under the mouse stays there."""

from __future__ import annotations

import time

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QApplication

from engine.messages import JobStarted, Progress
from gui.app import Application
from gui.theme import theme
from tests.gui.conftest import until


def test_the_button_keeps_its_place_while_numbers_change_and_jobs_run(
        application: Application, qapp: QApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    window, monitor = application.window, application.window._context.monitor
    window.show()
    until(qapp, window._why.isVisible, "a model")
    window._status_timer.stop()
    places, texts = set(), set()

    def look() -> None:
        window._refresh_status()
        qapp.processEvents()
        qapp.processEvents()  # the layout follows in a second round
        places.add(window._why.mapTo(window, QPoint()).toTuple())
        texts.add(window._status_speed.text())

    for speed in (1234.5, 3.1, 98765.4, 12.0):
        monkeypatch.setattr(monitor, "latest", lambda key, speed=speed: speed)
        look()
    was_visible = window._stop.isVisible()
    window._on_event(JobStarted(77, time.monotonic(), "Generate"))
    window._jobs[77] -= 60
    look()
    for done in range(0, 1001, 250):
        window._on_event(Progress(77, time.monotonic(), "Reading the prompt", done, 1000))
        look()
    assert not was_visible and window._stop.isVisible() and window._status_bar.isVisible()
    assert len(places) == 1 and len(texts) > 3


def test_the_monitors_controls_stand_in_its_title_bar_and_it_grows_with_the_font(application: Application,
                                                                               qapp: QApplication) -> None:
    window = application.window
    window.resize(1024, 700)
    window.show()
    frame = window._dock_widgets["monitor"][1]
    until(qapp, lambda: hasattr(frame.widget(), "footer"), "the monitor")
    title = frame.titleBarWidget()
    assert title is not None and title.isAncestorOf(frame.widget().footer)
    heights = []
    for percent in (100, 150, 100):
        theme().set_font_percent(percent)
        qapp.processEvents()
        qapp.processEvents()
        heights.append(frame.height())
    assert heights[1] > heights[0] + 30 and abs(heights[2] - heights[0]) < 10
