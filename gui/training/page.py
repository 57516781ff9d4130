"""The Train page: a plan, a run as it goes, the runs of before. What a run is, its folder says; this page watches it,
whoever trains it, and asks the engine for runs of its own."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from PySide6.QtCore import QT_TRANSLATE_NOOP, QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QTabWidget, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.messages import Cancelled, DataPreview, Event, Failed, Finished, ModelLoaded, ProbeReport
from engine.train_events import Finding
from engine.training.records import RUNNING, Facts, RunRecord
from gui.context import AppContext, Page, find_pages
from gui.training.form import TrainForm
from gui.training.job import TrainJob
from gui.training.probe_view import ProbeView
from gui.training.run_view import RunView
from gui.training.runs_view import RunsView, may_resume
from gui.training.words import state_text, where_text
from gui.widgets.controls import action_button
from gui.widgets.labels import TextLabel, engine_text
from gui.widgets.notice import Notice

_LOOK_MS = 500
_USES = ("chat", "compare", "benchmark")


class TrainingPage(QWidget):
    """Tabs under one line that says what goes on, with the buttons that start and end it."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self._folder = context.settings.folder / "training"
        self._stage = ""
        self._filled = ""  # the model's folder that the form was given by itself
        self._pages = {page.key for page in find_pages()}
        self.shown: RunRecord | None = None
        self.job = TrainJob(context.bridge, self)
        self.form, self.run, self.probe = TrainForm(), RunView(), ProbeView()
        self.runs = RunsView(self._folder, context.settings)
        self.notice = Notice()
        self.status = TextLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(self.tr("Progress of the training"))
        self.bar.hide()
        self.start = action_button(self.tr("Start"), self.tr("Train by this plan, in a new run."), self._start)
        self.start.setProperty("primary", True)
        self.probe_button = action_button(self.tr("Probe the data"), self.tr(
            "Train briefly on a quarter, a half and all of the data, to see what more data or a larger model would "
            "bring."), self._probe)
        self.pause = action_button(self.tr("Pause"), self.tr(
            "Save and let go of the engine; Resume goes on from there."), self._pause)
        self.finish = action_button(self.tr("Stop, keep the best"), self.tr(
            "End the run now; its result is the best model so far."), self._finish)
        self.resume = action_button(self.tr("Resume"), self.tr("Go on from the last checkpoint."), self._resume_shown)
        self.uses: dict[str, QPushButton] = {}
        titles = {"chat": (self.tr("Open in Chat"), self.tr("Load the best model and talk to it.")),
                  "compare": (self.tr("Compare"), self.tr("Load the best model and compare recipes on it.")),
                  "benchmark": (self.tr("Benchmark"), self.tr("Load the best model and measure it."))}
        self._buttons = QHBoxLayout()
        self._buttons.addWidget(self.status, 1)
        for key in _USES:
            self.uses[key] = action_button(*titles[key], partial(self._use, key))
        for button in (*self.uses.values(), self.resume, self.probe_button, self.pause, self.finish, self.start):
            self._buttons.addWidget(button)
        plan = QWidget()
        below = QVBoxLayout(plan)
        below.setContentsMargins(0, 0, 0, 0)
        below.addWidget(self.probe)
        below.addWidget(self.form, 1)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("Train"))
        for widget, title in ((plan, self.tr("Plan")), (self.run, self.tr("Run")), (self.runs, self.tr("Runs"))):
            self.tabs.addTab(widget, title)
        self._plan_tab = plan
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 0, 4)
        column.setSpacing(6)
        column.addLayout(self._buttons)
        column.addWidget(self.bar)
        column.addWidget(self.notice)
        column.addWidget(self.tabs, 1)
        self._timer = QTimer(self, interval=_LOOK_MS)
        self._timer.timeout.connect(self.look)
        self._connect()
        self.run.show_run(None)
        self._refresh()

    def _connect(self) -> None:
        self._context.bridge.received.connect(self._receive)
        self._context.actions.closing.connect(self._timer.stop)
        self._context.actions.closing.connect(self.runs.settle)
        self.form.changed.connect(self._refresh)
        self.form.preview.wanted.connect(self._preview)
        self.job.progressed.connect(self._progressed)
        self.job.ended.connect(self._ended)
        self.job.probed.connect(self.probe.add)
        self.job.probe_ended.connect(self._probe_ended)
        self.job.previewed.connect(self._previewed)
        self.run.remedied.connect(self.apply_remedy)
        self.runs.opened.connect(self.open_run)
        self.runs.resumed.connect(self.resume_run)
        self.runs.reused.connect(self._reuse)
        self.runs.problem.connect(self._tell)
        self.runs.removed.connect(self._removed)
        self.tabs.currentChanged.connect(self._turned)

    # ----------------------------------------------------------------------------------------------------- actions

    def open_run(self, run: RunRecord) -> None:
        """Show a run's curves, and watch its folder."""
        self.shown = run
        self.tabs.setCurrentWidget(self.run)
        self.look()

    def resume_run(self, run: RunRecord) -> None:
        """Go on with a run that was paused or interrupted."""
        if not self.job.busy:
            self._begin(run.plan, run.folder, resume=True)

    def apply_remedy(self, finding: Finding) -> None:
        """Put the shown run's plan into the form, with what a diagnosis would change."""
        if self.shown is not None:
            self.form.show_plan(self.shown.plan)
        words = self.form.apply(finding.remedy)
        self.tabs.setCurrentWidget(self._plan_tab)
        self.notice.show_message(self.tr("Set in the plan: {settings}. Start makes a new run with it.").format(
            settings=words), lasting_ms=0)

    def first_stop(self) -> QWidget:
        """Where the keyboard begins."""
        front = self.tabs.currentWidget()
        return self.runs.table if front is self.runs else self.run.as_table if front is self.run else self.form.choice

    def look(self) -> None:
        """Read on in the shown run's folder, and draw what is new."""
        run = self.shown
        if run is None:
            return
        news = run.look()
        if news or self.run.shown is not run:
            self.run.show_run(run)
            self._refresh()
        self._timer.setInterval(_LOOK_MS if not news or run.state == RUNNING else 0)

    def _start(self) -> None:
        try:
            plan = self.form.plan()
        except DynoError as error:
            self._tell(error)
            return
        self._begin(plan, self._folder / self._name(), resume=False)

    def _name(self) -> str:
        """A folder's name for a new run."""
        data = self.form.editors["data"].value()
        stem = Path(data[0]).name.partition(".")[0] if data else ""
        return f"{time.strftime('%Y%m%d-%H%M%S')}-{self.form.task.key}-{stem}"[:80].rstrip("-. ")

    def _begin(self, plan, folder: Path, resume: bool) -> None:  # type: ignore[no-untyped-def]
        self.notice.clear()
        self.job.train(plan, folder, resume)
        self.shown = RunRecord(folder, plan, Facts(state=""))
        self._stage = self.tr("Waiting for the engine…")
        self.run.show_run(self.shown)
        self.tabs.setCurrentWidget(self.run)
        self._refresh()
        self.pause.setFocus()

    def _probe(self) -> None:
        try:
            plan = self.form.plan()
        except DynoError as error:
            self._tell(error)
            return
        self.notice.clear()
        self.probe.begin()
        self._stage = self.tr("Waiting for the engine…")
        self.job.probe(plan, self._folder / ".probes" / self._name())
        self._refresh()

    def _pause(self) -> None:
        self.job.pause()
        self._stage = self.tr("Saving…")
        self._refresh()

    def _finish(self) -> None:
        self.job.finish()
        self._stage = self.tr("Finishing…")
        self._refresh()

    def _resume_shown(self) -> None:
        if self.shown is not None:
            self.resume_run(self.shown)

    def _use(self, page: str) -> None:
        if self.shown is not None and self.shown.model:
            self._context.actions.open_model.emit(self.shown.model, page)

    def _reuse(self, run: RunRecord) -> None:
        self.form.show_plan(run.plan)
        self.tabs.setCurrentWidget(self._plan_tab)

    def _preview(self) -> None:
        try:
            plan = self.form.plan()
        except DynoError as error:
            self.form.preview.show_problem(_words(error))
            return
        self.form.preview.wait()
        self.job.preview(plan)

    # ------------------------------------------------------------------------------------------------------ events

    def _receive(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            editor = self.form.editors["model"]
            if editor.value() in ("", self._filled):
                self._filled = event.model.folder
                editor.show_value(self._filled)
                self._refresh()

    def _progressed(self, stage: str, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        if not (self.job.pausing or self.job.finishing):
            self._stage = "" if stage == "Training" else engine_text(stage)
            self._say()

    def _ended(self, event: object) -> None:
        self._stage = ""
        if isinstance(event, Failed):
            self.notice.show_problem(engine_text(event.summary), engine_text(event.hint), event.details)
        self.look()
        self.runs.refresh()
        self._refresh()

    def _probe_ended(self, event: object) -> None:
        self._stage = ""
        if isinstance(event, Failed):
            self.probe.hide()
            self.notice.show_problem(engine_text(event.summary), engine_text(event.hint), event.details)
        elif isinstance(event, Finished) and isinstance(event.result, ProbeReport):
            self.probe.conclude(event.result)
            if self.job.folder is not None:
                shutil.rmtree(self.job.folder, ignore_errors=True)  # small models that nobody will look for
        elif isinstance(event, Cancelled):
            self.probe.hide()
        self._refresh()

    def _previewed(self, result: object) -> None:
        if isinstance(result, DataPreview):
            self.form.preview.show_preview(result)
        elif isinstance(result, Failed):
            self.form.preview.show_problem(f"{engine_text(result.summary)} {engine_text(result.hint)}".strip())

    # ------------------------------------------------------------------------------------------------------- state

    def _turned(self, _place: int) -> None:
        if self.tabs.currentWidget() is self.runs:
            self.runs.refresh()
        self._refresh()

    def _refresh(self) -> None:
        """Buttons and the line beside them follow what is going on."""
        busy, planning, run = self.job.busy, self.tabs.currentWidget() is self._plan_tab, self.shown
        mine = busy and not self.job.probing
        self.runs.busy = busy
        problem = self._problem()
        self.start.setVisible(not busy and planning)
        self.start.setEnabled(not problem)
        self.probe_button.setVisible(not busy and planning)
        self.probe_button.setEnabled(not problem)
        self.pause.setVisible(busy)
        self.pause.setText(self.tr("Pause") if mine else self.tr("Stop"))
        self.pause.setEnabled(not self.job.pausing)
        self.finish.setVisible(mine)
        self.finish.setEnabled(not (self.job.finishing or self.job.pausing))
        watching = self.tabs.currentWidget() is self.run and run is not None
        self.resume.setVisible(watching and not busy and run is not None and may_resume(run))
        for key, button in self.uses.items():
            button.setVisible(watching and not mine and run is not None and bool(run.model) and key in self._pages
                              and run.state != RUNNING)
        self.bar.setVisible(busy)
        self._say()

    def _say(self) -> None:
        """The line beside the buttons."""
        if self._stage:
            self.status.setText(self._stage)
        elif self.job.busy or (self.shown is not None and self.tabs.currentWidget() is self.run):
            self.status.setText(where_text(self.shown) if self.shown is not None else "")
        else:
            self.status.setText(self._problem() or self.tr("Ready to train."))
        if self.shown is not None and self.shown.facts.message and self.tabs.currentWidget() is self.run and (
                not self.job.busy and self.notice.isHidden()):
            self.status.setText(f"{state_text(self.shown)}: {engine_text(self.shown.facts.message)}")

    def _problem(self) -> str:
        """Why the plan in the form cannot be, "" where it can."""
        if not self.form.editors["data"].value():
            return self.tr("Choose a task and the data to learn from.")
        if self.form.task.needs_model and not self.form.editors["model"].value():
            return self.tr("Choose a model to start from.")
        try:
            self.form.plan()
        except DynoError as error:
            return _words(error)
        return ""

    def _removed(self, run: RunRecord) -> None:
        """A run that is gone is not shown any longer."""
        if self.shown is not None and self.shown.folder == run.folder:
            self.shown = None
            self.run.show_run(None)
        self._refresh()

    def _tell(self, error: DynoError) -> None:
        self.notice.show_problem(engine_text(error.summary), engine_text(error.hint))

    def showEvent(self, event: QShowEvent) -> None:
        """Watch while anyone can see it; offer what a crash has ended."""
        super().showEvent(event)
        self._timer.start()
        self.runs.refresh()
        lost = self.runs.unfinished()
        if lost is not None and not self.job.busy and self.shown is None:
            self.notice.show_message(self.tr("{name} was interrupted at step {step} of {steps}.").format(
                name=lost.folder.name, step=f"{lost.step:,}", steps=f"{lost.plan.steps:,}"), self.tr("Resume"),
                lambda: self.resume_run(lost), lasting_ms=0)

    def hideEvent(self, event: QHideEvent) -> None:
        """Nobody looks."""
        super().hideEvent(event)
        self._timer.stop()


def _words(error: DynoError) -> str:
    return f"{engine_text(error.summary)} {engine_text(error.hint)}".strip()


PAGE = Page("training", str(QT_TRANSLATE_NOOP("pages", "Train")), "train", 40, TrainingPage)
