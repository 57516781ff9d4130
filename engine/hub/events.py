"""What the models service tells, and the box in which it waits for a reader with a clock of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from engine.hub.fits import RecipeFit
from engine.hub.records import DownloadView, ModelOnDisk, RemoteModel, SearchHit
from engine.hub.token import Kept
from engine.removing import Removed


@dataclass(frozen=True)
class CatalogueRead:
    """What is on the disk. folder: where downloads go; free: bytes free there."""

    models: tuple[ModelOnDisk, ...]
    folder: str
    free: int


@dataclass(frozen=True)
class FolderAdded:
    """A folder's models are listed from the next CatalogueRead on."""

    folder: str


@dataclass(frozen=True)
class FitsKnown:
    """How a model fits under each recipe."""

    path: str
    fits: tuple[RecipeFit, ...]


@dataclass(frozen=True)
class SearchDone:
    """An answer to a search, or why there is none."""

    text: str
    hits: tuple[SearchHit, ...] = ()
    summary: str = ""
    hint: str = ""


@dataclass(frozen=True)
class RepositoryRead:
    """What a repository offers, or why that is not known."""

    repo: str
    model: RemoteModel | None = None
    summary: str = ""
    hint: str = ""


@dataclass(frozen=True)
class DownloadChanged:
    """A download is somewhere else than before."""

    view: DownloadView


@dataclass(frozen=True)
class DownloadGone:
    """A download is not listed any more: thrown away."""

    key: str


@dataclass(frozen=True)
class ModelRemoved:
    """A model is gone from the list. removed: it can be had back."""

    model: ModelOnDisk
    removed: Removed | None


@dataclass(frozen=True)
class TokenKept:
    """How the access token for a hub is kept."""

    endpoint: str
    kept: Kept


@dataclass(frozen=True)
class Trouble:
    """Something that was asked for could not be done."""

    summary: str
    hint: str
    details: str = ""


ModelsEvent = (CatalogueRead | FolderAdded | FitsKnown | SearchDone | RepositoryRead | DownloadChanged | DownloadGone
               | ModelRemoved | TokenKept | Trouble)


class Mailbox:
    """Filled by several threads, drained by one reader. Of a download only the newest news waits. wake: called after
    each put, on the thread that put."""

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._condition = threading.Condition()
        self._events: list[ModelsEvent] = []
        self._wake = wake

    def put(self, event: ModelsEvent) -> None:
        """Add an event."""
        with self._condition:
            if isinstance(event, DownloadChanged):
                self._events = [e for e in self._events if not (
                    isinstance(e, DownloadChanged) and e.view.key == event.view.key)]
            self._events.append(event)
            self._condition.notify()
        if self._wake is not None:
            self._wake()

    def drain(self, timeout_s: float = 0.0) -> list[ModelsEvent]:
        """Everything that waits, in order; waits up to `timeout_s` for a first event."""
        with self._condition:
            if timeout_s > 0:
                self._condition.wait_for(lambda: bool(self._events), timeout_s)
            events, self._events = self._events, []
            return events
