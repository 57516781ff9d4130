"""The Compare page: two to four recipes write from one prompt, or are measured in turns, with one table beneath."""

from __future__ import annotations

import itertools
import json

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QScrollArea, QVBoxLayout, QWidget

from engine.bench.compared import Comparison, LaneRecord, of_rows, of_watching, render
from engine.comparing import FEWEST_LANES, MOST_LANES, ComparisonResult, LaneEvent
from engine.errors import DynoError
from engine.measurements import BenchPlan, BenchRow, QualityTest, SpeedTest
from engine.messages import Event, Failed, Finished, ModelInfo, ModelLoaded, RecipeApplied
from engine.paths import benchmark_history
from engine.recipe import Recipe
from gui.benchmark.job import BenchJob
from gui.compare.figures_view import MEASURED, WATCHED, FiguresView
from gui.compare.job import WatchJob
from gui.compare.lane import Lane
from gui.compare.lane_text import MARK
from gui.compare.options import Options
from gui.compare.recipe_box import PANEL, Offers
from gui.context import AppContext, Page
from gui.monitor.files import write_whole
from gui.techniques.applying import Applying
from gui.techniques.recipe_state import remembered_recipe
from gui.theme import theme
from gui.widgets.controls import action_button
from gui.widgets.export_button import ExportButton, ask_where
from gui.widgets.labels import TextLabel, engine_text, quiet, set_icon
from gui.widgets.notice import Notice
from gui.widgets.words import duration_text

_LANES_KEY, _PROMPT_KEY = "compare/lanes", "compare/prompt"  # of the settings
_FIRST = ("preset:fp32", "preset:int8", "preset:int4", PANEL)  # of the lanes, as they are added
_PROMPT, _GENERATE, _CHUNKS, _CONTEXT = 512, 128, 8, 512  # what Measure measures


