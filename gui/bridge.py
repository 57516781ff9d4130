"""The only seam between Qt and the engine thread.

The engine's outbox is drained on a timer, some thirty times a second, so that a fast model costs the window a few
signals per frame instead of one per token.
"""

from __future__ import annotations

from PySide6.QtCore import QObject, Qt, QTimer, Signal

from engine.messages import Command, Event
from engine.outbox import Outbox
from engine.worker import Worker

DRAIN_INTERVAL_MS = 33


class Bridge(QObject):
    """Commands go down through submit(), events come up through `received`, on the window's thread."""

    received = Signal(object)

    def __init__(self, worker: Worker, outbox: Outbox, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._worker = worker
        self._outbox = outbox
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(DRAIN_INTERVAL_MS)
        self._timer.timeout.connect(self.drain)

    def start(self) -> None:
        """Start the engine thread and the timer. Call when the window is visible: the engine loads torch."""
        self._worker.start()
        self._timer.start()

    def next_id(self) -> int:
        """A fresh job id."""
        return self._worker.next_id()

    def submit(self, command: Command) -> None:
        """Hand a command to the engine; returns at once."""
        self._worker.submit(command)

    def drain(self) -> None:
        """Pass on everything the engine has said since the last time."""
        events: list[Event] = self._outbox.drain()
        for event in events:
            self.received.emit(event)

    def stop(self) -> bool:
        """End the engine thread and pass on its last events; whether it ended in time."""
        self._timer.stop()
        ended = self._worker.stop()
        self.drain()
        return ended
