"""Writing what a page shows to a file: where to, and a button with a menu of formats."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import QStandardPaths, Qt
from PySide6.QtWidgets import QFileDialog, QMenu, QToolButton, QWidget

_last_folder: list[Path] = []


def ask_where(parent: QWidget, title: str, name: str, kinds: str = "") -> Path | None:
    """The file to write, None where nothing was chosen; the user's documents are offered, or the folder that was chosen
    last. name: what is suggested, with the suffix that a name without one gets."""
    documents = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
    start = _last_folder[-1] if _last_folder and _last_folder[-1].is_dir() else Path(documents)
    if not start.is_dir():
        start = Path.home()
    suffix = Path(name).suffix
    chosen, kind = QFileDialog.getSaveFileName(parent, title, str(start / name), kinds or f"(*{suffix})")
    if not chosen:
        return None
    path = Path(chosen)
    offered = [word.strip("()*;") for word in (kinds or f"(*{suffix})").replace(" ", ";").split(";") if "*." in word]
    if path.suffix not in offered:
        path = _free(path.with_name(path.name + next((one for one in offered if one in kind), suffix)))
    _last_folder[:] = [path.parent]
    return path


def _free(path: Path) -> Path:
    """A name that no file has: the dialog has asked about the name without the suffix only."""
    numbers = (path.with_stem(f"{path.stem} {number}") for number in itertools.count(2))
    return next(one for one in itertools.chain((path,), numbers) if not one.exists())


class ExportButton(QToolButton):
    """A menu of formats: write(suffix) is called for the one that is chosen."""

    def __init__(self, about: str, kinds: Sequence[tuple[str, str]], write: Callable[[str], None],
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(self.tr("Export"))
        self.setToolTip(about)
        self.setAccessibleDescription(about)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self)
        for suffix, title in kinds:
            menu.addAction(title, functools.partial(write, suffix))
        self.setMenu(menu)
