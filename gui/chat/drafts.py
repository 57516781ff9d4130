"""What is written and not sent: kept for every conversation, and while an earlier prompt is edited the draft beside it.
It comes back after a restart. Knows the composer's state as a dictionary and never what is in it.
"""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from engine.errors import DynoError
from engine.storage import NEW_CHAT, Message, Store
from gui.chat.composer import Composer

_PAUSE_MS = 400


class Drafts(QObject):
    """editing: id of the stored prompt that is being edited, 0 for none."""

    refused = Signal(str, str)  # a sentence and a hint: the disk does not take the draft; told once

    def __init__(self, store: Store, composer: Composer) -> None:
        super().__init__(composer)
        self._store, self._composer = store, composer
        self._conversation_id = NEW_CHAT
        self._beside: dict[str, Any] = {}  # what stood in the composer before an edit began
        self._saved: dict[str, Any] = {}
        self._complained = False
        self.editing = 0
        self._pause = QTimer(self, singleShot=True, interval=_PAUSE_MS)
        self._pause.timeout.connect(self.save)
        composer.changed.connect(self._pause.start)

    def open(self, conversation_id: int) -> None:
        """Put this conversation's draft into the composer, the other one's being saved."""
        self.save()
        self._conversation_id, self.editing = conversation_id, 0
        try:
            data = self._store.draft(conversation_id)
        except DynoError:
            data = {}  # whatever is the matter with the store is said where it is written to
        self._beside = data.get("draft", {})
        self._saved = data
        self.editing = int(data.get("editing", 0))
        self._composer.set_state(data.get("edit", {}) if self.editing else self._beside)

    def begin_edit(self, message_id: int, state: dict[str, Any]) -> None:
        """Put a stored prompt into the composer; the draft waits."""
        if not self.editing:
            self._beside = self._composer.state()
        self.editing = message_id
        self._composer.set_state(state)
        self.save()

    def end_edit(self) -> None:
        """Bring the draft back, where a prompt was being edited."""
        if self.editing:
            self.editing = 0
            self._composer.set_state(self._beside)
            self.save()

    def begun(self, conversation_id: int) -> None:
        """The conversation that was new has this id from now on."""
        self._write(NEW_CHAT, {})
        self._conversation_id, self._saved = conversation_id, {}

    def save(self) -> None:
        """Keep what is in the composer now."""
        self._pause.stop()
        state = self._composer.state()
        data: dict[str, Any] = ({"editing": self.editing, "edit": state} if self.editing else {})
        beside = self._beside if self.editing else state
        if beside:
            data["draft"] = beside
        if data != self._saved and self._write(self._conversation_id, data):
            self._saved = data

    def close(self) -> None:
        """Keep it before the store closes."""
        self.save()
        self._composer.changed.disconnect(self._pause.start)

    def _write(self, conversation_id: int, data: dict[str, Any]) -> bool:
        try:
            self._store.save_draft(conversation_id, data)
        except DynoError as error:
            if not self._complained:
                self._complained = True
                self.refused.emit(error.summary, error.hint)
            return False
        self._complained = False
        return True


def state_of(message: Message) -> dict[str, Any]:
    """The composer's state in which a stored prompt was sent."""
    state: dict[str, Any] = {key: message.meta[key] for key in ("scenario", "values") if key in message.meta}
    text, file = message.text, message.meta.get("file")
    if file:
        cut = len(text) - file["characters"]
        state["file"] = {"name": file["name"], "text": text[cut:]}
        text = text[:cut].rstrip()
    return {**state, "text": text}
