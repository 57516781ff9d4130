"""The runs of the past: open, resume, rename, delete with undo, compare two."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import QItemSelectionModel, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QHBoxLayout, QInputDialog, QPushButton, QVBoxLayout, QWidget

from engine.bench.history import COMPLETE, RUNNING, Change, History, Run, changes
from engine.errors import DynoError
from engine.units import rate
from gui.benchmark.table import CopyTable
from gui.widgets.labels import engine_text, quiet
from gui.widgets.notice import Notice

_UNDO_MS = 20_000
T = TypeVar("T")


class HistoryView(QWidget):
    """opened: a Run to look at. resumed: a Run to go on with. running: the number of the run under way, which can be
    neither deleted nor resumed. model: the name of the loaded model, "" for none."""

    opened = Signal(object)
    resumed = Signal(object)

    def __init__(self, path: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._path = path
        self.running, self.busy, self.model = 0, False, ""
        self.runs: list[Run] = []
        self._deleted: Run | None = None  # gone from the list, and from the file when it can no longer be undone
        self._timer = QTimer(self, singleShot=True, interval=_UNDO_MS)
        self._timer.timeout.connect(self.settle)
        self.notice = Notice()
        self.table = CopyTable(self.tr("Runs"), self.tr(
            "Enter opens a run; F2 renames it; Delete removes it. Select two with Ctrl or Shift to compare them."),
            words=5)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.compared = CopyTable(self.tr("Two runs compared"), self.tr("Ctrl+C copies the table as Markdown."))
        self.about = quiet()
        self.buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout()
        for key, text, slot in (("open", self.tr("Open"), self.open), ("resume", self.tr("Resume"), self.resume),
                                ("compare", self.tr("Compare"), self.compare),
                                ("rename", self.tr("Rename…"), self.rename),
                                ("delete", self.tr("Delete"), self.delete)):
            button = QPushButton(text)
            button.setAccessibleName(text)
            button.clicked.connect(lambda _=False, do=slot: do())
            row.addWidget(button)
            self.buttons[key] = button
        row.addStretch()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.notice, self.table):
            column.addWidget(widget, int(widget is self.table))
        column.addLayout(row)
        column.addWidget(self.about)
        column.addWidget(self.compared, 1)
        self.compared.hide()
        self.table.itemSelectionChanged.connect(self._enable)
        self.table.itemDoubleClicked.connect(lambda _item: self.open())
        self.refresh()

    def refresh(self) -> None:
        """Read the file again; the selection stays."""
        chosen = {run.id for run in self.selected()}
        none: list[Run] = []
        gone = self._deleted.id if self._deleted is not None else 0
        self.runs = [run for run in self._ask(History.runs, none) if run.id != gone]
        self.table.set_headings([self.tr("Run"), self.tr("When"), self.tr("Model"), self.tr("State"),
                                 self.tr("Recipes"), self.tr("Rows")])
        for place, run in enumerate(self.runs):
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_s))
            self.table.set_line(place, [run.title or self.tr("Run {number}").format(number=run.id), when, run.model,
                                        self._state(run), ", ".join(r.label for r in run.plan.recipes),
                                        f"{run.rows}/{run.planned}"])
        flags = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
        for place, run in enumerate(self.runs):
            if run.id in chosen:
                self.table.selectionModel().select(self.table.model().index(place, 0), flags)
        if not chosen and self.runs:
            self.table.selectRow(0)  # so that Enter opens the newest
        self._enable()

    def follow(self, busy: bool, running: int) -> None:
        """Whether a benchmark is under way here, and its number; the list is read again where that has changed."""
        if (busy, running) != (self.busy, self.running):
            self.busy, self.running = busy, running
            self.refresh()

    def selected(self) -> list[Run]:
        """The runs chosen, the newest first."""
        places = sorted({index.row() for index in self.table.selectedIndexes()})
        return [self.runs[place] for place in places if place < len(self.runs)]

    def open(self) -> None:
        """Show the rows of the chosen run."""
        for run in self.selected()[:1]:
            self.opened.emit(run)

    def resume(self) -> None:
        """Go on with an unfinished run."""
        for run in self.selected()[:1]:
            if self.may_resume(run):
                self.resumed.emit(run)

    def may_resume(self, run: Run) -> bool:
        """Whether it is unfinished, of the loaded model, and nothing runs, here or in another program."""
        return run.resumable and not self.busy and run.model == self.model

    def rename(self) -> None:
        """Ask for a title."""
        for run in self.selected()[:1]:
            title, ok = QInputDialog.getText(self, self.tr("Rename the run"), self.tr("Title"), text=run.title)
            if ok:
                self._write(run, title)
                self.refresh()

    def delete(self) -> None:
        """Remove the chosen run; it can be had back for a while."""
        for run in self.selected()[:1]:
            if run.alive:
                return
            self.settle()
            self._deleted = run
            self._timer.start()
            self.notice.show_message(self.tr("Deleted “{name}”.").format(
                name=run.title or self.tr("Run {number}").format(number=run.id)), self.tr("Undo"), self._undo, _UNDO_MS)
            self.refresh()

    def settle(self) -> None:
        """What was deleted is deleted for good."""
        self._timer.stop()
        if self._deleted is not None:
            number, self._deleted = self._deleted.id, None
            self._ask(lambda h: h.delete(number), None)

    def compare(self) -> None:
        """The older of two runs against the newer."""
        chosen = self.selected()
        if len(chosen) != 2:
            return
        new, old = chosen
        none: tuple[Change, ...] = ()
        found = self._ask(lambda h: changes(h.rows(old.id), h.rows(new.id)), none)
        self.compared.setVisible(bool(found))
        if not found:
            self.about.setText(self.tr("These runs share no recipe and test that both have measured."))
            return
        other = self.tr(" The models differ.") if old.model_fingerprint != new.model_fingerprint else ""
        self.about.setText(self.tr(
                "Ratio of {new} to {old}. They were not interleaved: the machine’s mood between them is in the ratio."
            ).format(new=new.title or new.id, old=old.title or old.id) + other)
        self.compared.set_headings([self.tr("Recipe"), self.tr("Test"), self.tr("Before"), self.tr("After"),
                                    self.tr("Ratio"), self.tr("95 % interval"), self.tr("Verdict")])
        for place, c in enumerate(found):
            before, after = (rate(v) if c.unit == "tok/s" else f"{v:.3f} PPL" for v in (c.old, c.new))
            interval = f"{c.ratio.low:.3f} – {c.ratio.high:.3f}" if c.ratio.high < 1e6 else self.tr("one run: none")
            self.compared.set_line(place, [c.recipe, c.test, before, after, f"{c.ratio.value:.3f}×", interval,
                                           engine_text(c.verdict)])

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter opens, F2 renames, Delete removes."""
        act = {Qt.Key.Key_Return: self.open, Qt.Key.Key_Enter: self.open, Qt.Key.Key_F2: self.rename,
               Qt.Key.Key_Delete: self.delete}.get(Qt.Key(event.key()))
        if act is not None and self.table.hasFocus():
            act()
        else:
            super().keyPressEvent(event)

    def _write(self, run: Run, title: str) -> None:
        self._ask(lambda h: h.rename(run.id, title.strip()), None)

    def _undo(self) -> None:
        self._timer.stop()
        self._deleted = None
        self.refresh()

    def _enable(self) -> None:
        chosen = self.selected()
        one = len(chosen) == 1
        self.buttons["open"].setEnabled(one)
        self.buttons["rename"].setEnabled(one)
        self.buttons["delete"].setEnabled(one and not chosen[0].alive)
        self.buttons["resume"].setEnabled(one and self.may_resume(chosen[0]))
        self.buttons["compare"].setEnabled(len(chosen) == 2)
        if not self.compared.isVisible():
            self.about.setText(self.tr("No runs yet. They are kept here as they are measured.") if not self.runs else
                               self.tr("Select two runs to compare them."))

    def _state(self, run: Run) -> str:
        if run.state == COMPLETE:
            return self.tr("complete")
        if run.state == RUNNING:
            if run.id == self.running:
                return self.tr("running")
            return self.tr("running elsewhere") if run.alive else self.tr("interrupted")
        return self.tr("stopped")

    def _ask(self, question: Callable[[History], T], otherwise: T) -> T:
        """A question to the file, or what to say where it cannot be read."""
        try:
            with contextlib.closing(History(self._path)) as history:
                return question(history)
        except DynoError as error:
            self.notice.show_problem(engine_text(error.summary), engine_text(error.hint))
            return otherwise
