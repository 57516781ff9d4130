"""A reply that is being written: its view, its row in the store, and when it was last saved."""

from __future__ import annotations

import time
from typing import Any

from engine.errors import DynoError
from engine.messages import GenerationStats
from engine.storage import Store
from gui.chat.message_view import ReplyView

_SAVE_EVERY_S = 0.5
# Laying out a long reply takes longer than a short one; drawing it gets at most this share of the window's time.
_DRAW_SHARE = 0.08


class RunningReply:
    """Ties a job to a view and a stored message.

    Saving never raises. What the disk refused is kept, `unsaved` is true, and save_again() tries it later.
    """

    def __init__(self, store: Store, job_id: int, conversation_id: int, message_id: int, view: ReplyView) -> None:
        self._store = store
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
        self.view.refresh(final=True)
        if stats is not None:
            self.view.show_stats(stats)
        self._save(self.view.text, state, self.view.to_meta(stats))

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
