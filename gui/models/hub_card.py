"""One repository of the hub: what it offers, under which licence, how large, and the button that fetches it. Also the
access token, where one is needed."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from engine.hub.records import RemoteModel, SearchHit
from engine.hub.token import Kept
from gui.models.words import hit_text
from gui.theme import colours, theme
from gui.widgets.controls import ChoiceBox, action_button
from gui.widgets.labels import TextLabel, engine_text, marked_line, quiet, set_icon
from gui.widgets.words import size_text

_BESIDE = 66  # letters of width from which choice and button stand side by side


class HubCard(QFrame):
    """wanted: the key of the choice to fetch. token_given: a token to keep, "" to forget it."""

    wanted = Signal(str)
    token_given = Signal(str)
    retried = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self.repo = ""
        self.model: RemoteModel | None = None
        self._free = 0
        self._name = TextLabel(bold=True, factor=1.08)
        self._facts, self.status, self._space = quiet(), TextLabel(factor=0.92), quiet()
        self._gate, self._gate_text = marked_line("warning", "warning", False)
        self.choice = ChoiceBox(14)
        self.choice.setAccessibleName(self.tr("What to download"))
        self.choice.setAccessibleDescription(self.tr("The safetensors with what belongs to them, or one GGUF file."))
        self.choice.currentIndexChanged.connect(lambda _: self._show_space())
        self.download = action_button(self.tr("Download"), self.tr(
            "Fetch and check the files; chatting goes on meanwhile."))
        self.download.setProperty("primary", True)
        self.download.clicked.connect(lambda _=False: self.wanted.emit(self.choice.currentData() or ""))
        self.retry = action_button(self.tr("Try again"), self.tr("Ask the hub again."))
        self.retry.clicked.connect(lambda _=False: self.retried.emit())
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText(self.tr("Access token (hf_…)"))
        self.token.setAccessibleName(self.tr("Access token of the hub"))
        self.token.setAccessibleDescription(self.tr("Kept in the system's keyring, never in a file of this app."))
        self.token.returnPressed.connect(self._give_token)
        self.keep = action_button(self.tr("Keep"), self.tr("Keep the token for gated models."))
        self.keep.clicked.connect(lambda _=False: self._give_token())
        self.kept = quiet()
        self._token_row = QWidget()
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 12)
        column.setSpacing(6)
        column.addWidget(self._name)
        self._wanted = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._wanted.addWidget(self.choice, 1)
        self._wanted.addWidget(self.download, 0, Qt.AlignmentFlag.AlignLeft)
        column.addLayout(self._wanted)  # above what may have to scroll
        for widget in (self.status, self._gate):
            column.addWidget(widget)
        again = QHBoxLayout()
        again.addWidget(self.retry)
        again.addStretch()
        column.addLayout(again)
        row = QHBoxLayout(self._token_row)
        row.setContentsMargins(0, 4, 0, 0)
        row.addWidget(self.token, 1)
        row.addWidget(self.keep)
        column.addWidget(self._token_row)
        for widget in (self.kept, self._facts, self._space):
            column.addWidget(widget)
        column.addStretch()
        theme().changed.connect(self._restyle)
        self._restyle()
        self.show_hit(None)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Beside the choice the button leaves a narrow card too little room for it."""
        super().resizeEvent(event)
        narrow = event.size().width() < _BESIDE * self.fontMetrics().averageCharWidth()
        self._wanted.setDirection(QBoxLayout.Direction.TopToBottom if narrow else QBoxLayout.Direction.LeftToRight)

    def show_hit(self, hit: SearchHit | None) -> None:
        """A model that was pointed at, before the hub has said more."""
        self.setVisible(hit is not None)
        if hit is None:
            self.repo = ""
            return
        self.repo, self.model = hit.repo, None
        self._name.setText(_breakable(hit.repo))
        self._facts.setText(hit_text(hit))
        self._show_gate(hit.gated)
        self.status.setText(self.tr("Asking the hub what it offers…"))
        self._show_choices()

    def show_model(self, model: RemoteModel) -> None:
        """What the hub says it offers."""
        self.model = model
        self._show_gate(model.gated)
        self._facts.setText(self.tr("licence: {name}  ·  revision {commit}").format(
            name=model.licence or self.tr("none is named"), commit=model.revision[:8]))
        self.status.setText(engine_text(model.problem))
        self._show_choices()

    def show_problem(self, summary: str, hint: str) -> None:
        """Why it is not known what it offers."""
        self.model = None
        self.status.setText(f"{engine_text(summary)} {engine_text(hint)}".strip())
        self._show_choices()
        self.retry.show()
        self._token_row.setVisible("token" in hint or self._gate.isVisibleTo(self))

    def show_free(self, free: int) -> None:
        """Bytes that are free where downloads go."""
        self._free = free
        self._show_space()

    def show_kept(self, kept: Kept) -> None:
        """How the token is kept."""
        text = {"keyring": self.tr("A token is kept in the system's keyring. Keep an empty one to forget it."),
                "memory": self.tr("A token is kept until the app closes, because {reason}.").format(
                    reason=engine_text(kept.reason))}.get(kept.where, "")
        self.kept.setText(text)
        self.kept.setVisible(bool(text) and self._token_row.isVisibleTo(self))

    def _give_token(self) -> None:
        self.token_given.emit(self.token.text())
        self.token.clear()

    def _show_gate(self, gated: bool) -> None:
        self._gate.setVisible(gated)
        self._gate_text.setText(self.tr(
            "Gated: accept its terms on the hub's page, then give an access token of that account."))
        self._token_row.setVisible(gated)
        self.kept.setVisible(gated and bool(self.kept.text()))

    def _show_choices(self) -> None:
        choices = self.model.choices if self.model is not None else ()
        blocked = self.choice.blockSignals(True)
        self.choice.clear()
        for each in choices:
            text = self.tr("{size}  {name}").format(size=size_text(each.nbytes), name=each.key)
            if each.key == "safetensors":
                text = self.tr("{size}  safetensors, {count} files").format(
                    size=size_text(each.nbytes), count=len(each.files))
            self.choice.addItem(text, each.key)
        self.choice.blockSignals(blocked)
        self.choice.setVisible(bool(choices))
        self.download.setVisible(bool(choices))
        self.status.setVisible(bool(self.status.text()))
        self.retry.hide()
        self._show_space()

    def _show_space(self) -> None:
        chosen = None if self.model is None or self.choice.currentData() is None else self.model.choice(
            self.choice.currentData())
        self._space.setVisible(chosen is not None and self._free > 0)
        if chosen is not None:
            room = self._free - chosen.nbytes
            self._space.setText(self.tr("{free} are free on the disk; {left} are left then.").format(
                free=size_text(self._free), left=size_text(room)) if room > 0 else
                self.tr("Only {free} are free on the disk.").format(free=size_text(self._free)))
            self.choice.setToolTip("\n".join(f"{size_text(f.nbytes)}  {f.name}" for f in chosen.files))
        self.download.setEnabled(chosen is None or chosen.nbytes < self._free)

    def _restyle(self) -> None:
        set_icon(self.download, "down", colours().on_accent)


def _breakable(name: str) -> str:
    return name.replace("/", "/\u200b").replace("-", "-\u200b")
