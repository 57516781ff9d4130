"""The row that chooses a whole recipe: presets that ship with the app, the user's own, recipes in files, all off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QToolButton, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.recipe import Recipe
from engine.recipe_files import (
    NAME_LENGTH,
    SavedRecipe,
    delete_recipe,
    find_recipe,
    list_recipes,
    rename_recipe,
    restore_recipe,
    save_recipe,
    write_recipe,
)
from gui.techniques.name_form import NameForm
from gui.techniques.preset_box import PresetBox
from gui.techniques.recipe_import import file_name, keep, read_named
from gui.theme import theme
from gui.widgets.labels import quiet, set_icon
from gui.widgets.notice import Notice

_UNDO_MS = 60_000


class PresetRow(QWidget):
    """`wanted` gives the recipe the user chose, `problem` a DynoError of a file, `named` the name of the preset that
    was chosen, saved or imported. folder: the user's presets."""

    wanted = Signal(object)
    problem = Signal(object)
    named = Signal(str)

    def __init__(self, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self._recipe = Recipe()
        self.combo = PresetBox()
        self.combo.activated.connect(self._activated)
        self.menu_button = QToolButton()
        self.menu_button.setAccessibleName(self.tr("Preset menu"))
        self.menu_button.setAccessibleDescription(
            self.tr("Save, rename or delete a preset, import or export a recipe, or switch every technique off."))
        self.menu_button.setToolTip(self.menu_button.accessibleDescription())
        self.menu_button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.menu_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.menu_button.setMenu(self._make_menu())
        self._about = quiet()
        self._about.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.form = NameForm()
        self.form.closed.connect(lambda: self.combo.setFocus(Qt.FocusReason.OtherFocusReason))
        self.notice = Notice()
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.combo, 1)
        row.addWidget(self.menu_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        for widget in (self._about, self.form, self.notice):
            column.addWidget(widget)
        theme().changed.connect(self._restyle)
        self._restyle()
        damaged = self._fill()
        if damaged:
            self.notice.show_message(self.tr("Some of your presets cannot be read and were left out: {files}.").format(
                files=", ".join(damaged)), lasting_ms=0)

    def show_recipe(self, recipe: Recipe) -> None:
        """Show the preset that does the same as `recipe`, or "Custom"."""
        self._recipe = recipe
        self.combo.show_recipe(recipe)
        entry = self.combo.entry()
        about = entry.about if entry is not None else recipe.label
        # The line below names any other recipe. There is always something here: what is below must not jump.
        self._about.setText(self.tr("A recipe of your own choice. Keep it under a name: “Save as preset…” in the menu.")
                            if entry is None else self.tr("Your preset.") if entry.saved is not None else about)
        self.combo.setToolTip(about)
        self.combo.setAccessibleDescription(
            about if entry is not None else self.tr("Custom: {recipe}").format(recipe=about))
        own = entry is not None and entry.saved is not None
        self._rename.setEnabled(own)
        self._delete.setEnabled(own)

    def prefer(self, title: str) -> None:
        """Show this preset where several do the same: the one chosen in the last session."""
        self.combo.prefer(title)
        self.show_recipe(self._recipe)

    def set_reasons(self, unavailable: Mapping[str, str]) -> None:
        """key or "key:case" -> reason. A preset that cannot run here stays visible but cannot be chosen."""
        self.combo.set_reasons(unavailable)

    def save(self) -> None:
        """Ask for a name and keep the recipe under it."""

        def keep(name: str, replace: bool) -> None:
            self._refresh(save_recipe(self._folder, name, self._recipe, replace).name)

        label = self._recipe.label
        self.form.ask(self.tr("Save this recipe as"), label if len(label) <= NAME_LENGTH else "", self.tr("Save"), keep,
                      lambda name: find_recipe(self._folder, name) is not None)

    def rename(self) -> None:
        """Ask for another name for the preset in the box."""
        saved = self._own()
        if saved is not None:
            self.form.ask(self.tr("Rename “{name}” to").format(name=saved.name), saved.name, self.tr("Rename"),
                          lambda name, _replace: self._refresh(rename_recipe(saved, name).name))

    def delete(self) -> None:
        """Delete the preset in the box; the recipe stays on, and the preset can be had back."""
        saved = self._own()
        if saved is None:
            return
        self.form.hide()
        try:
            content = delete_recipe(saved)
        except DynoError as error:
            self.problem.emit(error)
            return
        self._refresh()

        def undo() -> None:
            try:
                self._refresh(restore_recipe(saved, content).name)
            except DynoError as error:
                self.problem.emit(error)

        self.notice.show_message(self.tr("Deleted “{name}”.").format(name=saved.name), self.tr("Undo"), undo, _UNDO_MS)

    def export_file(self) -> None:
        """Ask for a file and write the recipe to it."""
        entry = self.combo.entry()
        name, _ = QFileDialog.getSaveFileName(self, self.tr("Export recipe"),
                                              file_name(entry.title if entry is not None else ""), self._filter())
        if not name:
            return
        path = Path(name) if Path(name).suffix else Path(name).with_suffix(".json")
        try:
            write_recipe(path, self._recipe, entry.title if entry is not None else "")
        except DynoError as error:
            self.problem.emit(error)

    def import_file(self) -> None:
        """Ask for a file and want the recipe in it; one that has a name is kept as a preset of that name."""
        name, _ = QFileDialog.getOpenFileName(self, self.tr("Import recipe"), "", self._filter())
        if not name:
            return
        try:
            title, recipe = read_named(Path(name))
        except DynoError as error:
            self.problem.emit(error)
            return
        self.wanted.emit(recipe)
        if not title:
            return
        try:
            kept = keep(self._folder, title, recipe)
        except DynoError as error:
            self.problem.emit(error)
            return
        self._refresh(kept)
        self.notice.show_message(self.tr("Imported as “{name}”.").format(name=kept))

    def _activated(self, row: int) -> None:
        entry = self.combo.choose(row)
        if entry is not None:
            self.form.hide()
            self.named.emit(entry.title)
            self.wanted.emit(entry.recipe)

    def _own(self) -> SavedRecipe | None:
        entry = self.combo.entry()
        return entry.saved if entry is not None else None

    def _refresh(self, prefer: str = "") -> None:
        """Read the folder again, and show the preset called `prefer` where several do the same."""
        if prefer:
            self.combo.prefer(prefer)
            self.named.emit(prefer)
        self._fill()
        self.show_recipe(self._recipe)

    def _fill(self) -> tuple[str, ...]:
        saved, damaged = list_recipes(self._folder)
        self.combo.fill(saved)
        self.show_recipe(self._recipe)
        return damaged

    def _make_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.addAction(self.tr("Save as preset…"), self.save)
        self._rename = menu.addAction(self.tr("Rename…"), self.rename)
        self._delete = menu.addAction(self.tr("Delete"), self.delete)
        menu.addSeparator()
        menu.addAction(self.tr("Import…"), self.import_file)
        menu.addAction(self.tr("Export…"), self.export_file)
        menu.addSeparator()
        menu.addAction(self.tr("Reset (all off)"), lambda: self.wanted.emit(Recipe()))
        return menu

    def _filter(self) -> str:
        return self.tr("Recipes (*.json);;All files (*)")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Texts wrap anew."""
        super().resizeEvent(event)
        self._keep_room()

    def _keep_room(self) -> None:
        """The words about a preset get the room of the longest ones that ship with the app."""
        label, flags = self._about, Qt.TextFlag.TextWordWrap
        words = [entry.about for entry in self.combo.entries.values() if entry.saved is None]
        heights = [label.fontMetrics().boundingRect(0, 0, max(1, self.width()), 10_000, flags, text).height()
                   for text in words]
        label.setMinimumHeight(max(heights, default=0))

    def _restyle(self) -> None:
        set_icon(self.menu_button, "more")
        self._keep_room()
