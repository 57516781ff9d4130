"""The list of presets: those that ship with the app under the names of their groups, then the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PySide6.QtCore import Qt
from PySide6.QtGui import QFont, QStandardItem, QStandardItemModel
from PySide6.QtWidgets import QWidget

from engine.recipe import Recipe, load_presets
from engine.recipe_files import SavedRecipe
from gui.techniques.choices import essence, group_of, why_not
from gui.widgets.controls import ChoiceBox
from gui.widgets.labels import engine_text

_VISIBLE = 30


@dataclass(frozen=True)
class Entry:
    """One line of the list. saved: the file behind it, None for what ships with the app."""

    title: str
    about: str
    recipe: Recipe
    saved: SavedRecipe | None = None


class PresetBox(ChoiceBox):
    """Entries under headings; a heading cannot be chosen. `entry()` is what stands in the box, None for "Custom"."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(letters=8)
        self.setParent(parent)
        self.setAccessibleName(self.tr("Preset"))
        self.setPlaceholderText(self.tr("Custom"))
        self.setMaxVisibleItems(_VISIBLE)
        self.setStyleSheet("QComboBox { combobox-popup: 0; }")  # a list that scrolls, not a menu as high as the screen
        self.view().setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)  # menus have none
        self.entries: dict[int, Entry] = {}
        self._unavailable: Mapping[str, str] = {}
        self._chosen = ""
        self._builtin = [Entry(engine_text(p.title), engine_text(p.description), p.recipe) for p in load_presets()]

    def fill(self, saved: Sequence[SavedRecipe]) -> None:
        """List what ships with the app and these presets of the user."""
        self.clear()
        self.entries.clear()
        group: str | None = None
        for entry in self._builtin:
            here = group_of(entry.recipe)
            if here != group:
                self._add_heading(engine_text(here) or self.tr("Several together"))
                group = here
            self._add(entry)
        if saved:
            self._add_heading(self.tr("Your presets"))
        for preset in saved:
            self._add(Entry(preset.name, preset.recipe.label, preset.recipe, preset))
        self.set_reasons(self._unavailable)

    def entry(self) -> Entry | None:
        """What stands in the box."""
        return self.entries.get(self.currentIndex())

    def row(self, title: str) -> int:
        """Where the entry of this title stands, -1 for nowhere."""
        return next((row for row, entry in self.entries.items() if entry.title == title), -1)

    def choose(self, row: int) -> Entry | None:
        """The user chose this row: it is preferred where several do the same."""
        found = self.entries.get(row)
        if found is not None:
            self._chosen = found.title
        return found

    def prefer(self, title: str) -> None:
        """Show this one where several do the same."""
        self._chosen = title

    def show_recipe(self, recipe: Recipe) -> None:
        """Show the entry that does the same as `recipe`: the one chosen, else the user's own, else the app's."""
        wanted = essence(recipe)
        fitting = [row for row, entry in self.entries.items() if essence(entry.recipe) == wanted]
        fitting.sort(key=lambda row: (self.entries[row].title != self._chosen, self.entries[row].saved is None))
        self.setCurrentIndex(fitting[0] if fitting else -1)

    def set_reasons(self, unavailable: Mapping[str, str]) -> None:
        """key or "key:case" -> reason. What cannot run here stays visible but cannot be chosen."""
        self._unavailable = unavailable
        model = self._items()
        for row, entry in self.entries.items():
            reason = engine_text(why_not(entry.recipe, unavailable))
            model.item(row).setEnabled(not reason)
            self.setItemData(row, reason or entry.about, Qt.ItemDataRole.ToolTipRole)
            self.setItemData(row, f"{entry.title}: {reason}" if reason else entry.title,
                             Qt.ItemDataRole.AccessibleTextRole)

    def _add(self, entry: Entry) -> None:
        self.entries[self.count()] = entry
        self.addItem(entry.title)

    def _add_heading(self, text: str) -> None:
        item = QStandardItem(text)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        font = QFont(self.font())
        font.setBold(True)
        font.setPointSizeF(font.pointSizeF() * 0.88)
        item.setFont(font)
        self._items().appendRow(item)

    def _items(self) -> QStandardItemModel:
        model = self.model()
        assert isinstance(model, QStandardItemModel)
        return model
