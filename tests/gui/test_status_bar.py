"""The line at the window's foot: what is under the mouse stays there."""

from __future__ import annotations

import time

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QApplication, QLabel

from engine.messages import JobStarted, Progress, RecipeApplied, TechniqueReport
from engine.recipe import Recipe, make_options
from gui.app import Application
from gui.shortcuts import ShortcutsDialog
from gui.techniques.panel import TechniquePanel
from gui.theme import theme
from tests.gui.conftest import until
from tests.gui.technique_bench import report


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


def test_keys_lead_to_the_recipe_and_to_the_techniques_and_are_listed(application: Application,
                                                                      qapp: QApplication) -> None:
    window = application.window
    until(qapp, lambda: window._model is not None, "the model")
    panel, frame = window._dock_widgets["techniques"][1].widget(), window._dock_widgets["techniques"][1]
    assert isinstance(panel, TechniquePanel)
    for keys, wanted in (("Ctrl+R", lambda: panel.presets.combo),
                         ("Ctrl+T", lambda: next(iter(panel.groups.values())).first_control)):
        frame.hide()
        action = next(a for a in window.findChildren(QAction) if a.shortcut().toString() == keys)
        action.trigger()
        assert frame.isVisible()
        until(qapp, lambda wanted=wanted: panel.window().focusWidget() is wanted(), keys)
    dialog = ShortcutsDialog(window)
    listed = {label.text() for label in dialog.findChildren(QLabel)}
    assert {"Ctrl+R", "Choose a recipe", "Ctrl+T", "Techniques", "Compare", "Watch the lanes", "F2"} <= listed
    dialog.deleteLater()


def test_a_recipe_that_still_compiles_is_not_called_compiled(application: Application, qapp: QApplication) -> None:
    window, recipe = application.window, Recipe((make_options("compile", {}),))
    until(qapp, lambda: window._model is not None, "the model")

    def news(engaged: bool) -> str:
        made = TechniqueReport("compile", "Compile", engaged, 0, 0, 0, "")
        window._on_event(RecipeApplied(0.0, report(recipe, techniques=(made,))))
        return window._status_model.text()

    assert news(False).endswith("compiled (uncompiled so far)")
    assert news(True).endswith("compiled")


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
