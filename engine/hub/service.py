"""The models of the window: everything about them that takes time, on threads of its own.

One line of work for the disk (looking, judging, removing), one for the hub (searching, looking up), one for downloads:
a slow hub keeps nobody from opening a model, and none of it waits for the engine. Methods return at once; what comes
of them is in the mailbox. The threads begin with the first thing asked of them.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from engine.errors import DynoError, for_people
from engine.hub.catalogue import Catalogue
from engine.hub.client import Hub, Patience, endpoint, offline_by_environment
from engine.hub.download import plan, source
from engine.hub.downloads import Downloads
from engine.hub.events import (
    CatalogueRead,
    DownloadChanged,
    DownloadGone,
    FitsKnown,
    FolderAdded,
    Mailbox,
    ModelRemoved,
    ModelsEvent,
    RepositoryRead,
    SearchDone,
    TokenKept,
    Trouble,
)
from engine.hub.library import Library, models_folder
from engine.hub.records import DONE, DownloadView, ModelOnDisk, RemoteModel
from engine.hub.removal import remove
from engine.hub.token import Tokens
from engine.removing import Removed, settle_all

log = logging.getLogger(__name__)


class ModelsService:
    """data: the user's data folder. models, cache: other places than the usual ones. offline: ask no network."""

    def __init__(self, data: Path, models: Path | None = None, cache: Path | None = None,
                 patience: Patience = Patience(), offline: bool = False, tokens: Tokens | None = None) -> None:  # noqa: B008
        self.mailbox = Mailbox()
        self.folder = models or models_folder(data)
        self._offline = offline
        self._patience, self._cache = patience, cache
        self._library = Library(data)
        self._catalogue = Catalogue(self._library, self.folder, cache)
        self._tokens = tokens or Tokens()
        self._downloads = Downloads(self.folder, self._hub, self._download_changed,
                                    lambda key: self.mailbox.put(DownloadGone(key)))
        self._disk, self._net = _Line("models disk", self._failed), _Line("models hub", self._failed)
        self._newest_search = ""

    @property
    def offline(self) -> bool:
        """Whether the network is left alone, by the user's wish or by the environment."""
        return self._offline or offline_by_environment()

    def set_offline(self, offline: bool) -> None:
        """Leave the network alone from now on, or not."""
        self._offline = offline

    # ------------------------------------------------------------------------------------------------------- the disk

    def scan(self) -> None:
        """Look at the disk: CatalogueRead, and the downloads that were left unfinished."""
        self._disk.put(self._scan)

    def judge(self, path: str) -> None:
        """How a model fits: FitsKnown. Loads torch."""
        from engine.hub.fits import recipe_fits

        self._disk.put(lambda: self.mailbox.put(FitsKnown(path, recipe_fits(Path(path)))))

    def add_folder(self, folder: str) -> None:
        """List a folder's models from now on: FolderAdded."""
        def act() -> None:
            self._library.add_folder(Path(folder))
            self.mailbox.put(FolderAdded(folder))

        self._disk.put(act)
        self.scan()

    def opened(self, path: str, look: bool = True) -> None:
        """A model was opened. look: tell what is on the disk anew."""
        self._disk.put(lambda: self._library.opened(Path(path)))
        if look:
            self.scan()

    def remove(self, model: ModelOnDisk) -> None:
        """Remove a model: ModelRemoved."""
        def act() -> None:
            removed = remove(model, self.folder, self._library, self._cache)
            self.mailbox.put(ModelRemoved(model, removed))

        self._disk.put(act)
        self.scan()

    def restore(self, removed: Removed) -> None:
        """Have a removed model back."""
        self._disk.put(removed.restore)
        self.scan()

    def settle(self, removed: Removed) -> None:
        """Delete what was removed for good."""
        self._disk.put(removed.settle)

    # -------------------------------------------------------------------------------------------------------- the hub

    def search(self, text: str) -> None:
        """Search the hub: SearchDone. A search that a newer one has overtaken before it began is left out."""
        self._newest_search = text

        def act() -> None:
            if text != self._newest_search:
                return
            try:
                self.mailbox.put(SearchDone(text, self._hub().search(text)))
            except DynoError as error:
                self.mailbox.put(SearchDone(text, (), error.summary, error.hint))

        self._net.put(act)

    def look(self, repo: str, revision: str = "main") -> None:
        """What a repository offers: RepositoryRead."""
        def act() -> None:
            try:
                self.mailbox.put(RepositoryRead(repo, self._hub().look(repo, revision)))
            except DynoError as error:
                self.mailbox.put(RepositoryRead(repo, None, error.summary, error.hint))

        self._net.put(act)

    def keep_token(self, token: str) -> None:
        """Keep an access token for this hub, or forget it (""): TokenKept."""
        url = endpoint()
        self._net.put(lambda: self.mailbox.put(TokenKept(url, self._tokens.keep(url, token.strip()))))

    def ask_token(self) -> None:
        """How the token for this hub is kept: TokenKept."""
        url = endpoint()
        self._net.put(lambda: self.mailbox.put(TokenKept(url, self._tokens.own(url))))

    # ------------------------------------------------------------------------------------------------------ downloads

    def download(self, model: RemoteModel, key: str = "") -> None:
        """Fetch one of a repository's choices: DownloadChanged, again and again."""
        def act() -> None:
            what = plan(model, key, endpoint(), self.folder)
            if source(self.folder / what.folder) == what:
                path = self.folder / what.folder
                whole = path / what.choice if what.choice.endswith(".gguf") else path
                self._download_changed(DownloadView(what, DONE, what.nbytes, path=str(whole)))
            else:
                self._downloads.add(what)

        self._disk.put(act)

    def pause(self, key: str) -> None:
        """Stop a download where it is."""
        self._downloads.pause(key)

    def resume(self, key: str) -> None:
        """Go on with a download."""
        self._disk.put(lambda: self._downloads.resume(key))

    def discard(self, key: str) -> None:
        """Throw a download away: DownloadGone."""
        self._disk.put(lambda: self._downloads.discard(key))

    def stop(self) -> bool:
        """Pause downloads and end the threads; whether they ended in time."""
        ended = self._downloads.stop()
        return all([self._disk.stop(), self._net.stop(), ended])

    def _scan(self) -> None:
        self._downloads.find()
        models = self._catalogue.scan()
        place = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        self.mailbox.put(CatalogueRead(models, str(self.folder), shutil.disk_usage(place).free))

    def clean(self) -> None:
        """Delete what earlier runs have removed and not settled."""
        self._disk.put(lambda: settle_all(self.folder))

    def _hub(self) -> Hub:
        url = endpoint()
        return Hub(url, "" if self.offline else self._tokens.get(url), self.offline, self._patience)

    def _download_changed(self, view: DownloadView) -> None:
        self.mailbox.put(DownloadChanged(view))
        if view.state == DONE:
            self.scan()

    def _failed(self, error: Exception) -> None:
        event: ModelsEvent
        if isinstance(error, DynoError):
            event = Trouble(error.summary, error.hint)
        else:
            event = Trouble(*for_people(error), "".join(traceback.format_exception(error)))
            log.error("an errand about models failed\n%s", event.details)
        self.mailbox.put(event)


class _Line:
    """Errands one after the other, on a thread that begins with the first."""

    def __init__(self, name: str, failed: Callable[[Exception], None]) -> None:
        self._name, self._failed = name, failed
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ended = False

    def put(self, errand: Callable[[], None]) -> None:
        """Do it after those before it."""
        with self._lock:
            if self._ended:
                return
            self._errands.put(errand)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End after the errand that runs; those that wait are left undone."""
        with self._lock:
            self._ended = True
            self._errands.put(None)
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            if self._ended:
                return
            try:
                errand()
            except Exception as error:
                self._failed(error)
