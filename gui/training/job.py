"""Follows one training job on the engine thread, a run or a data probe: where it is, how it ended. No widgets here."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from engine.messages import (
    Cancel,
    Cancelled,
    DataPreview,
    Event,
    Failed,
    Finished,
    FinishTraining,
    PreviewData,
    ProbeData,
    Progress,
    Train,
    Training,
    TrainPlan,
)
from engine.train_events import Notice, Probed
from gui.bridge import Bridge


class TrainJob(QObject):
    """progressed: stage, steps done, steps in all (0: not known). noticed: a sentence of the engine. probed: a Probed.
    ended: Finished, Cancelled or Failed of a run. probe_ended: the same of a probe. previewed: a DataPreview or a
    Failed."""

    progressed = Signal(str, int, int)
    noticed = Signal(str)
    probed = Signal(object)
    ended = Signal(object)
    probe_ended = Signal(object)
    previewed = Signal(object)

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._preview_id = 0
        self.job_id = 0  # 0: nothing is asked
        self.probing = False
        self.folder: Path | None = None
        self.finishing = False
        self.pausing = False
        bridge.received.connect(self._receive)

    @property
    def busy(self) -> bool:
        """Whether a run or a probe is asked for and has not ended."""
        return self.job_id != 0

    def train(self, plan: TrainPlan, folder: Path, resume: bool = False) -> None:
        """Ask for a run; it begins when the jobs before it are done."""
        self._begin(folder, probing=False)
        self._bridge.submit(Train(self.job_id, plan, str(folder), resume))

    def probe(self, plan: TrainPlan, folder: Path) -> None:
        """Ask for a data probe."""
        self._begin(folder, probing=True)
        self._bridge.submit(ProbeData(self.job_id, plan, str(folder)))

    def preview(self, plan: TrainPlan) -> None:
        """Ask for the first tokens of a plan's data."""
        self._preview_id = self._bridge.next_id()
        self._bridge.submit(PreviewData(self._preview_id, plan))

    def pause(self) -> None:
        """Write a checkpoint and let go of the engine."""
        if self.busy:
            self.pausing = True
            self._bridge.submit(Cancel(self.job_id))

    def finish(self) -> None:
        """End at the next step with the best weights so far."""
        if self.busy:
            self.finishing = True
            self._bridge.submit(FinishTraining(self.job_id))

    def _begin(self, folder: Path, probing: bool) -> None:
        self.job_id, self.folder, self.probing = self._bridge.next_id(), folder, probing
        self.finishing = self.pausing = False

    def _receive(self, event: Event) -> None:
        job_id = getattr(event, "job_id", 0)
        if job_id and job_id == self._preview_id and isinstance(event, (Finished, Cancelled, Failed)):
            self._preview_id = 0
            if isinstance(event, Failed) or isinstance(event.result, DataPreview):
                self.previewed.emit(event if isinstance(event, Failed) else event.result)
            return
        if not self.busy or job_id != self.job_id:
            return
        if isinstance(event, Progress):
            self.progressed.emit(event.stage, event.done, event.total)
        elif isinstance(event, Training):
            if isinstance(event.what, Notice):
                self.noticed.emit(event.what.text)
            elif isinstance(event.what, Probed):
                self.probed.emit(event.what)
        elif isinstance(event, (Finished, Cancelled, Failed)):
            self.job_id = 0
            (self.probe_ended if self.probing else self.ended).emit(event)
