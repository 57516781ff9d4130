"""The Models page: what is on this computer, what the hub has, and the downloads between them."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QT_TRANSLATE_NOOP, QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QHideEvent, QShowEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QTabWidget, QVBoxLayout, QWidget

from engine.hub.events import (
    CatalogueRead,
    DownloadChanged,
    DownloadGone,
    FitsKnown,
    FolderAdded,
    ModelRemoved,
    ModelsEvent,
    RepositoryRead,
    SearchDone,
    TokenKept,
    Trouble,
)
from engine.hub.records import CACHE, DONE, ModelOnDisk
from engine.hub.service import ModelsService
from engine.messages import Event, Failed, ModelLoaded
from engine.removing import Removed
from gui.context import AppContext, Page
from gui.model_files import model_at
from gui.models.bridge import ModelsBridge
from gui.models.downloads_view import DownloadsView
from gui.models.hub_view import HubView
from gui.models.local_view import LocalView
from gui.models.words import added_text
from gui.theme import theme
from gui.widgets.labels import ElidedLabel, engine_text, set_icon
from gui.widgets.notice import Notice
from gui.widgets.words import size_text

_UNDO_MS = 20_000


class ModelsPage(QWidget):
    """Two tabs over the downloads that are under way."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        offline = context.settings.get("hub/offline", False)
        self.service = ModelsService(context.settings.folder, offline=offline)
        self.models = ModelsBridge(self.service, self)
        self._removed: Removed | None = None
        self._undo_time = QTimer(self, singleShot=True, interval=_UNDO_MS)
        self._undo_time.timeout.connect(self._settle)
        self._torch = False  # fits load it, and the engine comes first
        self._asked: set[str] = set()
        self._seen = False
        self._added = ""  # a folder whose models the next look at the disk finds
        self.status = ElidedLabel(self.tr("Looking at the disk…"))
        self.status.setAccessibleName(self.tr("Models and disk space"))
        self.add = QPushButton(self.tr("Add folder…"))
        self.add.setToolTip(self.tr("List the models of a folder here. They stay where they are."))
        self.add.setAccessibleName(self.add.text())
        self.add.setAccessibleDescription(self.add.toolTip())
        self.notice = Notice()
        self.local, self.hub, self.downloads = LocalView(), HubView(offline), DownloadsView()
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("Models"))
        self.tabs.addTab(self.local, self.tr("On this computer"))
        self.tabs.addTab(self.hub, self.tr("Download"))
        self.setAcceptDrops(True)
        head = QHBoxLayout()
        head.addWidget(self.status, 1)
        head.addWidget(self.add)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 0, 4)
        column.setSpacing(6)
        column.addLayout(head)
        column.addWidget(self.notice)
        column.addWidget(self.tabs, 1)
        column.addWidget(self.downloads)
        self._connect()
        self._restyle()

    def _connect(self) -> None:
        self._context.bridge.received.connect(self._engine_said)
        self._context.actions.closing.connect(self._close)
        self.models.received.connect(self._receive)
        self.add.clicked.connect(lambda _=False: self.choose_folder())
        self.local.opened.connect(self.open)
        self.local.removed.connect(self.ask_removal)
        self.hub.searched.connect(self.service.search)
        self.hub.looked.connect(self.service.look)
        self.hub.offline_wished.connect(self._go_offline)
        self.hub.card.wanted.connect(self._download)
        self.hub.card.token_given.connect(self._keep_token)
        self.tabs.currentChanged.connect(self._tab_changed)
        for signal, slot in ((self.downloads.pause, self.service.pause), (self.downloads.resume, self.service.resume),
                             (self.downloads.discard, self._discard), (self.downloads.open, self.open)):
            signal.connect(slot)
        theme().changed.connect(self._restyle)

    # -------------------------------------------------------------------------------------------------------- actions

    def open(self, path: str) -> None:
        """Load a model and go on chatting with it."""
        self._context.actions.open_model.emit(path, "chat")

    def choose_folder(self) -> None:
        """Ask for a folder and list its models."""
        folder = QFileDialog.getExistingDirectory(self, self.tr("List the models of a folder"), str(Path.home()))
        if folder:
            self.service.add_folder(folder)

    def ask_removal(self, model: ModelOnDisk) -> None:
        """Remove a model: what can be had back at once, what cannot after another press."""
        if model.place == CACHE:
            self.notice.show_message(self.tr(
                "{name} takes {size} in the Hugging Face cache, which other programs use too. Deleting cannot be "
                "undone.").format(name=model.name, size=size_text(model.nbytes)), self.tr("Delete it"),
                lambda: self.service.remove(model), lasting_ms=0)
        else:
            self.service.remove(model)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """A model is opened, a folder of models is listed."""
        urls = event.mimeData().urls()
        if urls and model_at(urls[0].toLocalFile()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open or list what was dropped."""
        path = Path(model_at(event.mimeData().urls()[0].toLocalFile()))
        if path.is_dir() and not (path / "config.json").is_file():
            self.service.add_folder(str(path))
        else:
            self._context.actions.open_model.emit(str(path), "models")
        event.acceptProposedAction()

    def _download(self, key: str) -> None:
        if self.hub.card.model is not None:
            self.service.download(self.hub.card.model, key)

    def _discard(self, key: str) -> None:
        line = self.downloads.lines.get(key)
        if line is not None and line.path:
            self.downloads.drop(key)  # it is a model now
        else:
            self.service.discard(key)

    def _keep_token(self, token: str) -> None:
        self.service.keep_token(token)
        self.hub.look()

    def _go_offline(self, offline: bool) -> None:
        self._context.settings.set("hub/offline", offline)
        self.service.set_offline(offline)

    # --------------------------------------------------------------------------------------------------------- events

    def _engine_said(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            self.local.show_loaded(event.model.folder)
            self.service.opened(event.model.folder, look=self._seen)
        if isinstance(event, (ModelLoaded, Failed)) and not self._torch:
            self._torch = True
            self._judge()

    def _receive(self, event: ModelsEvent) -> None:
        if isinstance(event, CatalogueRead):
            self._show_catalogue(event)
        elif isinstance(event, FolderAdded):
            self._added = event.folder
        elif isinstance(event, FitsKnown):
            self.local.show_fits(event.path, event.fits)
        elif isinstance(event, SearchDone):
            self.hub.show_search(event)
        elif isinstance(event, RepositoryRead):
            self.hub.show_repository(event)
        elif isinstance(event, DownloadChanged):
            self.downloads.show_view(event.view)
            if event.view.state == DONE and self.local.models:
                self._asked.discard(event.view.path)
        elif isinstance(event, DownloadGone):
            self.downloads.drop(event.key)
        elif isinstance(event, TokenKept):
            self.hub.card.show_kept(event.kept)
        elif isinstance(event, ModelRemoved):
            self._show_removal(event)
        elif isinstance(event, Trouble):
            self.notice.show_problem(engine_text(event.summary), engine_text(event.hint), event.details)

    def _show_catalogue(self, event: CatalogueRead) -> None:
        self.local.show_models(event.models)
        self.hub.card.show_free(event.free)
        ready = sum(model.ready for model in event.models)
        total = sum(model.nbytes for model in event.models)
        text = self.tr("1 model ready, {size} in all; {free} free on the disk") if ready == 1 else self.tr(
            "{ready} models ready, {size} in all; {free} free on the disk")
        self.status.setText(text.format(ready=ready, size=size_text(total), free=size_text(event.free)))
        if self._added:
            folder, self._added = Path(self._added).resolve(), ""
            self._show_added([m for m in event.models if Path(m.path).resolve().is_relative_to(folder)])
        self._judge()

    def _show_added(self, models: list[ModelOnDisk]) -> None:
        """What a folder that was just added brought: in the list, whichever tab it was added from."""
        self.tabs.setCurrentWidget(self.local)
        if models:
            self.local.list.choose(max(models, key=lambda model: model.ready).path)
        self.notice.show_message(added_text(models))

    def _judge(self) -> None:
        """Ask for the fits that are not known yet."""
        if self._torch and self._seen:
            for model in self.local.models.values():
                if model.ready and model.path not in self._asked:
                    self._asked.add(model.path)
                    self.service.judge(model.path)

    def _show_removal(self, event: ModelRemoved) -> None:
        self._settle()
        self._asked.discard(event.model.path)
        for line in self.downloads.lines.values():
            if line.path == event.model.path:
                self.service.discard(line.key)  # it would go on offering to open what is gone
        name = event.model.name
        if event.removed is None:
            gone = self.tr("{name} was deleted.") if event.model.place == CACHE else self.tr(
                "{name} is off the list; its files are where they were.")
            self.notice.show_message(gone.format(name=name))
            return
        self._removed = event.removed
        self._undo_time.start()
        self.notice.show_message(self.tr("Deleted {name}, {size}.").format(name=name, size=size_text(
            event.model.nbytes)), self.tr("Undo"), self._undo, _UNDO_MS)

    def _undo(self) -> None:
        self._undo_time.stop()
        if self._removed is not None:
            removed, self._removed = self._removed, None
            self.service.restore(removed)

    def _settle(self) -> None:
        """What was removed before is gone for good now: there is one way back at a time."""
        self._undo_time.stop()
        if self._removed is not None:
            removed, self._removed = self._removed, None
            self.service.settle(removed)

    # ------------------------------------------------------------------------------------------------ the page itself

    def showEvent(self, event: QShowEvent) -> None:
        """Look at the disk, each time: other programs may have changed it."""
        super().showEvent(event)
        self.models.watch(lively=True)
        if not self._seen:
            self._seen = True
            self.service.clean()
            self.service.ask_token()
        self._asked.clear()  # what is free may have changed
        self.service.scan()

    def hideEvent(self, event: QHideEvent) -> None:
        """Downloads go on; their news may come more slowly."""
        super().hideEvent(event)
        self.models.watch(lively=False)

    def _tab_changed(self, _place: int) -> None:
        if self.tabs.currentWidget() is self.hub:
            self.hub.search.setFocus()
            if self.hub.card.model is None:
                self.hub.look()

    def first_stop(self) -> QWidget:
        """Where the keyboard begins."""
        return self.hub.search if self.tabs.currentWidget() is self.hub else self.local.list

    def _close(self) -> None:
        self.models.stop()

    def _restyle(self) -> None:
        set_icon(self.add, "plus")


PAGE = Page("models", str(QT_TRANSLATE_NOOP("pages", "Models")), "models", 50, ModelsPage)
