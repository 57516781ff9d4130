"""A reply that is being written: its view, its row in the store, and when it was last saved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QCoreApplication

from engine.errors import DynoError
from engine.messages import (
    Cancelled,
    Event,
    Failed,
    Finished,
    GenerationStats,
    JobStarted,
    PartBegun,
    Switched,
    Tokens,
    TurnsDropped,
)
from engine.storage import Store
from gui.chat.reply_view import ReplyView
from gui.chat.turns import Turn, Way

_SAVE_EVERY_S = 0.5
# Laying out a long reply takes longer than a short one; that gets at most this share of the window's time. Painting
# takes as much again, and the processor that does it is missing from the token step.
_DRAW_SHARE = 0.01


class RunningReply:
    """Ties a job to a view and a stored message.

    Saving never raises. What the disk refused is kept, `unsaved` is true, and save_again() tries it later.
    """

    def __init__(self, store: Store, job_id: int, conversation_id: int, message_id: int, view: ReplyView,
                 way: Way, turns: Sequence[Turn]) -> None:
        """way, turns: how the reply was asked for, and with what."""
        self._store = store
        self.way = way
        self._turns = turns
        self._context_from = 0  # id of the first message that the model sees, where it does not see all
        self.ended = False
        self.job_id = job_id
        self.conversation_id = conversation_id
        self.message_id = message_id
        self.view = view
        self.problem: DynoError | None = None
        self._wanted: tuple[str, str, dict[str, Any] | None] = ("", "streaming", None)
        self._saved_s = time.monotonic()
        self._draw_from_s = 0.0

    @property
    def unsaved(self) -> bool:
        """Whether the disk has refused what the reply now is."""
        return self.problem is not None

    @property
    def wanted(self) -> tuple[str, str, dict[str, Any] | None]:
        """Text, state and meta as they should be stored."""
        return self._wanted

    def take(self, event: Event) -> None:
        """Take in what the engine says of this job; `ended` is true after its last word."""
        if isinstance(event, Tokens):
            if not self.view.text:
                self.view.show_waiting("")
            self.view.add_pieces(event.pieces)
        elif isinstance(event, JobStarted):
            self.view.show_waiting(_tr("Reading…"))
        elif isinstance(event, Switched):
            self.view.add_switch(event)
        elif isinstance(event, PartBegun):
            self.view.begin_part(event)
        elif isinstance(event, TurnsDropped):
            if event.count < len(self._turns):
                self._context_from = self._turns[event.count].first
        elif isinstance(event, Finished):
            self.finish("complete", event.result if isinstance(event.result, GenerationStats) else None)
        elif isinstance(event, Cancelled):
            self.finish("stopped", event.result if isinstance(event.result, GenerationStats) else None)
        elif isinstance(event, Failed):
            self.view.show_waiting("")
            self.view.notice.show_problem(event.summary, event.hint, event.details)
            self.finish("failed", None)

    def tick(self) -> None:
        """Show what has come, and save it when half a second has passed."""
        now_s = time.monotonic()
        if now_s >= self._draw_from_s:
            self.view.refresh()
            cost_s = time.monotonic() - now_s
            self._draw_from_s = now_s + cost_s / _DRAW_SHARE
        if now_s - self._saved_s >= _SAVE_EVERY_S and self.view.text != self._wanted[0]:
            self._save(self.view.text, "streaming", None)

    def finish(self, state: str, stats: GenerationStats | None) -> None:
        """Show and save the whole reply with what is known about it."""
        self.ended = True
        if state == "stopped" and stats is None:
            self.view.show_waiting(_tr("stopped"))
        self.view.finish(whole=stats is not None)
        if stats is not None:
            self.view.show_stats(stats)
        seen = {"context_from": self._context_from} if self._context_from else {}
        self._save(self.view.text, state, self.view.to_meta(stats) | seen)

    def save_again(self) -> None:
        """Try once more to store what was refused."""
        self._save(*self._wanted)

    def _save(self, text: str, state: str, meta: dict[str, Any] | None) -> None:
        self._saved_s = time.monotonic()
        self._wanted = (text, state, meta)
        try:
            self._store.save_message(self.message_id, text, state, meta)
            self.problem = None
        except DynoError as error:
            self.problem = error


def _tr(text: str) -> str:
    return QCoreApplication.translate("RunningReply", text)
