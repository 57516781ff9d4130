"""Asks the engine where a token's time goes, and follows the answer. It listens from the start, so that it knows what
runs before it and which recipe the figures are of. No widgets here."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from engine.messages import (
    Cancel,
    Cancelled,
    EngagedReport,
    Event,
    Explain,
    Failed,
    Finished,
    JobStarted,
    ModelLoaded,
    Progress,
    RecipeApplied,
    SpeedReport,
)
from gui.bridge import Bridge

Engaged = tuple[str, str, tuple[str, ...]]
"""(model, fingerprint of the recipe, techniques that engaged): figures hold while all three stay as they were."""


class WhyJob(QObject):
    """`changed` comes after any of these has changed.

    stage: "" (nothing asked), "waiting", "running", "done", "failed" or "stopped". ahead: the kind of job it waits for,
    "" where none runs. step: (words of the engine, done, total). report: the newest figures, which stand until others
    come; model: what they were measured on. failure: the event of the last failure.
    """

    changed = Signal()

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._job_id = 0
        self._others: dict[int, str] = {}
        self._now: Engaged | None = None
        self._measured: Engaged | None = None
        self._started: Engaged | None = None
        self.active = ""  # label of the active recipe
        self.context = 0  # longest sequence of the model, 0 without one
        self.stage = ""
        self.step = ("", 0, 0)
        self.report: SpeedReport | None = None
        self.failure: Failed | None = None
        bridge.received.connect(self._receive)

    @property
    def has_model(self) -> bool:
        """Whether there is anything to measure."""
        return self._now is not None

    @property
    def is_busy(self) -> bool:
        """Whether it waits or runs."""
        return self.stage in ("waiting", "running")

    @property
    def ahead(self) -> str:
        """The kind of job that runs before it."""
        return next(iter(self._others.values()), "") if self.stage == "waiting" else ""

    @property
    def model(self) -> str:
        """The model the figures are of."""
        return self._measured[0] if self._measured is not None else ""

    @property
    def stale(self) -> str:
        """What has changed since the figures were measured: "model", "recipe", "engaged" or "" for nothing."""
        if self.report is None or self._measured is None or self._now is None:
            return ""
        changes = zip(("model", "recipe", "engaged"), self._measured, self._now, strict=True)
        return next((name for name, then, now in changes if then != now), "")

    def run(self, context: int) -> None:
        """Measure after `context` tokens; nothing where it waits or runs already, or there is no model."""
        if self.is_busy or not self.has_model:
            return
        self._job_id = self._bridge.next_id()
        self.stage, self.step, self.failure = "waiting", ("", 0, 0), None
        self._bridge.submit(Explain(self._job_id, context))
        self.changed.emit()

    def stop(self) -> None:
        """Give up waiting or measuring."""
        if self.is_busy:
            self._bridge.submit(Cancel(self._job_id))

    def _receive(self, event: Event) -> None:
        if isinstance(event, (RecipeApplied, ModelLoaded)):
            self._note_active(event)
        elif isinstance(event, JobStarted) and event.job_id != self._job_id:
            self._others[event.job_id] = event.kind
        elif isinstance(event, (Finished, Failed, Cancelled)) and event.job_id != self._job_id:
            self._others.pop(event.job_id, None)
        elif getattr(event, "job_id", None) == self._job_id and self.is_busy:
            self._follow(event)
        else:
            return
        self.changed.emit()

    def _note_active(self, event: RecipeApplied | ModelLoaded) -> None:
        report = event.report
        model = self._now[0] if self._now is not None else ""
        if isinstance(event, ModelLoaded):
            model, self.context = event.model.name, event.model.context
        self._now = (model, report.recipe.fingerprint, _engaged(report))
        self.active = report.recipe.label

    def _follow(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            self.stage, self._started = "running", self._now
        elif isinstance(event, Progress):
            self.step = (event.stage, event.done, event.total)
        elif isinstance(event, Finished) and isinstance(event.result, SpeedReport):
            self.stage, self.report, self._measured = "done", event.result, self._started
        elif isinstance(event, Failed):
            self.stage, self.failure = "failed", event
        elif isinstance(event, (Finished, Cancelled)):
            self.stage = "stopped"


def _engaged(report: EngagedReport) -> tuple[str, ...]:
    return tuple(t.key for t in report.techniques if t.engaged)
