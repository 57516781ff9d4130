"""What to measure: recipes, shapes, repetitions, quality text. Gives a BenchPlan, or says why there is none."""

from __future__ import annotations

import json
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QFontMetrics
from PySide6.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from engine.errors import DynoError
from engine.measurements import BenchPlan, QualityTest, SpeedTest
from engine.messages import ModelInfo
from engine.recipe import Recipe, load_presets
from engine.recipe_files import list_recipes
from gui.techniques.choices import why_not
from gui.widgets.controls import ChoiceBox
from gui.widgets.labels import TextLabel, engine_text, quiet

_FIRST = ("fp32", "bf16", "int8")  # preselected: what a first visitor will want to see side by side
_RECIPE = Qt.ItemDataRole.UserRole
_NONE, _BUNDLED, _FILE = range(3)


class PlanForm(QScrollArea):
    """`changed` when something was. folder: the user's presets."""

    changed = Signal()

    def __init__(self, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder, self._panel, self._unavailable = folder, Recipe(), dict[str, str]()
        self._text, self._context = "", 512
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.recipes = QListWidget()
        self._name(self.recipes, self.tr("Recipes to measure"),
                   self.tr("Space checks a recipe. The first one checked is the base of ratios."))
        self.recipes.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.recipes.setMinimumHeight(130)
        self.recipes.setMinimumWidth(210)
        self.prompt = self._lengths("512", self.tr("Prompt lengths"),
                                    self.tr("Tokens read at once, such as 128, 512. Empty for no such test."))
        self.generate = self._lengths("128", self.tr("Generated lengths"),
                                      self.tr("Tokens made one by one, such as 64, 128. Empty for no such test."))
        self.depths = self._lengths("0", self.tr("Depths"),
                                   self.tr("Tokens that are in the cache before a test, such as 0, 512."))
        self.repetitions = self._number(1, 1000, 5, self.tr("Repetitions"),
                                        self.tr("Runs of each speed test, at least; each lasts two seconds or more."))
        self.interleave = QCheckBox(self.tr("Take turns"))
        self._name(self.interleave, self.interleave.text(), self.tr(
            "The recipes run A B A B …, which gives ratios with intervals. Needs the memory of all of them."))
        self.quality = ChoiceBox(10)
        self._name(self.quality, self.tr("Quality text"),
                   self.tr("The text on which perplexity is measured, and KL against the first recipe."))
        self.quality.addItems([self.tr("None"), self.tr("Bundled text"), self.tr("A file…")])
        self.quality.setCurrentIndex(_BUNDLED)
        self.chunks = self._number(0, 100_000, 8, self.tr("Chunks"),
                                   self.tr("How many pieces of the text are scored, up to 512 tokens each."))
        self.chunks.setSpecialValueText(self.tr("all"))
        left = QVBoxLayout()
        left.addWidget(TextLabel(self.tr("Recipes"), heading=True))
        left.addWidget(self.recipes, 1)
        left.addWidget(quiet(self.tr("The first one checked is the base.")))
        form = QFormLayout()
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        form.setVerticalSpacing(6)
        form.addRow(TextLabel(self.tr("Measure"), heading=True))
        for field in (self.prompt, self.generate, self.depths, self.repetitions):
            form.addRow(field.accessibleName(), field)
        form.addRow(self.interleave)
        form.addRow(self.quality.accessibleName(), self.quality)
        form.addRow(self.chunks.accessibleName(), self.chunks)
        content = QWidget()
        row = QHBoxLayout(content)
        row.setContentsMargins(12, 8, 12, 8)
        row.setSpacing(18)
        row.addLayout(left, 3)
        row.addLayout(form, 2)
        self.setWidget(content)
        self.recipes.itemChanged.connect(lambda _item: self.changed.emit())
        for edit in (self.prompt, self.generate, self.depths):
            edit.textChanged.connect(lambda _text: self.changed.emit())
        for box in (self.repetitions, self.chunks):
            box.valueChanged.connect(lambda _value: self.changed.emit())
        self.interleave.toggled.connect(lambda _on: self.changed.emit())
        self.quality.activated.connect(self._choose_text)
        self.refresh()

    def refresh(self) -> None:
        """Read the presets again; what was checked stays checked."""
        before = {recipe.fingerprint for recipe in self.checked()}
        first = self.recipes.count() == 0
        entries = [(p.title, p.recipe, p.name in _FIRST) for p in load_presets()]
        saved, _damaged = list_recipes(self._folder)
        entries += [(s.name, s.recipe, False) for s in saved]
        known = {recipe.fingerprint for _, recipe, _ in entries}
        if self._panel.fingerprint not in known:
            entries.append((self.tr("The panel's: {recipe}").format(recipe=self._panel.label), self._panel, False))
        with QSignalBlocker(self.recipes):
            self.recipes.clear()
            for title, recipe, wanted in entries:
                self._add(engine_text(title), recipe, wanted if first else recipe.fingerprint in before)
        self.changed.emit()

    def show_model(self, model: ModelInfo) -> None:
        """The model decides which recipes can run, and how long a test may be."""
        self._unavailable, self._context = dict(model.unavailable), model.context
        self.refresh()

    def show_panel(self, recipe: Recipe) -> None:
        """The recipe of the panel stands in the list, too."""
        self._panel = recipe
        self.refresh()

    def state(self) -> str:
        """What is chosen, as restore() takes it: the window remembers it."""
        return json.dumps({
            "recipes": [recipe.fingerprint for recipe in self.checked()], "prompt": self.prompt.text(),
            "generate": self.generate.text(), "depths": self.depths.text(), "repetitions": self.repetitions.value(),
            "interleave": self.interleave.isChecked(), "quality": self.quality.currentIndex(), "text": self._text,
            "chunks": self.chunks.value()})

    def restore(self, state: str) -> None:
        """Choose what was chosen; what cannot be read, or is no more, stays as it is."""
        try:
            raw = json.loads(state)
            known = set(map(str, raw["recipes"]))
            fields = {edit: str(raw[name]) for edit, name in (
                (self.prompt, "prompt"), (self.generate, "generate"), (self.depths, "depths"))}
            counts = {box: int(raw[name]) for box, name in ((self.repetitions, "repetitions"), (self.chunks, "chunks"))}
            quality, text, turns = int(raw["quality"]), str(raw["text"]), bool(raw["interleave"])
        except (ValueError, KeyError, TypeError):
            return
        for item in (self.recipes.item(n) for n in range(self.recipes.count())):
            wanted = item.data(_RECIPE).fingerprint in known and item.flags() & Qt.ItemFlag.ItemIsEnabled
            item.setCheckState(Qt.CheckState.Checked if wanted else Qt.CheckState.Unchecked)
        for edit, value in fields.items():
            edit.setText(value)
        for box, count in counts.items():
            box.setValue(count)
        self.interleave.setChecked(turns)
        if quality == _FILE and Path(text).is_file():
            self.choose_file(text)
        else:
            self.quality.setCurrentIndex(_NONE if quality == _NONE else _BUNDLED)

    def checked(self) -> tuple[Recipe, ...]:
        """The chosen recipes, each once."""
        items = (self.recipes.item(n) for n in range(self.recipes.count()))
        chosen = (item.data(_RECIPE) for item in items if item.checkState() == Qt.CheckState.Checked)
        return tuple({recipe.fingerprint: recipe for recipe in chosen}.values())

    def plan(self) -> BenchPlan:
        """What is asked for. Raises DynoError."""
        depths = self._numbers(self.depths) or (0,)
        asked = [SpeedTest(p, g, d) for d in depths for p, g in (
            *((n, 0) for n in self._numbers(self.prompt)), *((0, n) for n in self._numbers(self.generate)))]
        speed = {test.name: test for test in (test.within(self._context) for test in asked)}
        quality = None
        if self.quality.currentIndex() != _NONE:
            quality = QualityTest(self._text, min(512, self._context), 0, self.chunks.value())
        recipes = self.checked()
        return BenchPlan(recipes, tuple(speed.values()), quality, self.repetitions.value(),
                         interleave=self.interleave.isChecked() and len(recipes) > 1)

    def _add(self, title: str, recipe: Recipe, wanted: bool) -> None:
        reason = engine_text(why_not(recipe, self._unavailable))
        item = QListWidgetItem(title)
        item.setData(_RECIPE, recipe)
        item.setToolTip(reason or recipe.label)
        item.setData(Qt.ItemDataRole.AccessibleTextRole, f"{title}: {reason}" if reason else title)
        item.setFlags(Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsSelectable
                      | (Qt.ItemFlag.NoItemFlags if reason else Qt.ItemFlag.ItemIsEnabled))
        item.setCheckState(Qt.CheckState.Checked if wanted and not reason else Qt.CheckState.Unchecked)
        self.recipes.addItem(item)

    def _choose_text(self, place: int) -> None:
        self._text = ""
        if place == _FILE:
            name, _ = QFileDialog.getOpenFileName(self, self.tr("Text to score"), "",
                                                  self.tr("Texts (*.txt *.jsonl *.parquet);;All files (*)"))
            self.choose_file(name)
        self.changed.emit()

    def choose_file(self, name: str) -> None:
        """Score this file; the bundled text where the name is empty."""
        self._text = name
        self.quality.setItemText(_FILE, Path(name).name if name else self.tr("A file…"))
        self.quality.setCurrentIndex(_FILE if name else _BUNDLED)
        self.changed.emit()

    def _numbers(self, edit: QLineEdit) -> tuple[int, ...]:
        try:
            return tuple(dict.fromkeys(int(p) for p in edit.text().replace(",", " ").split() if p != "0" or
                                       edit is self.depths))
        except ValueError as error:
            raise DynoError(
                self.tr("“{text}” is no list of lengths.").format(text=edit.text()),
                self.tr("Write whole numbers under “{field}”, such as 128, 512.").format(
                    field=edit.accessibleName())) from error

    def _lengths(self, text: str, name: str, about: str) -> QLineEdit:
        edit = QLineEdit(text)
        edit.setMinimumWidth(QFontMetrics(edit.font()).averageCharWidth() * 12)
        self._name(edit, name, about)
        return edit

    def _number(self, low: int, high: int, value: int, name: str, about: str) -> QSpinBox:
        box = QSpinBox(minimum=low, maximum=high, value=value)
        box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._name(box, name, about)
        return box

    @staticmethod
    def _name(widget: QWidget, name: str, about: str) -> None:
        widget.setAccessibleName(name)
        widget.setAccessibleDescription(about)
        widget.setToolTip(about)
