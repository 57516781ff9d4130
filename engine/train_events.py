"""What a training run tells while it runs, and what it made: frozen dataclasses, free of torch.

Losses are nats a token, without label smoothing in evaluations and with it in training. Steps count from 0; a point
at step s was measured after s optimizer steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.train_plan import TrainPlan


@dataclass(frozen=True)
class RunStarted:
    """The run is ready for its first step. step: where it begins (above 0 where it resumes). train_tokens,
    validation_tokens: in the data; learned_tokens: those of train_tokens that carry loss. world: processes. sequence:
    tokens of a training sequence, cut to what the model and the data have."""

    plan: TrainPlan
    folder: str
    step: int
    parameters: int
    trained_parameters: int
    train_tokens: int
    learned_tokens: int
    validation_tokens: int
    device: str
    world: int
    sequence: int = 0


@dataclass(frozen=True)
class Notice:
    """Something the run does otherwise than it was asked, or that is worth knowing: one sentence."""

    text: str


@dataclass(frozen=True)
class Preparing:
    """Work before the first step: (what, done, total), total 0 where it is not known."""

    stage: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Stepped:
    """A step was made, or a batch evaluated: a moment at which the run can be asked to stop."""

    step: int
    steps: int


@dataclass(frozen=True)
class TrainPoint:
    """The steps since the last point, as one. loss: their mean. grad_norm: of the last one, before clipping.
    scale: of the GradScaler after the last one, 0 without. skipped: steps whose gradients overflowed and were left out.
    sparsity: share of block weights that are zero. memory_bytes: of a card, allocated by torch; else resident."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    scale: float = 0.0
    skipped: tuple[int, ...] = ()
    sparsity: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class EvalPoint:
    """An evaluation on the held-out data. best: the lowest so far of those that count. sample: what the model wrote
    after the plan's sample prompt. label: "" for any but those the others are compared with: "dense baseline" and
    "pruned" around a cut, "full precision" and "rounded after training" of the model that is trained for rounding."""

    step: int
    loss: float
    perplexity: float
    tokens: int
    best: bool = False
    label: str = ""
    sample: str = ""


@dataclass(frozen=True)
class Pruned:
    """The masks were tightened. zeros: of `weights` block weights."""

    step: int
    zeros: int
    weights: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk; what: "checkpoint" or "model"."""

    step: int
    path: str
    what: str


@dataclass(frozen=True)
class Finding:
    """A diagnosis in words. kind: "under-fitting", "over-fitting", "divergence", "plateau", "data-starved" or
    "healthy". since: the step it began at, or -1. remedy: plan fields and their new values; advice says it in words."""

    kind: str
    text: str
    advice: str = ""
    since: int = -1
    remedy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """The end of a run. state: "done", "paused" (it goes on from its checkpoint), "finished early" (asked to) or
    "stopped early" (patience). best_loss, best_step: of the held-out data; nan and -1 where there is none.
    model: folder of the exported best weights, "" where there is none yet."""

    state: str
    step: int
    final_loss: float
    best_loss: float
    best_step: int
    elapsed_s: float
    model: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Probed:
    """A short run of a data probe. share: of the training data; epochs: how often it was read; loss: the lowest
    held-out one; train_loss: the last."""

    share: float
    parameters: int
    epochs: float
    loss: float
    train_loss: float


@dataclass(frozen=True)
class ProbeReport:
    """What a data probe found. twice_data, twice_model: held-out loss to expect of twice the data or twice the model,
    nan where no trend can be told. sentences: the same in words, the most important first."""

    runs: tuple[Probed, ...]
    steps: int
    twice_data: float
    twice_model: float
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class DataPreview:
    """The first tokens of a run's data. pieces: (text of a token, whether it carries loss). tokens, learned_tokens: in
    what was looked at, which is all of it where `complete`. files, size_bytes: as they lie on the disk. notices: what
    is odd about the data."""

    pieces: tuple[tuple[str, bool], ...]
    tokens: int
    learned_tokens: int
    complete: bool
    files: int
    size_bytes: int
    notices: tuple[str, ...] = ()


TrainEvent = RunStarted | Notice | Preparing | Stepped | TrainPoint | EvalPoint | Pruned | Saved | Finding | Probed
