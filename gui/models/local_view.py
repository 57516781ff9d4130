"""The models on this computer: a list, and beside it (or below it, where the window is narrow) the one that is chosen.
"""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices, QKeyEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from engine.hub.fits import RecipeFit
from engine.hub.records import APP, BUNDLED, CACHE, ModelOnDisk
from gui.models.beside import Beside
from gui.models.fit_table import FitTable
from gui.models.row_list import Row, RowList
from gui.models.words import facts_text, model_verdict, place_text
from gui.theme import theme
from gui.widgets.controls import action_button
from gui.widgets.labels import TextLabel, engine_text, quiet, set_icon
from gui.widgets.words import count_text, size_text


class LocalView(QWidget):
    """opened: a path to load. removed: a ModelOnDisk to remove."""

    opened = Signal(str)
    removed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.models: dict[str, ModelOnDisk] = {}
        self._fits: dict[str, tuple[RecipeFit, ...]] = {}
        self._loaded = ""
        self.list = RowList(self.tr("Models on this computer"),
                            self.tr("Enter opens a model; Delete removes it or takes it off the list."))
        self.list.currentItemChanged.connect(lambda *_: self._show_chosen())
        self.list.itemActivated.connect(lambda _item: self._open())
        self.empty = quiet(self.tr("Looking at the disk…"))
        self._name = TextLabel(bold=True, factor=1.08)
        self._problem = TextLabel()
        self._facts, self._source, self._path = quiet(), quiet(), quiet()
        self._path.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._memory = TextLabel(self.tr("Memory needed, with what is free now"), heading=True, factor=0.9)
        self.fit_table = FitTable()
        self.open = action_button(self.tr("Open"), self.tr("Load this model; the conversation goes on with it."))
        self.open.setProperty("primary", True)
        self.open.clicked.connect(lambda _=False: self._open())
        self.folder = action_button(self.tr("Show folder"), self.tr("Show the model's files in the file manager."))
        self.folder.clicked.connect(lambda _=False: self._show_folder())
        self.remove = action_button(self.tr("Remove"), "")
        self.remove.clicked.connect(lambda _=False: self._remove())
        self._card = QFrame()
        self._card.setProperty("card", True)
        self._arrange()
        theme().changed.connect(self._restyle)
        self._restyle()
        self._show_chosen()

    def show_models(self, models: tuple[ModelOnDisk, ...]) -> None:
        """Show what is on the disk."""
        self.models = {model.path: model for model in models}
        self._refresh()

    def show_fits(self, path: str, fits: tuple[RecipeFit, ...]) -> None:
        """How a model fits is known."""
        self._fits[path] = fits
        self._refresh()

    def show_loaded(self, folder: str) -> None:
        """This is the model that is open."""
        self._loaded = str(Path(folder).resolve()) if folder else ""
        self._refresh()

    def chosen(self) -> ModelOnDisk | None:
        """The model in the card."""
        return self.models.get(self.list.key())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete removes."""
        if event.key() == Qt.Key.Key_Delete and self.list.hasFocus():
            self._remove()
        else:
            super().keyPressEvent(event)

    # -------------------------------------------------------------------------------------------------------- inside

    def _refresh(self) -> None:
        rows = []
        for model in self.models.values():
            verdict = model_verdict(model, self._fits.get(model.path))
            name = self.tr("{name} (open)").format(name=model.name) if self._is_loaded(model) else model.name
            facts = facts_text(model) if model.ready else engine_text(model.problem)
            rows.append(Row(model.path, name, facts, verdict, muted=not model.ready))
        self.list.show_rows(rows)
        self.empty.setVisible(not rows)
        self._show_chosen()

    def _show_chosen(self) -> None:
        model = self.chosen()
        self._card.setVisible(model is not None)
        if model is None:
            return
        self._name.setText(model.name.replace("/", "/\u200b").replace("-", "-\u200b"))
        self._problem.setText(engine_text(model.problem))
        self._problem.setVisible(bool(model.problem))
        stored = self.tr("{count} weights, {size} as {dtype}").format(
            count=count_text(model.parameters), size=size_text(model.weight_bytes), dtype=model.dtype)
        lines = [model.architecture, stored if model.parameters else "",
                 self.tr("context of {count} tokens").format(count=f"{model.context:,}") if model.context else "",
                 self.tr("licence: {name}").format(name=model.licence or self.tr("none is named"))]
        self._facts.setText("\n".join(line for line in lines if line))
        origin = f"{model.repo} @ {model.revision[:8]}" if model.repo else ""
        self._source.setText("\n".join(part for part in (origin, place_text(model.place)) if part))
        self._path.setText(model.path.replace("/", "/\u200b"))
        fits = self._fits.get(model.path, ())
        self._memory.setVisible(bool(fits) and model.ready)
        self.fit_table.show_fits(fits if model.ready else ())
        self.open.setEnabled(model.ready and not self._is_loaded(model))
        self.open.setText(self.tr("Open") if not self._is_loaded(model) else self.tr("Is open"))
        self.remove.setVisible(model.place != BUNDLED)
        self.remove.setEnabled(not self._is_loaded(model) or model.place not in (APP, CACHE))
        deleted = model.place in (APP, CACHE)
        self.remove.setText(self.tr("Delete") if deleted else self.tr("Take off the list"))
        about = (self.tr("Its files are in use; open another model first.") if not self.remove.isEnabled() else
                 self.tr("Delete the model's files.") if deleted else self.tr("The files stay where they are."))
        self.remove.setToolTip(about)
        self.remove.setAccessibleName(self.remove.text())
        self.remove.setAccessibleDescription(about)

    def _is_loaded(self, model: ModelOnDisk) -> bool:
        return bool(self._loaded) and str(Path(model.path).resolve()) == self._loaded

    def _open(self) -> None:
        model = self.chosen()
        if model is not None and self.open.isEnabled():
            self.opened.emit(model.path)

    def _remove(self) -> None:
        model = self.chosen()
        if model is not None and model.place != BUNDLED and self.remove.isEnabled():
            self.removed.emit(model)

    def _show_folder(self) -> None:
        model = self.chosen()
        if model is not None:
            path = Path(model.path)
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path if path.is_dir() else path.parent)))

    def _arrange(self) -> None:
        column = QVBoxLayout(self._card)
        column.setContentsMargins(12, 10, 12, 12)
        column.setSpacing(6)
        buttons = QHBoxLayout()
        for button in (self.open, self.folder, self.remove):
            buttons.addWidget(button)
        buttons.addStretch()
        column.addWidget(self._name)
        column.addLayout(buttons)  # above what may have to scroll
        for widget in (self._problem, self._memory, self.fit_table, self._facts, self._source, self._path):
            column.addWidget(widget)
        column.addStretch()
        left = QWidget()
        rows = QVBoxLayout(left)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addWidget(self.empty)
        rows.addWidget(self.list, 1)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 6, 0, 0)
        whole.addWidget(Beside(left, self._card))

    def _restyle(self) -> None:
        set_icon(self.folder, "folder")
        set_icon(self.remove, "trash")
