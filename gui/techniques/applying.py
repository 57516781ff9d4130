"""Applying a recipe from a page that is not the panel: asked for, and told how it went."""

from __future__ import annotations

from PySide6.QtCore import QObject

from engine.messages import ApplyRecipe, Event, RecipeApplied, RecipeFailed
from engine.recipe import Recipe
from gui.bridge import Bridge
from gui.widgets.labels import engine_text
from gui.widgets.notice import Notice


class Applying(QObject):
    """One recipe at a time; the notice says what becomes of it."""

    def __init__(self, bridge: Bridge, notice: Notice, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge, self._notice = bridge, notice
        self._wanted: Recipe | None = None
        bridge.received.connect(self._receive)

    def apply(self, recipe: Recipe, after: str = "") -> None:
        """Ask the engine for it. after: says what it waits for, with {recipe} in it; "" where nothing is under way."""
        self._wanted = recipe
        words = after or self.tr("Applying {recipe}…")
        self._notice.show_message(words.format(recipe=recipe.label), lasting_ms=0)
        self._bridge.submit(ApplyRecipe(recipe))

    def _receive(self, event: Event) -> None:
        if isinstance(event, RecipeApplied) and event.report.recipe == self._wanted:
            self._notice.show_message(self.tr("{recipe} is active.").format(recipe=event.report.recipe.label))
            self._wanted = None
        elif isinstance(event, RecipeFailed) and event.recipe == self._wanted:
            self._notice.show_problem(engine_text(event.summary), engine_text(event.hint))
            self._wanted = None
