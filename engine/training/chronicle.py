"""Keeps run.json true: what a run is, how it stands, and which process trains it, for whoever watches its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import DynoError
from engine.models.checkpoint import write_text
from engine.train_events import Notice, RunStarted, TrainEvent, TrainResult
from engine.training.records import FACTS, FAILED, INTERRUPTED, RUNNING, Facts, noted, who_trains

TrainSteps = Generator[TrainEvent, None, TrainResult]


def refuse_a_second_process(folder: Path) -> None:
    """Raises DynoError where another process trains in this folder now."""
    facts = Facts.read(folder / FACTS)
    mine = who_trains()
    if facts.alive and not facts.mine and facts.host == mine["host"]:
        raise DynoError(f"Process {facts.pid} trains in {folder} now.", "Wait for it, or end it first.")


def told(folder: Path, steps: TrainSteps) -> TrainSteps:
    """Pass the events of a run on, and write down what they say of it."""
    old = Facts.read(folder / FACTS)
    facts = Facts(started_s=old.started_s or time.time(), **who_trains())
    _write(folder, facts)
    state, message = INTERRUPTED, ""
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as finished:
                result: TrainResult = finished.value
                state = result.state
                return result
            before, facts = facts, heard(facts, event)
            if facts != before:
                _write(folder, facts)
            yield event
    except Exception as error:
        state, message = FAILED, str(error)
        raise
    finally:
        steps.close()
        _write(folder, replace(facts, state=state, message=message))


def heard(facts: Facts, event: TrainEvent) -> Facts:
    """The facts after an event."""
    if isinstance(event, Notice):
        return noted(facts, event.text)
    if not isinstance(event, RunStarted):
        return facts
    known: dict[str, Any] = {name: getattr(event, name) for name in (
        "parameters", "trained_parameters", "train_tokens", "learned_tokens", "validation_tokens", "sequence",
        "device", "world")}
    return replace(facts, state=RUNNING, **known)


def _write(folder: Path, facts: Facts) -> None:
    with contextlib.suppress(OSError):  # a full disk is told where the checkpoint is written
        write_text(folder / FACTS, facts.to_json() + "\n")
