"""The way out of the engine thread: a queue that folds what may be folded.

Tokens of one job and one recipe merge, and so do a comparison's; progress keeps only the latest; everything else is
kept, in order. The reader drains it on its own clock, so a fast model never floods a slow reader.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from engine.messages import Comparing, Event, Progress, TokenPiece, Tokens


class Outbox:
    """Filled by the engine thread, drained by one reader. `wake` is called (on the engine thread) after each put."""

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._condition = threading.Condition()
        self._events: list[Event | None] = []
        self._pieces: list[TokenPiece] = []
        self._open: int | None = None  # index of the Tokens event that later pieces join
        self._progress: dict[int, int] = {}
        self._wake = wake

    def put(self, event: Event) -> None:
        """Add an event, or fold it into one that waits."""
        with self._condition:
            if isinstance(event, Tokens):
                self._put_tokens(event)
            elif isinstance(event, Progress):
                self._put_progress(event)
            else:
                self._close_tokens()
                last = self._events[-1] if self._events else None
                if isinstance(event, Comparing) and isinstance(last, Comparing) and last.job_id == event.job_id:
                    self._events[-1] = replace(event, what=last.what + event.what)
                else:
                    self._events.append(event)
            self._condition.notify()
        if self._wake is not None:
            self._wake()

    def drain(self, timeout_s: float | None = 0.0) -> list[Event]:
        """Everything that waits, in order. Waits up to `timeout_s` for a first event (None: for ever)."""
        with self._condition:
            if timeout_s is None or timeout_s > 0:
                self._condition.wait_for(lambda: bool(self._events), timeout_s)
            self._close_tokens()
            events = [event for event in self._events if event is not None]
            self._events.clear()
            self._progress.clear()
            return events

    def _put_tokens(self, event: Tokens) -> None:
        waiting = self._events[self._open] if self._open is not None else None
        if isinstance(waiting, Tokens) and (waiting.job_id, waiting.recipe) == (event.job_id, event.recipe):
            self._pieces.extend(event.pieces)
            return
        self._close_tokens()
        self._open = len(self._events)
        self._events.append(event)
        self._pieces = list(event.pieces)

    def _close_tokens(self) -> None:
        if self._open is not None:
            waiting = self._events[self._open]
            assert isinstance(waiting, Tokens)
            self._events[self._open] = replace(waiting, pieces=tuple(self._pieces))
            self._open = None

    def _put_progress(self, event: Progress) -> None:
        stale = self._progress.get(event.job_id)
        if stale is not None:
            self._events[stale] = None
        self._progress[event.job_id] = len(self._events)
        self._events.append(event)
