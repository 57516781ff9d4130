"""Replies that the disk refused: kept in memory and tried again until they are stored."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import QObject, QTimer, Signal

from engine.storage import Message
from gui.chat.reply import RunningReply

_SAVE_AGAIN_MS = 2000


class UnsavedReplies(QObject):
    """`refused` carries a sentence and a hint, `saved` comes when nothing waits any more."""

    refused = Signal(str, str)
    saved = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._waiting: list[RunningReply] = []
        self._timer = QTimer(self, interval=_SAVE_AGAIN_MS)
        self._timer.timeout.connect(self.save_again)

    def take(self, reply: RunningReply) -> None:
        """Look after a reply that has ended, where it could not be saved."""
        if reply.unsaved:
            self._waiting.append(reply)
            self._timer.start()
            self._tell()

    def newest(self, message: Message) -> Message:
        """A stored message as it should be stored."""
        for reply in self._waiting:
            if reply.message_id == message.id:
                text, state, meta = reply.wanted
                return replace(message, text=text, state=state, meta=meta or {})
        return message

    def save_again(self) -> None:
        """Store what the disk refused."""
        for reply in self._waiting:
            reply.save_again()
        self._waiting = [reply for reply in self._waiting if reply.unsaved]
        if self._waiting:
            self._tell()
        else:
            self._timer.stop()
            self.saved.emit()

    def close(self) -> None:
        """Try a last time."""
        self._timer.stop()
        for reply in self._waiting:
            reply.save_again()

    def _tell(self) -> None:
        problem = self._waiting[-1].problem
        if problem is not None:
            self.refused.emit(problem.summary, problem.hint)