class ComparePage(QWidget):
    """One line that says what goes on and starts or stops it; then the prompt, the lanes, and their figures."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self._model: ModelInfo | None = None
        self._panel = remembered_recipe(context.settings)
        self._seed: int | None = None
        self._prompt = ""
        self.watching = WatchJob(context.bridge, self)
        self.measuring = BenchJob(context.bridge, str(benchmark_history(context.settings.folder)), self)
        self.notice, self.status, self.options = Notice(), TextLabel(), Options()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(self.tr("Progress of the comparison"))
        self.bar.hide()
        self.watch = action_button(self.tr("Watch"), self.tr("All lanes write from the prompt, a token each in turn."),
                                  self.start_watching)
        self.watch.setProperty("primary", True)
        self.measure = action_button(self.tr("Measure"), self.tr(
            "Speed, memory, perplexity and KL of all lanes, in turns, with intervals. The prompt plays no part."),
            self.start_measuring)
        self.stop = action_button(self.tr("Stop"), self.tr("Stop (Esc); what is written or measured stands."),
                                 self._stop)
        self.add = action_button(self.tr("Add lane"), self.tr("Compare another recipe; four at most."), self.add_lane)
        self.export = ExportButton(
            self.tr("Export the comparison: Markdown, JSON, CSV (Ctrl+E)"),
            ((".md", self.tr("Markdown…")), (".json", self.tr("JSON…")), (".csv", self.tr("CSV…"))),
            self.export_comparison)
        self._applying = Applying(context.bridge, self.notice, self)
        self.lanes: list[Lane] = []
        self._lane_row = QHBoxLayout()
        self._lane_row.setContentsMargins(0, 0, 0, 0)
        self._lane_row.setSpacing(8)
        self.figures = FiguresView()
        self._lay_out()
        self._connect()
        for key in self._remembered() or _FIRST[:FEWEST_LANES]:
            self._add(key)
        self.options.prompt.setPlainText(context.settings.get(_PROMPT_KEY, ""))
        self._restyle()
        self._lanes_changed()

    def _lay_out(self) -> None:
        head = QHBoxLayout()
        head.addWidget(self.status, 1)
        for button in (self.export, self.stop, self.measure, self.watch):
            head.addWidget(button)
        self.options.row.addWidget(self.add)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 0, 4)
        column.setSpacing(6)
        column.addLayout(head)
        column.addWidget(self.bar)
        column.addWidget(self.notice)
        column.addWidget(self._scrolled(), 1)

    def _scrolled(self) -> QScrollArea:
        """Prompt, lanes and figures: they fill the page, and scroll where it is too small for them."""
        area, content = QScrollArea(), QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.options)
        column.addLayout(self._lane_row, 1)
        column.addWidget(quiet(self.tr("{mark} the first token that is not lane A’s. The darker a token’s background, "
                                       "the larger its KL from A. Point at one, or walk with the arrow keys.").format(
                                           mark=MARK)))
        column.addWidget(self.figures)
        area.setWidget(content)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        return area

    def _connect(self) -> None:
        self._context.bridge.received.connect(self._receive)
        self._context.actions.export.connect(self._export_shown)
        self._context.actions.closing.connect(self._remember)
        self.options.changed.connect(self._refresh)
        self.options.prompt.submitted.connect(self.start_watching)
        self.watching.started.connect(self._refresh)
        self.watching.told.connect(self._told)
        self.watching.progressed.connect(self._progressed)
        self.watching.ended.connect(self._watched)
        self.measuring.started.connect(self._refresh)
        self.measuring.row_done.connect(self._row_done)
        self.measuring.progressed.connect(self._progressed)
        self.measuring.ended.connect(self._measured)
        theme().changed.connect(self._restyle)

    # --------------------------------------------------------------------------------------------------------- lanes

    @property
    def busy(self) -> bool:
        """Whether lanes are watched or measured."""
        return self.watching.busy or self.measuring.busy

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Of the lanes."""
        return tuple(lane.recipe.recipe for lane in self.lanes)

    def add_lane(self) -> None:
        """One more."""
        if len(self.lanes) < MOST_LANES and not self.busy:
            used = {lane.recipe.key for lane in self.lanes}
            lane = self._add(next(key for key in _FIRST if key not in used or key == PANEL))
            self._lanes_changed()
            lane.recipe.box.setFocus()

    def _add(self, key: str) -> Lane:
        lane = Lane(key, self._offers())
        lane.changed.connect(lambda: self._recipe_changed(lane))
        lane.applied.connect(lambda: self._apply(lane))
        lane.removed.connect(lambda: self._remove(lane))
        self.lanes.append(lane)
        self._lane_row.addWidget(lane, 1)
        return lane

    def _remove(self, lane: Lane) -> None:
        if len(self.lanes) > FEWEST_LANES and not self.busy:
            was_base = lane is self.lanes[0]
            self.lanes.remove(lane)
            lane.hide()
            lane.deleteLater()
            self.figures.remove_lane(lane.number)
            if was_base:
                self._reset()
            self._lanes_changed()
            self.lanes[-1].recipe.box.setFocus()

    def _recipe_changed(self, lane: Lane) -> None:
        """What was found for the recipe before says nothing of this one; without its base it says nothing at all."""
        if lane is self.lanes[0]:
            self._reset()
        else:
            lane.reset()
            self.figures.change_lane(lane.number)
        self._lanes_changed()

    def _remembered(self) -> list[str]:
        """The lanes of the last time, [] where there are none to go by."""
        try:
            keys = json.loads(self._context.settings.get(_LANES_KEY, "[]"))
        except ValueError:
            return []
        usable = isinstance(keys, list) and FEWEST_LANES <= len(keys) <= MOST_LANES
        return [str(key) for key in keys] if usable else []

    def _remember(self) -> None:
        self._context.settings.set(_LANES_KEY, json.dumps([lane.recipe.key for lane in self.lanes]))
        self._context.settings.set(_PROMPT_KEY, self.options.prompt.toPlainText())

    def _reset(self) -> None:
        self.figures.forget()
        for lane in self.lanes:
            lane.reset()

    def _lanes_changed(self) -> None:
        for number, lane in enumerate(self.lanes):
            lane.place(number, len(self.lanes) > FEWEST_LANES)
        stops = [self.add, *(stop for lane in self.lanes for stop in lane.stops), *self.figures.stops]
        for before, after in itertools.pairwise(stops):
            QWidget.setTabOrder(before, after)
        self._show_figures()
        self._refresh()

    def _offers_changed(self) -> None:
        offers = self._offers()
        for lane in self.lanes:
            lane.recipe.show_offers(offers)
        self._refresh()

    def _offers(self) -> Offers:
        title = self.tr("The panel’s: {recipe}").format(recipe=self._panel.label)
        unavailable = dict(self._model.unavailable) if self._model is not None else {}
        return Offers(self._context.settings.folder / "recipes", self._panel, title, unavailable)

    def _apply(self, lane: Lane) -> None:
        if self._model is None:
            return
        self._applying.apply(lane.recipe.recipe, self.tr(
            "{recipe} will be applied when the comparison has ended.") if self.busy else "")

    # ------------------------------------------------------------------------------------------------------- running

    def first_stop(self) -> QWidget:
        """Where the keyboard begins."""
        return self.options.prompt

    def start_watching(self) -> None:
        """Let all lanes write."""
        if not self.watch.isEnabled() or self._model is None:
            return
        self.notice.clear()
        self.figures.forget(WATCHED)
        for lane in self.lanes:
            lane.reset()
        self._prompt, self._seed = self.options.text(), self.options.seed.value()
        self.watching.run(self.recipes, self._prompt, self.options.sampling(self._model.sampling))
        self._begin()

    def start_measuring(self) -> None:
        """Measure all lanes in turns."""
        if not self.measure.isEnabled() or self._model is None:
            return
        self.notice.clear()
        self.figures.forget(MEASURED)
        self.measuring.run(self.plan(), self.tr("Comparison"))
        self._begin()

    def plan(self) -> BenchPlan:
        """What Measure measures."""
        context = self._model.context if self._model is not None else _CONTEXT
        tests = (SpeedTest(prompt=_PROMPT), SpeedTest(generate=_GENERATE))
        return BenchPlan(self.recipes, tuple(test.within(context) for test in tests),
                         QualityTest("", min(_CONTEXT, context), 0, _CHUNKS), interleave=True)

    def _begin(self) -> None:
        self.status.setText(self.tr("Waiting for the engine…"))
        self.bar.setRange(0, 0)
        self._remember()
        self._refresh()
        self.stop.setFocus()

    def _stop(self) -> None:
        self.watching.stop()
        self.measuring.stop()

    def _told(self, events: tuple[LaneEvent, ...]) -> None:
        for lane in self.lanes:
            own = [event for event in events if event.lane == lane.number]
            if own:
                lane.take(own)

    def _progressed(self, stage: str, share: float, left_s: float) -> None:
        self.bar.setRange(0, 1000 if share >= 0 else 0)
        self.bar.setValue(round(1000 * share))
        text = engine_text(stage) or self.tr("All lanes write, a token each in turn")
        self.status.setText(self.tr("{stage}, about {time} left").format(stage=text, time=duration_text(left_s))
                            if left_s >= 0 else text)

    def _watched(self, event: object) -> None:
        if not isinstance(event, Failed) and isinstance(event.result, ComparisonResult):  # type: ignore[attr-defined]
            result: ComparisonResult = event.result  # type: ignore[attr-defined]
            for lane, found in zip(self.lanes, result.lanes, strict=True):
                lane.finish(found)
            self.figures.show_found(WATCHED, of_watching(result.lanes))
        self._ended(event, self.tr("Watched."))

    def _row_done(self, _row: BenchRow) -> None:
        self.figures.show_found(MEASURED, of_rows(self.measuring.rows.values(), len(self.lanes)))

    def _measured(self, event: object) -> None:
        if self.measuring.rows:
            self.figures.show_found(MEASURED, of_rows(self.measuring.rows.values(), len(self.lanes)))
        self._ended(event, self.tr("Measured; the run stands in the Benchmark page’s history, too."))

    def _ended(self, event: object, words: str) -> None:
        """Finished, Cancelled or Failed: say so, and give the focus back to where it came from."""
        had_focus = self.stop.hasFocus()
        self.bar.hide()
        self._refresh()
        if isinstance(event, Failed):
            self.status.setText(self.tr("The comparison failed."))
            self.notice.show_problem(engine_text(event.summary), engine_text(event.hint), event.details)
        else:
            self.status.setText(words if isinstance(event, Finished) else self.tr(
                "Stopped. What was written or measured stands."))
        if had_focus:
            self.watch.setFocus()

    # --------------------------------------------------------------------------------------------------------- state

    def _receive(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            self._model = event.model
            self._reset()  # no job runs while a model loads: what is shown is of the one before
        if isinstance(event, (ModelLoaded, RecipeApplied)):
            self._panel = event.report.recipe
            self._offers_changed()

    def _show_figures(self) -> None:
        self.figures.show_lanes([recipe.label for recipe in self.recipes])

    def _refresh(self) -> None:
        """Buttons follow what is going on."""
        busy, problem = self.busy, self._problem()
        self.stop.setVisible(busy)
        self.watch.setVisible(not busy)
        self.measure.setVisible(not busy)
        self.bar.setVisible(busy)
        for lane in self.lanes:
            lane.recipe.setEnabled(not busy)
            lane.remove.setEnabled(not busy)
            lane.apply.setEnabled(self._model is not None)
        self.add.setEnabled(not busy and len(self.lanes) < MOST_LANES)
        self.measure.setEnabled(self._model is not None and not problem)
        self.watch.setEnabled(self._model is not None and not problem and bool(self.options.text()))
        self.export.setEnabled(not self.figures.empty or any(lane.text.tokens for lane in self.lanes))
        if not busy:
            self.status.setText(problem or (
                self.tr("Choose recipes; Watch and Measure wait for the model.") if self._model is None else
                self.tr("Write a prompt to watch the lanes, or measure them.") if not self.options.text() else
                self.tr("Ready to watch or to measure.")))

    def _problem(self) -> str:
        """Why these lanes cannot run here."""
        return next((self.tr("Lane {lane} cannot run here: {reason}").format(
            lane=chr(ord("A") + lane.number), reason=lane.recipe.reason) for lane in self.lanes if lane.recipe.reason),
            "")

    # -------------------------------------------------------------------------------------------------------- export

    def comparison(self) -> Comparison:
        """What is shown, for a file."""
        model, device = (self._model.name, self._model.device_name) if self._model is not None else ("", "")
        return Comparison(model, device, self._prompt, self._seed, tuple(
            LaneRecord(lane.recipe.recipe, lane.text.text, lane.text.tokens, figures,
                       lane.result.finish if lane.result is not None else "")
            for lane, figures in zip(self.lanes, self.figures.shown, strict=True)))

    def export_comparison(self, suffix: str) -> None:
        """Ask for a file and write what is shown to it."""
        path = ask_where(self, self.tr("Export the comparison"), f"comparison{suffix}")
        if path is None:
            return
        try:
            write_whole(path, render(self.comparison(), suffix).encode())
        except OSError as error:
            self._tell(DynoError(f"{path.name} cannot be written: {error.strerror or error}.",
                                 "Choose another folder."))
            return
        self.notice.show_message(self.tr("Written: {name}").format(name=path.name))

    def _export_shown(self) -> None:
        """Ctrl+E is for the page in front."""
        if self.isVisible() and self.export.isEnabled():
            self.export_comparison(".md")
        elif self.isVisible():
            self.notice.show_message(self.tr("There is nothing to export yet."))

    def _tell(self, error: DynoError) -> None:
        self.notice.show_problem(engine_text(error.summary), engine_text(error.hint))

    def showEvent(self, event: QShowEvent) -> None:
        """Presets may have been saved elsewhere."""
        super().showEvent(event)
        if not self.busy:
            self._offers_changed()

    def _restyle(self) -> None:
        set_icon(self.export, "export")
        self._show_figures()


_KEYS = (
    str(QT_TRANSLATE_NOOP("pages", "Enter in the prompt: Watch the lanes")),
    str(QT_TRANSLATE_NOOP("pages", "Left, Right in a lane: Walk through its tokens")),
    str(QT_TRANSLATE_NOOP("pages", "Ctrl+C in the table: Copy the figures as Markdown")),
)
PAGE = Page("compare", str(QT_TRANSLATE_NOOP("pages", "Compare")), "compare", 20, ComparePage, _KEYS)
