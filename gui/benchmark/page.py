"""The Benchmark page: a plan, its results as they come, charts of them, and the runs of the past."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from PySide6.QtCore import QT_TRANSLATE_NOOP, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QTabWidget, QVBoxLayout, QWidget

from engine.bench.history import History, Run
from engine.bench.texts import open_text
from engine.errors import DynoError
from engine.measurements import BenchPlan, BenchRow
from engine.messages import Event, Failed, Finished, ModelInfo, ModelLoaded, RecipeApplied
from engine.paths import benchmark_history
from gui.benchmark.charts_view import ChartsView
from gui.benchmark.exports import write_run
from gui.benchmark.history_view import HistoryView
from gui.benchmark.job import BenchJob
from gui.benchmark.plan_form import PlanForm
from gui.benchmark.results_view import ResultsView
from gui.context import AppContext, Page
from gui.techniques.applying import Applying
from gui.techniques.recipe_state import remembered_recipe
from gui.theme import theme
from gui.widgets.controls import action_button
from gui.widgets.export_button import ExportButton, ask_where
from gui.widgets.labels import TextLabel, engine_text, set_icon
from gui.widgets.notice import Notice
from gui.widgets.words import duration_text

_SOON_MS = 150
_PLAN = "benchmark/plan"  # of the settings
_BYTES_PER_TOKEN = 4  # of English, roughly: for the estimate alone
_READ_PER_S, _FLOPS = 1.5e10, 1e11  # an ordinary processor, until a run of the model says better


class BenchmarkPage(QWidget):
    """Tabs under one line that says what goes on and starts or stops it."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self._path = benchmark_history(context.settings.folder)
        self._model: ModelInfo | None = None
        self._rates = (0.0, 0.0)  # prompt and generation, tokens/s
        self._shown: tuple[BenchPlan, dict[str, BenchRow], str] | None = None  # plan, rows, title
        self.job = BenchJob(context.bridge, str(self._path), self)
        self.form = PlanForm(context.settings.folder / "recipes")
        self.results, self.charts, self.history = ResultsView(), ChartsView(), HistoryView(self._path)
        self.notice = Notice()
        self.status = TextLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 1000)
        self.bar.setAccessibleName(self.tr("Progress of the benchmark"))
        self.bar.hide()
        # The estimate reads the text's beginning: once after a burst of keys, not at each.
        self._soon = QTimer(self, singleShot=True, interval=_SOON_MS)
        self._soon.timeout.connect(self._plan_changed)
        self._applying = Applying(context.bridge, self.notice, self)
        self.start = action_button(self.tr("Start"), self.tr("Measure this plan."), self._start)
        self.start.setProperty("primary", True)
        self.stop = action_button(self.tr("Stop"), self.tr(
            "Stop; finished rows are kept, and Resume goes on from there."), self.job.stop)
        self.stop.hide()
        self.resume = action_button(self.tr("Resume"), self.tr("Measure the rows that are missing."),
                                    self._resume_shown)
        self.resume.hide()
        self.copy = action_button(self.tr("Copy as Markdown"), self.tr("Copy the table of results."),
                                 self.results.table.copy_markdown)
        self.export = ExportButton(
            self.tr("Export the run: CSV, JSON, Markdown, HTML with charts (Ctrl+E)"),
            ((".html", self.tr("HTML with charts…")), (".md", self.tr("Markdown…")), (".csv", self.tr("CSV…")),
             (".json", self.tr("JSON…"))), self.export_run)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("Benchmark"))
        for widget, title in ((self.form, self.tr("Plan")), (self.results, self.tr("Results")),
                              (self.charts, self.tr("Charts")), (self.history, self.tr("History"))):
            self.tabs.addTab(widget, title)
        head = QHBoxLayout()
        head.addWidget(self.status, 1)
        for button in (self.copy, self.export, self.resume, self.stop, self.start):
            head.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 0, 4)
        column.setSpacing(6)
        column.addLayout(head)
        column.addWidget(self.bar)
        column.addWidget(self.notice)
        column.addWidget(self.tabs, 1)
        self._connect()
        self.form.show_panel(remembered_recipe(context.settings))
        self.form.restore(context.settings.get(_PLAN, ""))
        self._restyle()
        self._refresh()

    def _connect(self) -> None:
        self._context.bridge.received.connect(self._receive)
        self._context.actions.export.connect(self._export_shown)
        self._context.actions.closing.connect(self.history.settle)
        self.form.changed.connect(self._soon.start)
        self.job.started.connect(self._started)
        self.job.row_done.connect(self._row_done)
        self.job.sampled.connect(self._sampled)
        self.job.progressed.connect(self._progressed)
        self.job.ended.connect(self._ended)
        self.charts.chosen.connect(self.apply)
        self.charts.problem.connect(self._tell)
        self.charts.table_wanted.connect(lambda: self.tabs.setCurrentWidget(self.results))
        self.history.opened.connect(self.open_run)
        self.history.resumed.connect(self._resume)
        self.tabs.currentChanged.connect(self._turned)
        theme().changed.connect(self._restyle)

    # ----------------------------------------------------------------------------------------------------- actions

    def first_stop(self) -> QWidget:
        """Where the keyboard begins."""
        return {self.form: self.form.recipes, self.results: self.results.table, self.charts: self.charts.scatter,
                self.history: self.history.table}[self.tabs.currentWidget()]

    def apply(self, lane: int) -> None:
        """Apply the recipe of a lane of the shown run to the loaded model."""
        if self._shown is None or self._model is None:
            return
        self._applying.apply(self._shown[0].recipes[lane], self.tr(
            "{recipe} will be applied when the benchmark has ended.") if self.job.busy else "")

    def open_run(self, run: Run) -> None:
        """Show a run of the past."""
        if self.job.busy and run.id == self.job.run_id and self.job.plan is not None:
            self._show(self.job.plan, self.job.rows, run.title)
        else:
            try:
                with contextlib.closing(History(self._path)) as history:
                    rows = {row.key: row for row in history.rows(run.id)}
            except DynoError as error:
                self._tell(error)
                return
            self._show(run.plan, rows, run.title or self.tr("Run {number}").format(number=run.id))
            self._last_run = run
        self.tabs.setCurrentWidget(self.results)
        self._refresh()

    def export_run(self, suffix: str) -> None:
        """Ask for a file and write the shown run to it."""
        if self._shown is None:
            return
        path = ask_where(self, self.tr("Export the run"), f"benchmark{suffix}")
        if path is not None:
            try:
                write_run(path, tuple(self._shown[1].values()), self._shown[2] or "GPT Dyno benchmark")
                self.notice.show_message(self.tr("Written: {name}").format(name=path.name))
            except DynoError as error:
                self._tell(error)

    def _export_shown(self) -> None:
        """Ctrl+E is for the page in front."""
        if self.isVisible():
            self.export_run(".html")

    def _start(self) -> None:
        try:
            plan = self.form.plan()
            if plan.quality is not None:
                open_text(plan.quality.text)
        except DynoError as error:
            self._tell(error)
            return
        self._run(plan)

    def _resume_shown(self) -> None:
        if self._last_run is not None:
            self._resume(self._last_run)

    def _resume(self, run: Run) -> None:
        self._run(run.plan, run.title, run.id)

    def _run(self, plan: BenchPlan, title: str = "", resumed: int = 0) -> None:
        self.history.settle()
        self.notice.clear()
        self._last_run = None
        self.job.run(plan, title, resumed)
        self._show(plan, {}, title)
        self.status.setText(self.tr("Waiting for the engine…"))
        self.tabs.setCurrentWidget(self.results)
        self._refresh()
        self.stop.setFocus()

    # ------------------------------------------------------------------------------------------------------ events

    def _receive(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            self._model = event.model
            self.history.model = Path(event.model.folder).resolve().name
            self.history.refresh()
            self._rates = self._known_rates()
            self.form.show_model(event.model)
        if isinstance(event, (ModelLoaded, RecipeApplied)):
            self.form.show_panel(event.report.recipe)

    def _started(self) -> None:
        assert self.job.plan is not None
        self._show(self.job.plan, self.job.rows, "")
        self.bar.setValue(0)
        self.bar.show()
        self._refresh()

    def _row_done(self, row: BenchRow) -> None:
        if self._watching():
            self.results.show_row(row)
            self.charts.show_rows(tuple(self.job.rows.values()))
        self.history.refresh()

    def _sampled(self, sample: object) -> None:
        if self._watching():
            self.results.show_sample(sample)  # type: ignore[arg-type]  # Qt's signals carry objects

    def _progressed(self, stage: str, share: float, left_s: float) -> None:
        self.bar.setValue(round(1000 * share))
        text = engine_text(stage)
        self.status.setText(self.tr("{stage}, about {time} left").format(stage=text, time=duration_text(left_s))
                            if left_s >= 0 else text)

    def _ended(self, event: object) -> None:
        self.bar.hide()
        assert self.job.plan is not None
        if self._watching():
            self._show(self.job.plan, self.job.rows, "")
        self.history.follow(False, 0)
        self._last_run = next((run for run in self.history.runs if run.id == self.job.run_id), None)
        if isinstance(event, Failed):
            self.notice.show_problem(engine_text(event.summary), engine_text(event.hint), event.details)
        elif isinstance(event, Finished):
            self._rates = self._known_rates()
        self._refresh()

    # ------------------------------------------------------------------------------------------------------- state

    _last_run: Run | None = None  # the run that is shown, where it stands in the history and does not run

    def _watching(self) -> bool:
        """Whether the run under way is the one that is shown."""
        return self._shown is not None and self._shown[1] is self.job.rows

    def _show(self, plan: BenchPlan, rows: dict[str, BenchRow], title: str) -> None:
        self._shown = (plan, self.job.rows if rows is self.job.rows or (self.job.busy and not rows) else rows, title)
        self.results.show_run(plan, rows, waiting=self.job.busy and self._watching())
        self.charts.show_rows(tuple(rows.values()))

    def _refresh(self) -> None:
        """Buttons and the line beside them follow what is going on."""
        busy, planning = self.job.busy, self.tabs.currentWidget() is self.form
        self.history.follow(busy, self.job.run_id if busy else 0)
        shown = self._shown is not None and bool(self._shown[1])
        self.copy.setVisible(shown and not planning)
        self.export.setVisible(shown and not planning)
        self.stop.setVisible(busy)
        self.start.setVisible(not busy)
        self.resume.setVisible(not busy and not planning and self._last_run is not None
                               and self.history.may_resume(self._last_run))
        estimate, problem = self._estimate()
        self.start.setEnabled(self._model is not None and not problem)
        if not busy:
            self.status.setText(self._words(planning, estimate, problem))

    def _plan_changed(self) -> None:
        self._context.settings.set(_PLAN, self.form.state())
        self._refresh()

    def _turned(self, _place: int) -> None:
        """Another tab is in front."""
        if self.tabs.currentWidget() is self.history:
            self.history.refresh()  # other programs write to it, too
        self._refresh()

    def _words(self, planning: bool, estimate: str, problem: str) -> str:
        if self._model is None:
            return self.tr("Choose recipes and what to measure; Start waits for the model.")
        if planning or self._shown is None:
            return problem or self.tr("Choose recipes and what to measure, then Start. {estimate}").format(
                estimate=estimate)
        plan, rows, title = self._shown
        failed = sum(1 for row in rows.values() if row.error)
        text = self.tr("{done} of {planned} rows measured").format(
            done=len(rows) - failed, planned=len(plan.recipes) * len(plan.tests))
        if failed:
            text += self.tr(", {count} failed").format(count=failed)
        return f"{title}: {text}" if title else text

    def _estimate(self) -> tuple[str, str]:
        """How long the plan takes, or why there is none."""
        try:
            plan = self.form.plan()
            tokens = 0
            if plan.quality is not None:
                tokens = open_text(plan.quality.text).size_bytes // _BYTES_PER_TOKEN
                if plan.quality.chunks:
                    tokens = min(tokens, plan.quality.chunks * plan.quality.context)
        except DynoError as error:
            return "", f"{engine_text(error.summary)} {engine_text(error.hint)}".strip()
        if self._model is None:
            return "", ""
        seconds = plan.seconds(*self._rates, tokens)
        return self.tr("{rows} rows, about {time}.").format(
            rows=len(plan.recipes) * len(plan.tests), time=duration_text(float(math.ceil(seconds)))), ""

    def _known_rates(self) -> tuple[float, float]:
        """Tokens/s of prompts and of generation: from the newest run of this model, else guessed from its size."""
        assert self._model is not None
        weights = max(1, self._model.parameters)
        rates = [_FLOPS / (2 * weights), _READ_PER_S / (4 * weights)]
        try:
            with contextlib.closing(History(self._path)) as history:
                run = next((r for r in history.runs() if r.model == self.history.model and r.rows), None)
                rows = history.rows(run.id) if run is not None else ()
        except DynoError:
            return rates[0], rates[1]
        for place, kind in enumerate(("n_prompt", "n_gen")):
            found = [row.avg_ts for row in rows if row.avg_ts and getattr(row, kind)]
            rates[place] = sum(found) / len(found) if found else rates[place]
        return rates[0], rates[1]

    def _tell(self, error: DynoError) -> None:
        self.notice.show_problem(engine_text(error.summary), engine_text(error.hint))

    def showEvent(self, event: QShowEvent) -> None:
        """Presets may have been saved elsewhere."""
        super().showEvent(event)
        self.form.refresh()

    def _restyle(self) -> None:
        set_icon(self.export, "export")


_KEYS = (
    str(QT_TRANSLATE_NOOP("pages", "Space in the list of recipes: Measure the recipe, or not")),
    str(QT_TRANSLATE_NOOP("pages", "Arrows, Enter in a chart: Walk through the recipes, apply one")),
    str(QT_TRANSLATE_NOOP("pages", "Ctrl+C in a table: Copy it as Markdown")),
    str(QT_TRANSLATE_NOOP("pages", "Enter, F2, Del in the history: Open, rename, delete a run")),
)
PAGE = Page("benchmark", str(QT_TRANSLATE_NOOP("pages", "Bench")), "bench", 30, BenchmarkPage, _KEYS)
