"""A reply that is being written: its view, its row in the store, and when it was last saved."""

from __future__ import annotations

import time

from engine.errors import DynoError
from engine.messages import GenerationStats
from engine.storage import Store
from gui.chat.message_view import ReplyView

_SAVE_EVERY_S = 0.5


class RunningReply:
    """Ties a job to a view and a stored message. Saving never raises: a refusal shows at the reply, and the next save
    tries again."""

    def __init__(self, store: Store, job_id: int, conversation_id: int, message_id: int, view: ReplyView) -> None:
        self._store = store
        self.job_id = job_id
        self.conversation_id = conversation_id
        self.message_id = message_id
        self.view = view
        self._saved_s = time.monotonic()
        self._saved_text = ""

    def tick(self) -> None:
        """Show what has come, and save it when half a second has passed."""
        self.view.refresh()
        if time.monotonic() - self._saved_s >= _SAVE_EVERY_S and self.view.text != self._saved_text:
            self._save("streaming", None)

    def finish(self, state: str, stats: GenerationStats | None) -> None:
        """Show and save the whole reply with what is known about it."""
        self.view.refresh(final=True)
        if stats is not None:
            self.view.show_stats(stats)
        self._save(state, stats)

    def _save(self, state: str, stats: GenerationStats | None) -> None:
        self._saved_s = time.monotonic()
        meta = None if state == "streaming" else self.view.to_meta(stats)
        try:
            self._store.save_message(self.message_id, self.view.text, state, meta)
            self._saved_text = self.view.text
        except DynoError as error:
            self.view.notice.show_problem(error.summary, error.hint)
