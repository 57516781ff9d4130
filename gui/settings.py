"""What the window remembers between starts, in one INI file in the user's data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from PySide6.QtCore import QByteArray, QSettings

T = TypeVar("T", str, int, float, bool)


class Settings:
    """Typed access to remembered values; an unreadable value falls back to its default. folder: the user's data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat)

    def get(self, key: str, default: T) -> T:
        """The remembered value, in the type of the default."""
        value = self._store.value(key, default)
        try:
            read: Any = str(value).lower() == "true" if isinstance(default, bool) else type(default)(str(value))
            return cast(T, read)
        except (TypeError, ValueError):
            return default

    def set(self, key: str, value: str | int | float | bool) -> None:
        """Remember a value."""
        self._store.setValue(key, value)

    def remove(self, key: str) -> None:
        """Forget a value, so that its default holds again."""
        self._store.remove(key)

    def layout(self, key: str) -> QByteArray | None:
        """A remembered window layout, or None."""
        value = self._store.value(key)
        return value if isinstance(value, QByteArray) else None

    def set_layout(self, key: str, value: QByteArray) -> None:
        """Remember a window layout."""
        self._store.setValue(key, value)

    def sync(self) -> None:
        """Write everything to disk now."""
        self._store.sync()
