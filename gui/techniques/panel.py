"""The technique panel: everything in it is made from the registry of techniques; a new technique edits nothing here."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.messages import EngagedReport, ModelLoaded, RecipeFailed
from engine.recipe import Recipe
from engine.techniques import all_techniques
from engine.techniques.base import Options, Technique
from gui.bridge import Bridge
from gui.settings import Settings
from gui.techniques.head import ModelHead
from gui.techniques.labels import Line, TextLabel, engine_text
from gui.techniques.layer_table import LayerTable
from gui.techniques.presets import PresetRow
from gui.techniques.problem_card import ProblemCard
from gui.techniques.recipe_state import RecipeState
from gui.techniques.report_view import ReportView
from gui.techniques.status_line import StatusLine
from gui.techniques.switch import PAD
from gui.techniques.technique_row import TechniqueRow, is_segmented


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
        self.head, self.presets, self.status = ModelHead(), PresetRow(), StatusLine()
        self.problem, self.report_view = ProblemCard(), ReportView()
        self.rows = {t.key: TechniqueRow(t) for t in all_techniques()}
        self._layers: LayerTable | None = None
        self._build()
        self._connect()
        self._show_recipe(self.state.recipe)

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
        content = QWidget()
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
        for name, techniques in grouped(all_techniques()):
            add(Line(), _heading(engine_text(name)))
            for technique in techniques:
                column.addWidget(self.rows[technique.key])
        add(Line(), _heading(self.tr("What engaged")), self.report_view)
        column.addStretch()
        self.setWidget(content)

    def _connect(self) -> None:
        for key, row in self.rows.items():
            row.wanted.connect(lambda options, key=key: self._want(key, options))
        self.presets.wanted.connect(self.apply_recipe)
        self.presets.problem.connect(lambda error: self.problem.tell(error.summary, error.hint))
        self.report_view.layers_asked.connect(self._open_layers)
        state = self.state
        state.shown.connect(self._show_recipe)
        state.shown.connect(self.recipe_changed)
        state.loaded.connect(self._model_loaded)
        state.reported.connect(self._show_report)
        state.failed.connect(self._recipe_failed)
        state.loading_changed.connect(self._loading_changed)
        state.pending_changed.connect(self._pending_changed)
        state.progressed.connect(lambda _stage, done, total: self.status.show_progress(done, total))

    def _want(self, key: str, options: Options | None) -> None:
        """A switch or an option changed: ask for the recipe, or show why it cannot be and turn the switch back."""
        self._clear_problems()
        try:
            recipe = self.recipe.without(key) if options is None else self.recipe.with_options(options)
        except DynoError as error:
            self._show_recipe(self.recipe)
            self.rows[key].refuse(error)
            return
        self.state.ask(recipe)

    def _show_recipe(self, recipe: Recipe) -> None:
        for key, row in self.rows.items():
            row.show_options(recipe.get(key))
        self.presets.show_recipe(recipe)
        if self.state.pending:
            self.status.set_pending(recipe.label)
        if not self.state.has_model:
            self.status.show_chosen(recipe.label)

    def _show_report(self, report: EngagedReport) -> None:
        self.status.show_active(report)
        self.report_view.show_report(report)
        if self._layers is not None:
            self._layers.show_report(report)

    def _model_loaded(self, event: ModelLoaded) -> None:
        self._clear_problems()
        self.head.show_model(event.model)
        reasons = dict(event.model.unavailable)
        self.presets.set_reasons(reasons)
        for key, row in self.rows.items():
            mine = {name.partition(":")[2]: why for name, why in reasons.items() if name.partition(":")[0] == key}
            row.set_reasons(mine)

    def _loading_changed(self, loading: bool) -> None:
        if loading:
            self.head.show_loading()
        else:
            self.head.show_again()

    def _pending_changed(self, pending: bool) -> None:
        self.status.set_pending(self.recipe.label if pending else "")

    def _recipe_failed(self, event: RecipeFailed) -> None:
        self.problem.tell(event.summary, event.hint, event.details)
        self.ensureWidgetVisible(self.problem)

    def _clear_problems(self) -> None:
        self.problem.clear()
        for row in self.rows.values():
            row.clear_refusal()

    def _open_layers(self) -> None:
        if self._layers is None:
            self._layers = LayerTable(self.window())
        if self.report_view.report is not None:
            self._layers.show_report(self.report_view.report)
        self._layers.show()
        self._layers.raise_()
        self._layers.activateWindow()


def grouped(techniques: tuple[Technique, ...]) -> list[tuple[str, list[Technique]]]:
    """(group, its techniques): groups in the order of recipes, but the one that sets the weights' type first, and
    that choice first in it."""
    groups: dict[str, list[Technique]] = {}
    for technique in sorted(techniques, key=lambda t: not is_segmented(t)):
        groups.setdefault(technique.group, []).append(technique)
    return list(groups.items())


def _heading(text: str) -> TextLabel:
    return TextLabel(text, heading=True, factor=0.94)
