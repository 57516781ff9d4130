"""Where a run stands: its curves, its best evaluation, and the steps that no point of the curve tells of yet.

All of it is plain data, because all of it is part of a checkpoint: a resumed run tells the same points.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from engine.train_events import EvalPoint, TrainPoint


@dataclass
class Curves:
    """step: optimizer steps made. evaluated: the step of the last evaluation, -1 before the first. waiting: losses of
    the steps since the last point; skipped: which of them were skipped. stale: evaluations since the best one."""

    step: int = 0
    evaluated: int = -1
    elapsed_s: float = 0.0
    waiting: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    train: list[TrainPoint] = field(default_factory=list)
    evaluations: list[EvalPoint] = field(default_factory=list)
    best: EvalPoint | None = None
    stale: int = 0

    def mean_waiting(self) -> float:
        """Mean of the waiting losses; steps that overflowed and were skipped are left out where others are there."""
        finite = [loss for loss in self.waiting if math.isfinite(loss)]
        return sum(finite) / len(finite) if finite else math.nan

    def add_evaluation(self, point: EvalPoint, counts: bool) -> EvalPoint:
        """Keep an evaluation; counts: it may be the best. Returns it, marked where it is."""
        best = counts and math.isfinite(point.loss) and (self.best is None or point.loss < self.best.loss)
        point = dataclasses.replace(point, best=best)
        if best:
            self.best, self.stale = point, 0
        elif counts:
            self.stale += 1
        self.evaluations.append(point)
        self.evaluated = point.step
        return point

    def not_kept(self, best: EvalPoint | None, stale: int) -> EvalPoint:
        """The last evaluation's weights could not be written: what was best before is so again. Returns it unmarked."""
        self.best, self.stale = best, stale
        self.evaluations[-1] = dataclasses.replace(self.evaluations[-1], best=False)
        return self.evaluations[-1]

    def to_state(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, raw: dict[str, Any]) -> Curves:
        """What to_state() gave."""
        best = raw["best"]
        train = [TrainPoint(**(p | {"skipped": tuple(p["skipped"])})) for p in raw["train"]]
        return cls(**(raw | {"train": train, "evaluations": [EvalPoint(**p) for p in raw["evaluations"]],
                             "best": EvalPoint(**best) if best else None}))
