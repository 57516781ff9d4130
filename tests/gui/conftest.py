"""What tests of the window share: the theme, and the whole application over a tiny model."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, Qt
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

import gui.theme
from gui.app import Application
from gui.theme import install_theme, theme
from tests.gui.technique_bench import Bench

WAIT_MS = 30_000


@pytest.fixture
def application(qapp: QApplication, tmp_path: Path, llama_folder: Path) -> Iterator[Application]:
    """The application, started, over a tiny random model; stopped after the test."""
    app = start_application(qapp, tmp_path, llama_folder)
    yield app
    end_application(qapp, app)


def start_application(qapp: QApplication, data: Path, model: Path, **settings: str | int) -> Application:
    """Start the application with its data in `data`."""
    app = Application(qapp, data)
    app.settings.set("model", str(model))
    app.settings.set("sampling/max_tokens", 40)
    for key, value in settings.items():
        app.settings.set(key.replace("__", "/"), value)
    app.start()
    return app


def end_application(qapp: QApplication, app: Application) -> None:
    """Stop the application and destroy its window: left alive, it would restyle with the next one's and catch its
    mouse."""
    app.stop()
    app.window.close()
    app.window.deleteLater()
    app.deleteLater()
    qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    gc.collect()


def until(qapp: QApplication, condition: Callable[[], object], what: str = "the condition") -> None:
    """Run the event loop until the condition holds."""
    end_s = time.monotonic() + WAIT_MS / 1000
    while not condition():
        assert time.monotonic() < end_s, f"waited in vain for {what}"
        qapp.processEvents()
        time.sleep(0.002)  # give the engine thread the processor: this loop has nothing to show


def tab_to(qtbot: QtBot, qapp: QApplication, wanted: QWidget) -> None:
    """Press Tab until the widget has the focus."""
    for _ in range(200):
        if qapp.focusWidget() is wanted:
            return
        qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Tab)
    raise AssertionError(f"Tab never reaches {wanted.accessibleName()}")


@pytest.fixture
def themed(qapp: QApplication) -> Iterator[None]:
    """The theme, light and at its own size, before and after every test."""
    if gui.theme._theme is None:
        install_theme(qapp, "light", 100)
    theme().choice, theme().font_percent = "light", 100
    theme().apply()
    yield
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # or dead windows would be restyled for ever
    theme().choice, theme().font_percent = "light", 100
    theme().apply()


@pytest.fixture
def bench(themed: None, qtbot: QtBot, tmp_path: Path) -> Iterator[Bench]:
    """A shown technique panel with every group open, its engine not started."""
    bench = Bench(qtbot, tmp_path)
    bench.unfold()
    yield bench
    if bench.started:
        assert bench.bridge.stop()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds the engine after 100 token steps until it is set: a small model writes faster than a test can act."""
    from engine.session import Session

    opened, step, count = threading.Event(), Session.step, itertools.count()

    def held(self: Session, ids: Sequence[int]) -> object:
        if next(count) >= 100:
            opened.wait(60)
        return step(self, ids)

    monkeypatch.setattr(Session, "step", held)
    yield opened
    opened.set()
