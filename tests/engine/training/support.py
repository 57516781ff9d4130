"""Short runs of tiny models, and what they left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.models.devices import pick_device
from engine.train_events import TrainEvent, TrainResult
from engine.train_plan import TrainPlan
from engine.training.records import EVALUATION, TRAIN, read_curve
from engine.training.trainer import train
from tests.conftest import TEXT

TINY: dict[str, Any] = {"steps": 12, "batch": 4, "sequence": 24, "context": 64, "tokenizer": "character", "warmup": 2,
                        "evaluate_every": 4, "log_every": 3, "evaluation_batches": 4, "save_every_s": 0.0}


def text_file(folder: Path, repeats: int = 3) -> str:
    """A small text on disk."""
    path = folder / "text.txt"
    path.write_text("\n".join(f"{i}. {TEXT}" for i in range(repeats)), encoding="utf-8")
    return str(path)


def plan_for(folder: Path, **settings: Any) -> TrainPlan:
    """A plan of a few steps on a small text."""
    return TrainPlan(**({"data": (text_file(folder),)} | TINY | settings))


def run_plan(plan: TrainPlan, folder: Path, resume: bool = False,
             asked: Callable[[list[TrainEvent]], str] = lambda events: "") -> tuple[list[TrainEvent], TrainResult]:
    """Run to the end; every event, and the result."""
    events: list[TrainEvent] = []
    steps = train(plan, folder, pick_device("cpu"), resume=resume, asked=lambda: asked(events))
    while True:
        try:
            events.append(next(steps))
        except StopIteration as finished:
            return events, finished.value


def curve(folder: Path) -> list[tuple[str, ...]]:
    """Both curves of a run with all their digits, times and memory apart."""
    rows = [*read_curve(folder / TRAIN), *read_curve(folder / EVALUATION)]
    return [tuple(v for k, v in row.items() if k not in ("tokens_per_s", "memory_bytes")) for row in rows]
