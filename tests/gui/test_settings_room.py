"""The settings page: what it changes, at once and for the next start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QApplication, QLabel, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

import gui.theme
from engine.messages import Command, SetThreads
from engine.outbox import Outbox
from engine.worker import Worker
from gui.bridge import Bridge
from gui.settings import Settings
from gui.settings_room.page import PAGE, SettingsPage
from gui.theme import install_theme, theme


class WatchedWorker(Worker):
    """A real worker, not started, that keeps a list of what it was told."""

    def __init__(self) -> None:
        super().__init__(Outbox(), probe=False)
        self.told: list[Command] = []

    def submit(self, command: Command) -> None:
        self.told.append(command)
        super().submit(command)


@pytest.fixture(autouse=True)
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
def worker() -> WatchedWorker:
    return WatchedWorker()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


@pytest.fixture
def page(qtbot: QtBot, worker: WatchedWorker, settings: Settings) -> SettingsPage:
    page = SettingsPage(Bridge(worker, Outbox()), settings)
    qtbot.addWidget(page)
    page.resize(800, 700)
    page.show()
    qtbot.waitExposed(page)
    return page


def test_the_page_announces_itself_at_the_bottom_of_the_navigation() -> None:
    assert (PAGE.key, PAGE.title, PAGE.icon, PAGE.order) == ("settings", "Settings", "settings", 90)


def test_choosing_a_theme_applies_it_and_remembers_it(page: SettingsPage, settings: Settings) -> None:
    page.scheme.segment("dark").click()
    assert theme().colours.dark
    assert settings.get("theme", "system") == "dark"


def test_a_theme_chosen_in_the_menu_shows_on_the_page(page: SettingsPage) -> None:
    theme().set_choice("dark")
    assert page.scheme.value == "dark"


def test_the_font_grows_once_the_slider_rests(page: SettingsPage, settings: Settings, qtbot: QtBot) -> None:
    before = QApplication.font().pointSizeF()
    page.font_size.slider.setSliderDown(True)
    for percent in range(101, 151):
        page.font_size.slider.setValue(percent)
    assert QApplication.font().pointSizeF() == before
    page.font_size.slider.setSliderDown(False)
    assert QApplication.font().pointSizeF() == pytest.approx(1.5 * before)
    assert settings.get("font_percent", 100) == 150
    qtbot.keyClick(page.font_size.slider, Qt.Key.Key_Right)
    qtbot.waitUntil(lambda: settings.get("font_percent", 100) == 160)
    assert (page.font_size.box.minimum(), page.font_size.box.maximum()) == (80, 200)


def test_threads_are_automatic_until_a_number_is_chosen(page: SettingsPage, worker: WatchedWorker, settings: Settings,
                                                        qtbot: QtBot) -> None:
    assert page.automatic.isChecked() and page.threads.isHidden()
    page.automatic.click()
    assert page.threads.isVisible()
    assert worker.told == [SetThreads(page.threads.value)]
    page.threads.box.setValue(1)
    qtbot.keyClick(page.threads.box, Qt.Key.Key_Return)
    assert settings.get("threads", 0) == 1
    page.automatic.click()
    assert worker.told[-1] == SetThreads(None)
    assert settings.get("threads", 7) == 0


def test_a_remembered_number_of_threads_is_shown(qtbot: QtBot, worker: WatchedWorker, settings: Settings) -> None:
    settings.set("threads", 3)
    page = SettingsPage(Bridge(worker, Outbox()), settings)
    qtbot.addWidget(page)
    assert not page.automatic.isChecked() and page.threads.value == 3
    assert worker.told == []  # the window tells the engine at its start


def test_the_data_folder_is_shown_and_opens(page: SettingsPage, user_data_apart: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[QUrl] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url) or True)
    assert any(label.text() == str(user_data_apart) for label in page.findChildren(QLabel))
    page.open_button.click()
    assert opened == [QUrl.fromLocalFile(str(user_data_apart))]


def test_about_names_versions_licence_and_that_nothing_leaves_the_computer(page: SettingsPage) -> None:
    text = "\n".join(label.text() for label in page.findChildren(QLabel))
    for part in ("GPT Dyno", "PyTorch", "Qt", "Apache License 2.0", "Everything stays on this computer"):
        assert part in text
    page.copy_button.click()
    assert "PyTorch" in QGuiApplication.clipboard().text()


def test_every_control_has_an_accessible_name_and_description(page: SettingsPage) -> None:
    page.automatic.click()
    controls = [w for w in page.findChildren(QWidget)
                if w.focusPolicy() & Qt.FocusPolicy.TabFocus and not isinstance(w, QLineEdit)]
    assert len(controls) >= 8  # of three segments one takes the Tab key
    assert [w for w in controls if not (w.accessibleName() and w.accessibleDescription())] == []
