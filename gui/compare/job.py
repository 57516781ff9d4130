"""Follows one comparison that is watched: what its lanes say, how far it is, how it ended. No widgets here."""

from __future__ import annotations

import time

from PySide6.QtCore import QObject, Signal

from engine.comparing import LaneToken
from engine.messages import (
    Cancel,
    Cancelled,
    ChatMessage,
    Comparing,
    Event,
    Failed,
    Finished,
    JobStarted,
    Progress,
    RunComparison,
    Sampling,
)
from engine.recipe import Recipe
from gui.bridge import Bridge

_ETA_AFTER_S = 5.0


class WatchJob(QObject):
    """started: the engine has taken it up. told: a tuple of LaneEvents. progressed: stage ("" while lanes write), share
    from 0 to 1 (-1 while unknown), seconds left (-1 while unknown). ended: a Finished, Cancelled or Failed."""

    started = Signal()
    told = Signal(object)
    progressed = Signal(str, float, float)
    ended = Signal(object)

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self.job_id = 0  # 0: nothing is asked
        self._wanted = self._come = 0  # tokens of all lanes
        self._since_s = 0.0
        bridge.received.connect(self._receive)

    @property
    def busy(self) -> bool:
        """Whether one is asked for and has not ended."""
        return self.job_id != 0

    def run(self, recipes: tuple[Recipe, ...], prompt: str, sampling: Sampling) -> None:
        """Ask the engine for it; it begins when the jobs before it are done. Raises DynoError."""
        if self.busy:
            return
        job = RunComparison(self._bridge.next_id(), recipes, (ChatMessage("user", prompt),), sampling)
        self.job_id, self._wanted, self._come, self._since_s = job.job_id, sampling.max_tokens * len(recipes), 0, 0.0
        self._bridge.submit(job)

    def stop(self) -> None:
        """End it at the next token; what is written stands."""
        if self.busy:
            self._bridge.submit(Cancel(self.job_id))

    def _receive(self, event: Event) -> None:
        if not self.busy or getattr(event, "job_id", 0) != self.job_id:
            return
        if isinstance(event, JobStarted):
            self.started.emit()
        elif isinstance(event, Comparing):
            self._tell(event)
        elif isinstance(event, Progress):
            self.progressed.emit(event.stage, event.done / event.total if event.total else -1.0, -1.0)
        elif isinstance(event, (Finished, Cancelled, Failed)):
            self.job_id = 0
            self.ended.emit(event)

    def _tell(self, event: Comparing) -> None:
        self.told.emit(event.what)
        self._come += sum(isinstance(step, LaneToken) for step in event.what)
        if not self._come:
            return
        self._since_s = self._since_s or time.monotonic()
        elapsed_s = time.monotonic() - self._since_s
        left_s = elapsed_s * (self._wanted - self._come) / self._come if elapsed_s > _ETA_AFTER_S else -1.0
        self.progressed.emit("", self._come / self._wanted, left_s)
