"""The runs of before and those elsewhere: open one, go on with it, use its plan, watch a folder, remove one."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QFileDialog, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.removing import Removed, move_aside, settle_all
from engine.training.records import FAILED, INTERRUPTED, PAUSED, RUNNING, RunRecord, find_runs
from gui.benchmark.table import CopyTable
from gui.settings import Settings
from gui.training.tasks import task_of
from gui.training.words import said, state_text
from gui.widgets.labels import quiet
from gui.widgets.notice import Notice

_WATCHED = "training/watched"
_UNDO_MS = 20_000


class RunsView(QWidget):
    """opened, resumed, reused: a RunRecord to look at, to go on with, or whose plan to start from. removed: one that is
    off the list. problem: a DynoError. folder: where the window's own runs are."""

    opened = Signal(object)
    resumed = Signal(object)
    reused = Signal(object)
    removed = Signal(object)
    problem = Signal(object)

    def __init__(self, folder: Path, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder, self._settings = folder, settings
        self.runs: list[RunRecord] = []
        self.busy = False
        self.table = CopyTable(self.tr("Training runs"), self.tr("Enter opens a run, Delete removes it."),
                               words=4)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._removed: Removed | None = None  # moved aside, and deleted when it can no longer be undone
        self._timer = QTimer(self, singleShot=True, interval=_UNDO_MS)
        self._timer.timeout.connect(self.settle)
        self.notice = Notice()
        self.about = quiet(self.tr(
            "No runs yet. What you train here is kept in this list; a run made elsewhere can be watched, too."))
        self.buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout()
        for key, text, about, slot in (
                ("open", self.tr("Open"), self.tr("Show its curves."), self.open),
                ("resume", self.tr("Resume"), self.tr("Go on from its checkpoint."), self._resume),
                ("reuse", self.tr("Use its plan"), self.tr("Put its settings into the form."), self._reuse),
                ("watch", self.tr("Watch a folder…"), self.tr(
                    "Show a run that was started elsewhere, from a terminal or under torchrun, live."), self.watch),
                ("remove", self.tr("Remove"), self.tr(
                    "Delete a run of this app with its model; a watched folder only leaves the list (Del)."),
                 self.remove)):
            button = QPushButton(text)
            button.setAccessibleName(text)
            button.setAccessibleDescription(about)
            button.setToolTip(about)
            button.clicked.connect(lambda _=False, do=slot: do())
            row.addWidget(button)
            self.buttons[key] = button
        row.addStretch()
        column = QVBoxLayout(self)
        column.setContentsMargins(2, 6, 2, 0)
        column.addWidget(self.notice)
        column.addWidget(self.table, 1)
        column.addWidget(self.about)
        column.addLayout(row)
        with contextlib.suppress(DynoError):  # of an earlier start that was killed; it is tried again at the next one
            settle_all(folder)
        self.table.itemSelectionChanged.connect(self._enable)
        self.table.itemActivated.connect(lambda _item: self.open())

    def refresh(self) -> None:
        """Read the folders again."""
        chosen = self.selected()
        self.runs = find_runs(self._folder)
        for name in self._watched():
            try:
                self.runs.append(RunRecord.open(Path(name)))
            except DynoError:
                continue  # its disk may not be there today
        self.table.set_headings([self.tr("Run"), self.tr("Task"), self.tr("When"), self.tr("State"), self.tr("Steps"),
                                 self.tr("Best perplexity"), self.tr("Folder")])
        for place, run in enumerate(self.runs):
            run.look()
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.facts.started_s)) if run.facts.started_s else ""
            self.table.set_line(place, [
                run.folder.name, said(task_of(run.plan).title), when, state_text(run), f"{run.step:,}/"
                f"{run.plan.steps:,}", f"{run.best.perplexity:.2f}" if run.best is not None else "", str(run.folder)])
            if chosen is not None and run.folder == chosen.folder:
                self.table.selectRow(place)
        if chosen is None and self.runs:
            self.table.selectRow(0)
        self.about.setVisible(not self.runs)
        self._enable()

    def selected(self) -> RunRecord | None:
        """The run chosen."""
        rows = {index.row() for index in self.table.selectedIndexes()}
        return next((self.runs[row] for row in rows if row < len(self.runs)), None)

    def unfinished(self) -> RunRecord | None:
        """The newest run that a crash or a kill has ended."""
        return next((run for run in self.runs if run.state == INTERRUPTED), None)

    def open(self) -> None:
        """Show the chosen run."""
        run = self.selected()
        if run is not None:
            self.opened.emit(run)

    def watch(self) -> None:
        """Ask for the folder of a run made elsewhere, and show it."""
        name = QFileDialog.getExistingDirectory(self, self.tr("Folder of a training run"))
        if name:
            self.watch_folder(Path(name))

    def watch_folder(self, folder: Path) -> None:
        """Take a run's folder into the list, and show it."""
        try:
            run = RunRecord.open(folder)
        except DynoError as error:
            self.problem.emit(error)
            return
        if folder.parent != self._folder:
            self._remember([*(n for n in self._watched() if n != str(folder)), str(folder)])
        self.refresh()
        self.opened.emit(run)

    def _resume(self) -> None:
        run = self.selected()
        if run is not None:
            self.resumed.emit(run)

    def _reuse(self) -> None:
        run = self.selected()
        if run is not None:
            self.reused.emit(run)

    def remove(self) -> None:
        """Remove the chosen run; one of this app's own can be had back for a while."""
        run = self.selected()
        if run is None or not self._may_remove(run):
            return
        self.settle()
        if run.folder.parent == self._folder:
            try:
                self._removed = move_aside(run.folder, self._folder)
            except DynoError as error:
                self.problem.emit(error)
                return
            self._timer.start()
            self.notice.show_message(self.tr("Removed “{name}” with its model.").format(name=run.folder.name),
                                     self.tr("Undo"), self._undo, _UNDO_MS)
        else:
            self._remember([name for name in self._watched() if name != str(run.folder)])
        self.removed.emit(run)
        self.refresh()

    def settle(self) -> None:
        """What was removed is deleted for good."""
        self._timer.stop()
        if self._removed is not None:
            removed, self._removed = self._removed, None
            try:
                removed.settle()
            except DynoError as error:
                self.problem.emit(error)

    def _undo(self) -> None:
        self._timer.stop()
        removed, self._removed = self._removed, None
        try:
            if removed is not None:
                removed.restore()
        except DynoError as error:
            self.problem.emit(error)
        self.refresh()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete removes."""
        if event.key() == Qt.Key.Key_Delete and self.table.hasFocus():
            self.remove()
        else:
            super().keyPressEvent(event)

    def _may_remove(self, run: RunRecord) -> bool:
        """Whatever nobody trains now."""
        return run.state != RUNNING

    def _enable(self) -> None:
        run = self.selected()
        for key in ("open", "reuse"):
            self.buttons[key].setEnabled(run is not None)
        self.buttons["resume"].setEnabled(run is not None and not self.busy and may_resume(run))
        self.buttons["remove"].setEnabled(run is not None and self._may_remove(run))

    def _watched(self) -> list[str]:
        try:
            names = json.loads(self._settings.get(_WATCHED, "[]"))
        except ValueError:
            return []
        return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []

    def _remember(self, names: list[str]) -> None:
        self._settings.set(_WATCHED, json.dumps(names))


def may_resume(run: RunRecord) -> bool:
    """Whether a run can go on."""
    return run.state in (PAUSED, INTERRUPTED, FAILED, "") and run.state != RUNNING and run.step < run.plan.steps
