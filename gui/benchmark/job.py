"""Follows one benchmark on the engine thread: what has been measured, how far it is, how it ended. No widgets here."""

from __future__ import annotations

import time

from PySide6.QtCore import QObject, Signal

from engine.messages import (
    BenchPlan,
    BenchResult,
    BenchRow,
    BenchRowDone,
    BenchSample,
    BenchStarted,
    Cancel,
    Cancelled,
    Event,
    Failed,
    Finished,
    Progress,
    RunBenchmark,
)
from gui.bridge import Bridge

_ETA_AFTER_S = 5.0


class BenchJob(QObject):
    """started: the plan is under way (rows of an earlier run stand in `rows`). row_done: a BenchRow. sampled: a
    BenchSample. progressed: stage, share from 0 to 1, seconds left (-1 while unknown). ended: a Finished, Cancelled or
    Failed."""

    started = Signal()
    row_done = Signal(object)
    sampled = Signal(object)
    progressed = Signal(str, float, float)
    ended = Signal(object)

    def __init__(self, bridge: Bridge, history: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge, self._history = bridge, history
        self.job_id = 0  # 0: nothing is asked
        self.run_id = 0
        self.plan: BenchPlan | None = None
        self.rows: dict[str, BenchRow] = {}
        self._since_s, self._share = 0.0, 0.0
        bridge.received.connect(self._receive)

    @property
    def busy(self) -> bool:
        """Whether a benchmark is asked for and has not ended."""
        return self.job_id != 0

    def run(self, plan: BenchPlan, title: str = "", resumed: int = 0) -> None:
        """Ask the engine for it; it begins when the jobs before it are done. resumed: the run to go on with."""
        if self.busy:
            return
        self.job_id, self.run_id, self.plan, self.rows = self._bridge.next_id(), 0, plan, {}
        self._bridge.submit(RunBenchmark(self.job_id, plan, self._history, resumed > 0, title, resumed))

    def stop(self) -> None:
        """End it at the next step; finished rows stand."""
        if self.busy:
            self._bridge.submit(Cancel(self.job_id))

    def _receive(self, event: Event) -> None:
        if not self.busy or getattr(event, "job_id", 0) != self.job_id:
            return
        if isinstance(event, BenchStarted):
            self.run_id, self.rows = event.run_id, {row.key: row for row in event.rows}
            self._since_s, self._share = time.monotonic(), -1.0
            self.started.emit()
        elif isinstance(event, BenchRowDone):
            self.rows[event.row.key] = event.row
            self.row_done.emit(event.row)
        elif isinstance(event, BenchSample):
            self.sampled.emit(event)
        elif isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, (Finished, Cancelled, Failed)):
            self.job_id = 0
            if not isinstance(event, Failed) and isinstance(event.result, BenchResult):
                self.rows = {row.key: row for row in event.result.rows}
            self.ended.emit(event)

    def _progress(self, event: Progress) -> None:
        share = event.done / event.total if event.total else 0.0
        if self._share < 0:
            self._share = share  # of a resumed run, much was done before
        elapsed_s, done = time.monotonic() - self._since_s, share - self._share
        left_s = elapsed_s * (1 - share) / done if done > 0 and elapsed_s > _ETA_AFTER_S else -1.0
        self.progressed.emit(event.stage, share, left_s)
