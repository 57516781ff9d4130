"""The technique panel: everything in it is made from the registry of techniques; a new technique edits nothing here."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtWidgets import QApplication, QScrollArea, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.messages import EngagedReport, ModelLoaded, RecipeFailed
from engine.recipe import Recipe
from engine.techniques import all_techniques
from engine.techniques.base import Options
from gui.bridge import Bridge
from gui.settings import Settings
from gui.techniques.choices import grouped
from gui.techniques.conflicts import with_choice
from gui.techniques.group import TechniqueGroup
from gui.techniques.head import ModelHead
from gui.techniques.layer_table import LayerTable
from gui.techniques.presets import PresetRow
from gui.techniques.problem_card import ProblemCard
from gui.techniques.recipe_state import RecipeState
from gui.techniques.report_view import ReportView
from gui.techniques.status_line import StatusLine
from gui.techniques.technique_row import TechniqueRow
from gui.techniques.why_dialog import WhyDialog
from gui.techniques.why_job import WhyJob
from gui.widgets.column import Column
from gui.widgets.labels import Line, TextLabel, engine_text
from gui.widgets.steady import SteadyScroll
from gui.widgets.switch import PAD

_PRESET = "techniques/preset"  # the name chosen last: several presets may do the same


class TechniquePanel(QScrollArea):
    """Switches at the top, what engaged at the bottom. recipe_changed: the user (or the engine) settled on another."""

    recipe_changed = Signal(object)

    def __init__(self, bridge: Bridge, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setAccessibleName(self.tr("Techniques"))
        self.state = RecipeState(bridge, settings, self)
        self.why_job = WhyJob(bridge, self)
        self.head, self.presets, self.status = ModelHead(), PresetRow(settings.folder / "recipes"), StatusLine()
        self.problem, self.report_view = ProblemCard(), ReportView()
        self.rows = {t.key: TechniqueRow(t) for t in all_techniques()}
        self.groups = {name: TechniqueGroup(name, [self.rows[t.key] for t in members], settings)
                       for name, members in grouped(all_techniques())}
        self._layers: LayerTable | None = None
        self._why: WhyDialog | None = None
        self._build()
        self._connect()
        self.presets.prefer(settings.get(_PRESET, ""))
        self.presets.named.connect(lambda name: settings.set(_PRESET, name))
        self._show_recipe(self.state.recipe)
        for group in self.groups.values():
            if group.count():
                group.open(True)

    @property
    def recipe(self) -> Recipe:
        """The recipe the switches show."""
        return self.state.recipe

    def initial_recipe(self) -> Recipe:
        """What a model should be loaded with: the recipe of the last session, or what was chosen since."""
        return self.state.recipe

    def apply_recipe(self, recipe: Recipe) -> None:
        """Ask for a whole recipe, as a preset does."""
        self._clear_problems()
        self.state.ask(recipe)

    def _build(self) -> None:
        content = Column()
        column = QVBoxLayout(content)
        column.setContentsMargins(8, 8, 8, 12)
        column.setSpacing(6)

        def add(*widgets: QWidget) -> None:
            for widget in widgets:
                row = QVBoxLayout()
                row.setContentsMargins(PAD, 0, PAD, 0)  # in line with the words of the switches
                row.addWidget(widget)
                column.addLayout(row)

        add(self.head, _heading(self.tr("Recipe")), self.presets, self.status, self.problem)
        slack = QWidget()
        column.addWidget(slack)
        for group in self.groups.values():
            add(Line())
            column.addWidget(group)
        add(Line(), _heading(self.tr("What engaged")), self.report_view)
        column.addStretch()
        self.setWidget(content)
        self._steady = SteadyScroll(self, content, slack, list(self.rows.values()))

    def _connect(self) -> None:
        for key, row in self.rows.items():
            row.wanted.connect(lambda options, key=key: self._want(key, options))
        self.presets.wanted.connect(self.apply_recipe)
        self.presets.problem.connect(lambda error: self.problem.tell(error.summary, error.hint))
        self.report_view.layers_asked.connect(self._open_layers)
        self.report_view.why_asked.connect(self.open_why)
        for group in self.groups.values():
            group.heading.clicked.connect(self._settle)
        state = self.state
        state.shown.connect(self._show_recipe)
        state.shown.connect(self.recipe_changed)
        state.loaded.connect(self._model_loaded)
        state.reported.connect(self._show_report)
        state.failed.connect(self._recipe_failed)
        state.loading_changed.connect(self._loading_changed)
        state.pending_changed.connect(self._pending_changed)
        state.progressed.connect(self.status.show_progress)
        state.compiling.connect(self._compiling)

    def _want(self, key: str, options: Options | None) -> None:
        """A switch or an option changed: ask for the recipe. What cannot stand beside the new choice gives way, and
        that is said, with Undo; a choice that cannot be at all is turned back with the reason."""
        self._clear_problems()
        before = self.recipe
        try:
            change = with_choice(before, key, options)
        except DynoError as error:
            self._show_recipe(before)
            self.rows[key].refuse(error)
            return
        self.state.ask(change.recipe)
        if change.replaced:
            techniques = ", ".join(engine_text(t.label) for t in change.replaced)
            words = (self.tr("Switched off {techniques}: {reason}").format(
                techniques=techniques, reason=engine_text(change.reason)) if change.reason else
                self.tr("Replaces {techniques}: a recipe holds one {job}.").format(
                    techniques=techniques, job=engine_text(change.replaced[0].exclusive)))
            self.rows[key].tell(words, lambda: self.apply_recipe(before))
            self._settle()

    def _show_recipe(self, recipe: Recipe) -> None:
        for key, row in self.rows.items():
            row.show_options(recipe.get(key))
        for group in self.groups.values():
            group.count()
        self.presets.show_recipe(recipe)
        if self.state.pending:
            self.status.set_pending(recipe.label)
        if not self.state.has_model:
            self.status.show_chosen(recipe.label)
        self._settle()

    def _compiling(self, elapsed_s: float | None) -> None:
        self.status.set_compiling(elapsed_s)
        self.report_view.set_compiling(elapsed_s is not None)
        if "compile" in self.rows:
            self.rows["compile"].show_working("" if elapsed_s is None else self.tr(
                "Compiling… {seconds} s. Until it is ready replies go on uncompiled.").format(seconds=round(elapsed_s)))
        self._settle()

    def _show_report(self, report: EngagedReport) -> None:
        self.status.show_active(report)
        self.report_view.show_report(report)
        if self._layers is not None:
            self._layers.show_report(report)
        self._settle()

    def _model_loaded(self, event: ModelLoaded) -> None:
        self._clear_problems()
        self.status.forget()
        self.head.show_model(event.model)
        reasons = dict(event.model.unavailable)
        self.presets.set_reasons(reasons)
        for key, row in self.rows.items():
            mine = {name.partition(":")[2]: why for name, why in reasons.items() if name.partition(":")[0] == key}
            row.set_reasons(mine)
        self._settle()

    def _loading_changed(self, loading: bool) -> None:
        if loading:
            self.head.show_loading()
        else:
            self.head.show_again()

    def _pending_changed(self, pending: bool) -> None:
        self.status.set_pending(self.recipe.label if pending else "")
        self._settle()

    def _settle(self) -> None:
        """Lay out what has just changed before it is painted."""
        if self.isVisible():
            self._steady.settle()

    def _recipe_failed(self, event: RecipeFailed) -> None:
        self._clear_problems()
        self.problem.tell(event.summary, event.hint, event.details)
        self._steady.release()
        self.ensureWidgetVisible(self.problem)

    def _clear_problems(self) -> None:
        self.problem.clear()
        for row in self.rows.values():
            row.clear_words()

    def focusNextPrevChild(self, next: bool) -> bool:
        """Tab scrolls to what comes into focus, and that stays in view."""
        self._steady.release()
        return super().focusNextPrevChild(next)

    def leaveEvent(self, event: QEvent) -> None:
        """Without the mouse nothing needs to stand still."""
        super().leaveEvent(event)
        if QApplication.activePopupWidget() is None:
            self._steady.release()

    def focus_recipes(self) -> None:
        """Bring the box of presets into view, with the keyboard's focus."""
        self._focus(self.presets.combo)

    def focus_techniques(self) -> None:
        """Bring the first technique into view, with the keyboard's focus."""
        group = next(iter(self.groups.values()))
        group.open(True)
        self._focus(group.first_control)

    def _focus(self, control: QWidget) -> None:
        self._steady.release()
        self._settle()
        self.ensureWidgetVisible(control)
        control.setFocus(Qt.FocusReason.ShortcutFocusReason)

    def open_why(self) -> None:
        """Open the window that explains the speed, and measure unless it holds figures or waits for them."""
        if self._why is None:
            self._why = WhyDialog(self.why_job, self.window())
        self._why.show()
        self._why.raise_()
        self._why.activateWindow()
        self._why.begin()

    def _open_layers(self) -> None:
        if self._layers is None:
            self._layers = LayerTable(self.window())
        if self.report_view.report is not None:
            self._layers.show_report(self.report_view.report)
        self._layers.show()
        self._layers.raise_()
        self._layers.activateWindow()


def _heading(text: str) -> TextLabel:
    return TextLabel(text, heading=True, factor=0.94)
