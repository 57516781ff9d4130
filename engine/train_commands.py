"""What the engine thread is asked about training: frozen dataclasses, which engine/messages.py offers with its own."""

from __future__ import annotations

from dataclasses import dataclass

from engine.train_plan import TrainPlan


@dataclass(frozen=True)
class Train:
    """Train by a plan in a folder of its own. resume: go on from its checkpoint, where there is one. Cancel pauses it:
    a checkpoint is written, and the same command with `resume` goes on to the identical curve. The loaded model is not
    touched."""

    job_id: int
    plan: TrainPlan
    folder: str
    resume: bool = False
    device: str | None = None


@dataclass(frozen=True)
class PreviewData:
    """Show the first tokens of a plan's data as it would be learned. tokens: how many. Its result is a DataPreview."""

    job_id: int
    plan: TrainPlan
    tokens: int = 400


@dataclass(frozen=True)
class ProbeData:
    """Train a plan briefly on a quarter, a half and all of its data, in folders under `folder`. steps: of each of these
    runs, 0 for as many as tell something. Its result is a ProbeReport."""

    job_id: int
    plan: TrainPlan
    folder: str
    steps: int = 0
    device: str | None = None


@dataclass(frozen=True)
class FinishTraining:
    """Control: end a training run at its next step, with the best weights so far as its result."""

    job_id: int
