"""The settings page. Every change applies at once; there is nothing to confirm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from engine.messages import SetThreads
from engine.models.devices import usable_cores
from engine.paths import user_data
from gui.bridge import Bridge
from gui.context import Page
from gui.settings import Settings
from gui.settings_room.about import about_lines
from gui.settings_room.number_setting import NumberSetting
from gui.theme import theme
from gui.widgets.labels import TextLabel, quiet, set_icon
from gui.widgets.segments import Segments
from gui.widgets.switch import PAD, Switch
from gui.widgets.words import NBSP

if TYPE_CHECKING:
    from gui.context import AppContext

_WIDTH_IN_LETTERS = 100


class SettingsPage(QScrollArea):
    """Cards in one column of readable width."""

    def __init__(self, bridge: Bridge, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._bridge, self._settings = bridge, settings
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setAccessibleName(self.tr("Settings"))
        self._column = QWidget()
        cards = QVBoxLayout(self._column)
        cards.setContentsMargins(24, 20, 24, 24)
        cards.setSpacing(14)
        cards.addWidget(TextLabel(self.tr("Settings"), factor=1.5, bold=True))
        for card in (self._appearance(), self._engine(), self._data(), self._about()):
            cards.addWidget(card)
        cards.addStretch()
        content = QWidget()
        middle = QHBoxLayout(content)
        middle.setContentsMargins(0, 0, 0, 0)
        middle.addStretch()
        middle.addWidget(self._column, 1000)  # takes all there is, up to its maximum width
        middle.addStretch()
        self.setWidget(content)
        theme().changed.connect(self._restyle)
        self._restyle()

    def _appearance(self) -> QFrame:
        self.scheme = Segments(self.tr("Theme"), (("system", self.tr("System")), ("light", self.tr("Light")),
                                                  ("dark", self.tr("Dark"))))
        self.scheme.describe("system", self.tr("Light or dark as the system is."))
        self.scheme.describe("light", self.tr("Always light."))
        self.scheme.describe("dark", self.tr("Always dark."))
        self.scheme.choose(theme().choice)
        self.scheme.chosen.connect(self._choose_scheme)
        self.font_size = NumberSetting(self.tr("Font size"), self.tr("Scales every text of the window."),
                                       (80, 200), 10, f"{NBSP}%", theme().font_percent)
        self.font_size.settled.connect(self._choose_font)
        return _card(self.tr("Appearance"), TextLabel(self.tr("Theme")), self.scheme,
                     TextLabel(self.tr("Font size")), self.font_size)

    def _engine(self) -> QFrame:
        cores = usable_cores()
        threads = self._settings.get("threads", 0)
        self.automatic = Switch(self.tr("Choose the number of CPU threads automatically"))
        self.automatic.setAccessibleDescription(
            self.tr("The engine takes one thread for small models and every core for large ones."))
        self.automatic.setChecked(threads == 0)
        self.threads = NumberSetting(self.tr("CPU threads"), self.tr("How many threads the engine computes with."),
                                     (1, max(cores, threads, 2)), 1, "", threads or cores)
        self.threads.setVisible(threads > 0)
        self.automatic.toggled.connect(self._choose_automatic)
        self.threads.settled.connect(self._choose_threads)
        note = quiet(self.tr("Automatic takes one thread for small models and every core for large ones. This "
                             "computer has {cores} cores for it.").format(cores=cores))
        return _card(self.tr("Engine"), self.automatic, self.threads, note)

    def _data(self) -> QFrame:
        self._folder = user_data()
        path = TextLabel(str(self._folder))
        path.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        path.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        path.setAccessibleName(self.tr("Data folder"))
        self.open_button = _button(self.tr("Open"), self.tr("Open the data folder in the file manager."))
        self.open_button.clicked.connect(self._open_folder)
        return _card(self.tr("Your data"), path, quiet(self.tr(
            "Chats and settings are kept in this folder. Everything stays on this computer.")),
            self.open_button)

    def _about(self) -> QFrame:
        self._versions = about_lines()
        self.copy_button = _button(self.tr("Copy"), self.tr("Copy the versions, for a bug report."))
        self.copy_button.clicked.connect(lambda: QGuiApplication.clipboard().setText("\n".join(self._versions)))
        title, *rest = self._versions
        return _card(self.tr("About"), TextLabel(title, bold=True), quiet("\n".join(rest)),
                     quiet(self.tr("Free software under the Apache License 2.0. Without any warranty.")),
                     quiet(self.tr("No account and no telemetry: models run here and nowhere else.")),
                     self.copy_button)

    def _choose_scheme(self, choice: str) -> None:
        self._settings.set("theme", choice)
        theme().set_choice(choice)

    def _choose_font(self, percent: int) -> None:
        self._settings.set("font_percent", percent)
        theme().set_font_percent(percent)

    def _choose_automatic(self, automatic: bool) -> None:
        self.threads.setVisible(not automatic)
        self._choose_threads(0 if automatic else self.threads.value)

    def _choose_threads(self, threads: int) -> None:
        self._settings.set("threads", threads)
        self._bridge.submit(SetThreads(threads or None))

    def _open_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._folder)))

    def _restyle(self) -> None:
        self._column.setMaximumWidth(self.fontMetrics().averageCharWidth() * _WIDTH_IN_LETTERS)
        self.scheme.choose(theme().choice)
        self.font_size.show_value(theme().font_percent)
        set_icon(self.open_button, "folder")
        set_icon(self.copy_button, "copy")


def _card(title: str, *rows: QWidget) -> QFrame:
    card = QFrame()
    card.setProperty("card", True)
    column = QVBoxLayout(card)
    column.setContentsMargins(16 - PAD, 12, 16 - PAD, 14)
    column.setSpacing(8)
    for widget in (TextLabel(title, heading=True), *rows):
        row = QHBoxLayout()
        inset = 0 if isinstance(widget, Switch) else PAD  # everything in line with the words of the switches
        row.setContentsMargins(inset, 0, inset, 0)
        row.addWidget(widget)
        if isinstance(widget, QPushButton):
            row.addStretch()
        column.addLayout(row)
    return card


def _button(text: str, about: str) -> QPushButton:
    button = QPushButton(text)
    button.setAccessibleName(text)
    button.setAccessibleDescription(about)
    button.setToolTip(about)
    button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    return button


def make(context: AppContext) -> SettingsPage:
    """The page on the app's bridge and settings."""
    return SettingsPage(context.bridge, context.settings)


PAGE = Page("settings", str(QT_TRANSLATE_NOOP("pages", "Settings")), "settings", 90, make)
