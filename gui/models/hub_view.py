"""The hub: a short list that suits the app, a search, and the repository that is pointed at."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from engine.hub.curated import CURATED
from engine.hub.events import RepositoryRead, SearchDone
from engine.hub.records import SearchHit
from gui.models.beside import Beside
from gui.models.hub_card import HubCard
from gui.models.row_list import Row, RowList
from gui.models.words import Verdict, hit_text
from gui.widgets.labels import TextLabel, engine_text, quiet
from gui.widgets.switch import Switch

_SEARCH_PAUSE_MS, _LOOK_PAUSE_MS = 400, 250


class HubView(QWidget):
    """searched: words to look for. looked: a repository to ask about. offline_wished: leave the network alone."""

    searched = Signal(str)
    looked = Signal(str)
    offline_wished = Signal(bool)

    def __init__(self, offline: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._hits: dict[str, SearchHit] = {}
        self.search = QLineEdit(clearButtonEnabled=True)
        self.search.setPlaceholderText(self.tr("Search the hub by name, or write owner/name"))
        self.search.setAccessibleName(self.tr("Search the hub"))
        self.offline = Switch(self.tr("Offline"))
        self.offline.setAccessibleDescription(self.tr("Leave the network alone: no search, no download."))
        self.offline.setToolTip(self.offline.accessibleDescription())
        self.offline.setChecked(offline)
        self.heading = TextLabel(heading=True, factor=0.92)
        self.list = RowList(self.tr("Models on the hub"), self.tr("The chosen one is shown beside the list."))
        self.note = quiet()
        self.card = HubCard()
        self._typing = QTimer(self, singleShot=True, interval=_SEARCH_PAUSE_MS)
        self._typing.timeout.connect(self._search)
        self._pointing = QTimer(self, singleShot=True, interval=_LOOK_PAUSE_MS)
        self._pointing.timeout.connect(self.look)
        left = QWidget()
        rows = QVBoxLayout(left)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        for widget in (self.heading, self.note, self.list):
            rows.addWidget(widget, int(widget is self.list))
        head = QHBoxLayout()
        head.addWidget(self.search, 1)
        head.addWidget(self.offline)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 6, 0, 0)
        column.setSpacing(6)
        column.addLayout(head)
        column.addWidget(Beside(left, self.card), 1)
        self.search.textChanged.connect(lambda _: self._typing.start())
        self.search.returnPressed.connect(self._search)
        self.offline.toggled.connect(self._go_offline)
        self.list.currentItemChanged.connect(lambda *_: self._pointed())
        self.card.retried.connect(self.look)
        self._show_shortlist()

    def show_search(self, event: SearchDone) -> None:
        """An answer to a search; one to older words is passed over."""
        if event.text != self.search.text().strip():
            return
        if event.summary:
            self._say(self.tr("The search failed"), f"{engine_text(event.summary)} {engine_text(event.hint)}")
        elif event.hits:
            self._say(self.tr("Results for “{words}”").format(words=event.text))
        else:
            self._say(self.tr("Nothing on the hub is called “{words}”").format(words=event.text),
                      self.tr("Write a part of a model's name, or the whole as owner/name."))
        self._show(event.hits)

    def show_repository(self, event: RepositoryRead) -> None:
        """What a repository offers."""
        if event.repo == self.card.repo:
            if event.model is not None:
                self.card.show_model(event.model)
            else:
                self.card.show_problem(event.summary, event.hint)

    def look(self) -> None:
        """Ask about the model that is pointed at; not offline, where the answer is known."""
        if not self.card.repo:
            return
        if self.offline.isChecked():
            self.card.show_problem("The app works offline, so the hub was not asked.", "Switch offline mode off above.")
        else:
            self.looked.emit(self.card.repo)

    def _search(self) -> None:
        self._typing.stop()
        text = self.search.text().strip()
        if not text:
            self._show_shortlist()
        elif text.count("/") == 1 and not text.endswith("/"):
            self._say(self.tr("A model by its whole name"))
            self._show((SearchHit(text),))
        elif self.offline.isChecked():
            self._say(self.tr("Offline"), self.tr("The hub is not asked. Switch offline mode off to search."))
            self._show(())
        else:
            self._say(self.tr("Searching…"))
            self.searched.emit(text)

    def _show_shortlist(self) -> None:
        self._say(self.tr("Suggested for this app"))
        self._show(CURATED)

    def _show(self, hits: tuple[SearchHit, ...]) -> None:
        self._hits = {hit.repo: hit for hit in hits}
        gated = Verdict(self.tr("gated"), "warning", "warning")
        self.list.show_rows([Row(hit.repo, hit.repo, hit_text(hit), gated if hit.gated else Verdict(""))
                             for hit in self._hits.values()])
        if not hits:
            self.card.show_hit(None)

    def _pointed(self) -> None:
        self.card.show_hit(self._hits.get(self.list.key()))
        if self.isVisible():
            self._pointing.start()

    def _go_offline(self, offline: bool) -> None:
        self.offline_wished.emit(offline)
        self._search()
        self.look()

    def _say(self, heading: str, note: str = "") -> None:
        self.heading.setText(heading)
        self.note.setText(note)
        self.note.setVisible(bool(note))
