"""The row that chooses a whole recipe: presets that ship with the app, recipes in files, all off."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from PySide6.QtCore import QCoreApplication, Qt, Signal
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QToolButton, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.recipe import Preset, Recipe, load_presets
from engine.techniques import technique
from engine.techniques.base import Options
from gui.techniques.controls import ChoiceBox
from gui.techniques.labels import engine_text, quiet, set_icon
from gui.techniques.technique_row import NEUTRAL, is_segmented
from gui.theme import theme


def essence(recipe: Recipe) -> Recipe:
    """The recipe without techniques that change nothing (Precision at fp32), to compare recipes by what they do."""
    return Recipe(tuple(o for o in recipe.options if not _is_neutral(o)))


def _is_neutral(options: Options) -> bool:
    found = technique(options.key)
    return found is not None and is_segmented(found) and getattr(options, "dtype", "") == NEUTRAL


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Save a recipe as JSON: under a temporary name, flushed, then renamed. Raises OSError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(recipe.to_json(), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_recipe(path: Path) -> Recipe:
    """The recipe of a JSON file. Raises DynoError that says what is wrong with it."""
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DynoError(_tr("{file} cannot be read: {why}.").format(file=path.name, why=error.strerror),
                        _tr("Check the file and its permissions.")) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DynoError(_tr("{file} is not a recipe.").format(file=path.name),
                        _tr("Choose a JSON file that was saved from this panel.")) from error


def _tr(text: str) -> str:
    return QCoreApplication.translate("PresetRow", text)


class PresetRow(QWidget):
    """`wanted` gives the recipe the user chose, `problem` a DynoError of a file."""

    wanted = Signal(object)
    problem = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._presets: tuple[Preset, ...] = load_presets()
        self._recipe = Recipe()
        self.combo = ChoiceBox(letters=8)
        self.combo.setAccessibleName(self.tr("Preset"))
        self.combo.setPlaceholderText(self.tr("Custom"))
        for preset in self._presets:
            self.combo.addItem(engine_text(preset.title), preset.name)
            self.combo.setItemData(self.combo.count() - 1, engine_text(preset.description),
                                   Qt.ItemDataRole.ToolTipRole)
        self.combo.activated.connect(self._activated)
        self.menu_button = QToolButton()
        self.menu_button.setAccessibleName(self.tr("Recipe menu"))
        self.menu_button.setAccessibleDescription(self.tr("Save or open a recipe, or switch every technique off."))
        self.menu_button.setToolTip(self.tr("Save, open or reset the recipe"))
        self.menu_button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.menu_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.menu_button.setMenu(self._make_menu())
        self._about = quiet()
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.combo, 1)
        row.addWidget(self.menu_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        column.addWidget(self._about)
        theme().changed.connect(self._restyle)
        self._restyle()
        self.show_recipe(Recipe())

    def show_recipe(self, recipe: Recipe) -> None:
        """Show the preset that does the same as `recipe`, or "Custom"."""
        self._recipe = recipe
        found = next((i for i, p in enumerate(self._presets) if essence(p.recipe) == essence(recipe)), -1)
        self.combo.setCurrentIndex(found)
        about = engine_text(self._presets[found].description) if found >= 0 else recipe.label
        self._about.setText(about)
        self._about.setVisible(found >= 0)  # the line below names a custom recipe
        self.combo.setToolTip(about)
        self.combo.setAccessibleDescription(about if found >= 0 else self.tr("Custom: {recipe}").format(recipe=about))

    def set_reasons(self, unavailable: Mapping[str, str]) -> None:
        """key or "key:dtype" -> reason. A preset that cannot run here stays visible but cannot be chosen."""
        model = self.combo.model()
        assert isinstance(model, QStandardItemModel)
        for row, preset in enumerate(self._presets):
            names = [n for o in preset.recipe.options for n in (o.key, f"{o.key}:{getattr(o, 'dtype', '')}")]
            reason = next((unavailable[n] for n in names if n in unavailable), "")
            model.item(row).setEnabled(not reason)
            self.combo.setItemData(row, engine_text(reason or preset.description), Qt.ItemDataRole.ToolTipRole)

    def _activated(self, row: int) -> None:
        self.wanted.emit(self._presets[row].recipe)

    def _make_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.addAction(self.tr("Save recipe…"), self.save)
        menu.addAction(self.tr("Open recipe…"), self.open)
        menu.addSeparator()
        menu.addAction(self.tr("Reset (all off)"), lambda: self.wanted.emit(Recipe()))
        return menu

    def save(self) -> None:
        """Ask for a file and write the recipe to it."""
        name, _ = QFileDialog.getSaveFileName(self, self.tr("Save recipe"), "recipe.json", self._filter())
        if not name:
            return
        path = Path(name) if Path(name).suffix else Path(name).with_suffix(".json")
        try:
            write_recipe(path, self._recipe)
        except OSError as error:
            self.problem.emit(DynoError(
                self.tr("{file} cannot be written: {why}.").format(file=path.name, why=error.strerror),
                self.tr("Choose another folder, or free some space.")))

    def open(self) -> None:
        """Ask for a file and want the recipe in it."""
        name, _ = QFileDialog.getOpenFileName(self, self.tr("Open recipe"), "", self._filter())
        if not name:
            return
        try:
            self.wanted.emit(read_recipe(Path(name)))
        except DynoError as error:
            self.problem.emit(error)

    def _filter(self) -> str:
        return self.tr("Recipes (*.json);;All files (*)")

    def _restyle(self) -> None:
        set_icon(self.menu_button, "more")
