"""A choice of one recipe: the panel's active one, those that ship with the app, the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QVBoxLayout, QWidget

from engine.recipe import Recipe, load_presets
from engine.recipe_files import list_recipes
from gui.techniques.choices import why_not
from gui.widgets.controls import ChoiceBox
from gui.widgets.labels import engine_text

PANEL = "panel"


KEPT = "kept"


@dataclass(frozen=True)
class Offer:
    """A recipe that can be chosen. key: the same in every list. reason: why it cannot run here, "" where it can."""

    key: str
    title: str
    recipe: Recipe
    reason: str


@dataclass(frozen=True)
class Offers:
    """Everything there is to choose. panel: the active recipe, which comes first, by this title. folder: of the user's
    own presets. unavailable: of the loaded model."""

    folder: Path
    panel: Recipe
    panel_title: str
    unavailable: Mapping[str, str]

    def offer(self, key: str, title: str, recipe: Recipe) -> Offer:
        """One of them, with the reason where it cannot run."""
        return Offer(key, title, recipe, engine_text(why_not(recipe, self.unavailable)))

    def all(self) -> list[Offer]:
        """In the order of the list."""
        entries = [(PANEL, self.panel_title, self.panel)]
        entries += [(f"preset:{p.name}", engine_text(p.title), p.recipe) for p in load_presets()]
        entries += [(f"saved:{s.name}", s.name, s.recipe) for s in list_recipes(self.folder)[0]]
        return [self.offer(*entry) for entry in entries]


class RecipeBox(QWidget):
    """`changed` when the user has chosen another recipe. A choice stays the recipe it was when it was made, whatever
    becomes of the panel's or of a preset: figures stand beside it."""

    changed = Signal()

    def __init__(self, key: str, offers: Offers, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._offers = offers.all()
        self._chosen = next((o for o in self._offers if o.key == key), self._offers[0])
        self.box = ChoiceBox(5)
        self.box.setMinimumWidth(64)  # four lanes stand side by side in a small window
        self.box.activated.connect(self._choose)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.box)
        self._fill()

    @property
    def key(self) -> str:
        """Which offer is chosen."""
        return self._chosen.key

    @property
    def recipe(self) -> Recipe:
        """What is chosen."""
        return self._chosen.recipe

    @property
    def reason(self) -> str:
        """Why it cannot run here, "" where it can."""
        return self._chosen.reason

    def show_offers(self, offers: Offers) -> None:
        """Other offers; the recipe stays, with a line of its own where no offer is the same any more."""
        self._offers = offers.all()
        same = [o for o in self._offers if o.recipe == self.recipe]
        found = next((o for o in same if o.key == self.key), same[-1] if same else None)
        if found is None:
            found = offers.offer(KEPT, self.recipe.label, self.recipe)
            self._offers.append(found)
        self._chosen = found
        self._fill()

    def choose(self, key: str) -> None:
        """Choose an offer by its key."""
        place = next((n for n, offer in enumerate(self._offers) if offer.key == key), -1)
        if place >= 0:
            self.box.setCurrentIndex(place)
            self._choose(place)

    def _fill(self) -> None:
        with QSignalBlocker(self.box):
            self.box.clear()
            for place, offer in enumerate(self._offers):
                self.box.addItem(offer.title)
                self.box.setItemData(place, offer.reason or offer.recipe.label, Qt.ItemDataRole.ToolTipRole)
                model = self.box.model()
                if offer.reason and isinstance(model, QStandardItemModel):
                    model.item(place).setEnabled(False)
                    model.item(place).setData(f"{offer.title}: {offer.reason}", Qt.ItemDataRole.AccessibleTextRole)
            self.box.setCurrentIndex(self._offers.index(self._chosen))
        self._restate()

    def _choose(self, place: int) -> None:
        before, self._chosen = self.recipe, self._offers[place]
        self._restate()
        if before != self.recipe:
            self.changed.emit()

    def _restate(self) -> None:
        self.box.setToolTip(self.reason or self.recipe.label)
