"""The monitor's menu, and what it writes: pictures and tables of what is visible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QFileDialog, QMenu, QWidget

from engine.monitor import Monitor
from gui.monitor.files import png_bytes, write_whole


class MonitorMenu(QMenu):
    """Reset, pause, table, export, picture. pyqtgraph's own menu is not used: it knows only English.

    said: a line for the user about what was written or why not. picture_of: the charts. since_s: the left edge of
    what is visible, on the monitor's clock.
    """

    reset = Signal()
    paused = Signal(bool)
    table = Signal()
    said = Signal(str)

    def __init__(self, monitor: Monitor, picture_of: QWidget, since_s: Callable[[], float], parent: QWidget) -> None:
        super().__init__(parent)
        self._monitor, self._charts, self._since_s = monitor, picture_of, since_s
        self.pause = QAction(self.tr("Pause"), self, checkable=True)
        self.pause.toggled.connect(self.paused)
        self._offer(self.tr("Reset the view"), self.reset.emit)
        self.addAction(self.pause)
        self.addSeparator()
        self._offer(self.tr("Data table…"), self.table.emit)
        self._offer(self.tr("Export CSV…"), self.export_csv)
        self.addSeparator()
        self._offer(self.tr("Copy picture"), self.copy_picture)
        self._offer(self.tr("Save picture…"), self.save_picture)

    def _offer(self, text: str, act: Callable[[], None]) -> None:
        action = QAction(text, self)
        action.triggered.connect(lambda _=False: act())
        self.addAction(action)

    def copy_picture(self) -> None:
        """The charts as a picture, on the clipboard."""
        QGuiApplication.clipboard().setPixmap(self._charts.grab())
        self.said.emit(self.tr("The picture is on the clipboard."))

    def save_picture(self) -> None:
        """The charts as a PNG file."""
        self._save(self.tr("Save the picture"), "monitor.png", self.tr("PNG picture (*.png)"),
                   lambda: png_bytes(self._charts.grab()))

    def export_csv(self) -> None:
        """What is visible, and all that came after it, as a CSV file."""
        since_s = self._since_s()
        self._save(self.tr("Export the visible window"), "monitor.csv", self.tr("Table (*.csv)"),
                   lambda: self._monitor.to_csv(since_s).encode("utf-8"))

    def _save(self, title: str, name: str, kind: str, content: Callable[[], bytes]) -> None:
        chosen, _ = QFileDialog.getSaveFileName(self.parentWidget(), title, str(Path.home() / name), kind)
        if not chosen:
            return
        path = Path(chosen)
        if not path.suffix:
            path = path.with_suffix(Path(name).suffix)
        try:
            write_whole(path, content())
        except OSError as error:
            self.said.emit(self.tr("{file} could not be written: {reason}. Choose another folder.").format(
                file=path.name, reason=error.strerror or error))
        else:
            self.said.emit(self.tr("Saved {file}.").format(file=path))
