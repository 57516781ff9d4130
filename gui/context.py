"""What every page and dock is given, and how rooms announce themselves.

A room is a package under gui/ with a `page.py` that defines PAGE, a `dock.py` that defines DOCK, or both. The main
window finds them; adding a room edits no list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtWidgets import QWidget

from engine.monitor.monitor import Monitor
from engine.storage import Store
from gui.bridge import Bridge
from gui.settings import Settings


class WindowActions(QObject):
    """What menus and shortcuts of the window ask of the rooms."""

    new_chat = Signal()
    search = Signal()
    compose = Signal()
    export = Signal()
    stop = Signal()
    open_model = Signal(str, str)  # a model's folder, and the key of the page to use it on
    explain = Signal()  # where does a token's time go?
    recipes = Signal()  # to the box of presets
    techniques = Signal()  # to the first switch
    closing = Signal()  # after the engine has ended, before the store closes


@dataclass(frozen=True)
class AppContext:
    """The things rooms share."""

    bridge: Bridge
    monitor: Monitor
    store: Store
    settings: Settings
    actions: WindowActions = field(default_factory=WindowActions)


@runtime_checkable
class KnowsFirstStop(Protocol):
    """A page that says where the keyboard begins. (A focus proxy of the page would do that too, and make Tab jump over
    all that stands before it.)"""

    def first_stop(self) -> QWidget:
        """The widget that gets the focus with the page."""


@dataclass(frozen=True)
class Page:
    """A page of the main area. title is translated when shown; order sorts the navigation; pages from 90 on sit at
    the bottom. keys: what its keys do beyond the window's actions, for F1: "keys: words" each, translated when shown.
    """

    key: str
    title: str
    icon: str
    order: int
    make: Callable[[AppContext], QWidget]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dock:
    """A panel at an edge of the window."""

    key: str
    title: str
    area: Qt.DockWidgetArea
    make: Callable[[AppContext], QWidget]


def find_pages() -> list[Page]:
    """Every page, in the order of the navigation."""
    return sorted((m.PAGE for m in _rooms("page")), key=lambda page: page.order)


def find_docks() -> list[Dock]:
    """Every dock."""
    return [m.DOCK for m in _rooms("dock")]


def _rooms(module: str) -> list[Any]:
    folder = Path(__file__).parent
    names = [m.name for m in pkgutil.iter_modules([str(folder)]) if m.ispkg]
    return [importlib.import_module(f"gui.{n}.{module}") for n in names if (folder / n / f"{module}.py").is_file()]
