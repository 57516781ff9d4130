"""What the user asked for, what is active, and which of the two the switches show. No widgets here.

A recipe is asked for, built by the engine at the next token, and answered by RecipeApplied or RecipeFailed. Only the
last one asked counts; answers to earlier ones are reports, not decisions. While a model loads, a wish waits here.
"""

from __future__ import annotations

import json
import logging

from PySide6.QtCore import QObject, Signal

from engine.errors import DynoError
from engine.messages import (
    ApplyRecipe,
    Cancelled,
    Compiling,
    Event,
    Failed,
    Finished,
    JobStarted,
    LoadModel,
    ModelLoaded,
    Progress,
    RecipeApplied,
    RecipeFailed,
)
from engine.recipe import Recipe
from gui.bridge import Bridge
from gui.settings import Settings

log = logging.getLogger(__name__)
SETTING = "recipe"


def remembered_recipe(settings: Settings) -> Recipe:
    """The recipe of the last session; plain fp32 where none can be read."""
    text = settings.get(SETTING, "")
    if not text:
        return Recipe()
    try:
        return Recipe.from_json(json.loads(text))
    except (DynoError, ValueError, TypeError, AttributeError, RecursionError) as error:
        log.info("the remembered recipe is unreadable: %s", error)
        return Recipe()


class RecipeState(QObject):
    """Asks the engine for recipes and follows its answers.

    shown: the switches should show this recipe. reported: an EngagedReport of what is active. failed: a RecipeFailed.
    loaded: a ModelLoaded. loading: a model began to load, or failed to (False). pending_changed: see `pending`.
    progressed: stage, done, total of the build. compiling: seconds for which torch.compile has been at work in the
    background, None when it has ended.
    """

    shown = Signal(object)
    reported = Signal(object)
    failed = Signal(object)
    loaded = Signal(object)
    loading_changed = Signal(bool)
    pending_changed = Signal(bool)
    progressed = Signal(str, int, int)
    compiling = Signal(object)

    def __init__(self, bridge: Bridge, settings: Settings, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge, self._settings = bridge, settings
        self.recipe = remembered_recipe(settings)
        self.has_model = False
        self._asked: Recipe | None = None  # sent, not answered
        self._waits = False  # changed while there was no model to send it to
        self._loading: int | None = None
        self._was_pending = False
        bridge.received.connect(self._receive)

    @property
    def loading(self) -> bool:
        """Whether a model is on its way."""
        return self._loading is not None

    @property
    def pending(self) -> bool:
        """Whether the engine has still to answer for the recipe shown."""
        return self._asked is not None or (self._waits and self.loading)

    def ask(self, recipe: Recipe) -> None:
        """Make this the recipe: at once, or when the model that loads is ready."""
        if recipe == self.recipe:
            return
        self._show(recipe)
        if self.has_model and not self.loading:
            self._send()
        else:
            self._waits = True
            if not self.has_model:
                self._remember(recipe)
        self._tell_pending()

    def _send(self) -> None:
        self._asked, self._waits = self.recipe, False
        self._bridge.submit(ApplyRecipe(self.recipe))

    def _receive(self, event: Event) -> None:
        if isinstance(event, Progress):
            if event.job_id == 0 and self._asked is not None:
                self.progressed.emit(event.stage, event.done, event.total)
            return
        if isinstance(event, Compiling):
            self.compiling.emit(event.elapsed_s)
            return
        if isinstance(event, JobStarted) and event.kind == LoadModel.__name__:
            self._loading = event.job_id
            self.loading_changed.emit(True)
        elif isinstance(event, ModelLoaded):
            self._model_loaded(event)
        elif isinstance(event, (Finished, Failed, Cancelled)) and event.job_id == self._loading:
            self._load_ended()
        elif isinstance(event, RecipeApplied):
            self._applied(event)
        elif isinstance(event, RecipeFailed):
            self._failed(event)
        self._tell_pending()

    def _model_loaded(self, event: ModelLoaded) -> None:
        self.has_model, self._loading = True, None
        self.compiling.emit(None)
        self.loaded.emit(event)
        self.reported.emit(event.report)
        if (self._waits or self._asked is not None) and self.recipe != event.report.recipe:
            self._send()
        else:
            self._asked, self._waits = None, False
            self._settle(event.report.recipe)

    def _load_ended(self) -> None:
        self._loading = None
        self.loading_changed.emit(False)
        if self._waits and self.has_model:
            self._send()

    def _applied(self, event: RecipeApplied) -> None:
        self.compiling.emit(None)
        self.reported.emit(event.report)
        recipe = event.report.recipe
        if self._asked is not None and recipe != self._asked:
            return
        self._asked = None
        if not self._waits:
            self._settle(recipe)

    def _failed(self, event: RecipeFailed) -> None:
        if self._asked is not None and event.recipe != self._asked:
            return
        self._asked = None
        if not self._waits:
            self._settle(event.kept)
        self.failed.emit(event)

    def _settle(self, recipe: Recipe) -> None:
        self._remember(recipe)
        if recipe != self.recipe:
            self._show(recipe)

    def _show(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.shown.emit(recipe)

    def _remember(self, recipe: Recipe) -> None:
        self._settings.set(SETTING, json.dumps(recipe.to_json(), separators=(",", ":")))

    def _tell_pending(self) -> None:
        if self.pending != self._was_pending:
            self._was_pending = self.pending
            self.pending_changed.emit(self.pending)
