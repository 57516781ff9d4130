"""The technique panel as a dock at the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt

from gui.context import Dock
from gui.techniques.panel import TechniquePanel
from gui.techniques.recipe_state import remembered_recipe

if TYPE_CHECKING:
    from gui.context import AppContext

__all__ = ["DOCK", "remembered_recipe"]


def make(context: AppContext) -> TechniquePanel:
    """The panel on the app's bridge and settings."""
    panel = TechniquePanel(context.bridge, context.settings)
    context.actions.explain.connect(panel.open_why)
    context.actions.recipes.connect(panel.focus_recipes)
    context.actions.techniques.connect(panel.focus_techniques)
    return panel


DOCK = Dock("techniques", str(QT_TRANSLATE_NOOP("docks", "Techniques")), Qt.DockWidgetArea.RightDockWidgetArea, make)
