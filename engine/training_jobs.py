"""What the engine thread does for the jobs of training. They leave the loaded model alone."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from engine.jobs import EngineState, JobSteps
from engine.messages import PreviewData, ProbeData, Progress, Train, Training
from engine.models.devices import pick_device
from engine.train_events import Preparing, RunStarted, Stepped, TrainEvent


def training_job(state: EngineState, command: Train | PreviewData | ProbeData) -> JobSteps:
    """The job of a command."""
    if isinstance(command, PreviewData):
        return _preview(command)
    return _train(state, command)


def _preview(command: PreviewData) -> JobSteps:
    from engine.training.previewing import preview_data

    yield Progress(command.job_id, time.monotonic(), "Reading the data", 0, 0)
    return preview_data(command.plan, command.tokens)


def _train(state: EngineState, command: Train | ProbeData) -> JobSteps:
    """Train by a plan, or probe its data. Where it is cancelled it writes its checkpoint first."""
    job_id = command.job_id

    def paused() -> bool:
        return state.stopping or job_id in state.cancelled

    def asked() -> str:
        return "pause" if paused() else "finish" if job_id in state.finishing else ""

    device = pick_device(command.device)
    if state.threads is None and device.kind == "cpu":
        torch.set_num_threads(device.cores)
    folder = Path(command.folder).expanduser()
    steps: Generator[TrainEvent, None, Any]
    if isinstance(command, Train):
        from engine.training.trainer import train  # TensorBoard's writer with it: only those who train pay for that

        steps = train(command.plan, folder, device, resume=command.resume, asked=asked)
    else:
        from engine.training.probing import probe

        steps = probe(command.plan, folder, device, command.steps, asked)
    try:
        stage = "Training"
        while True:
            try:
                event = next(steps)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]
            now_s = time.monotonic()
            if paused():
                continue  # nobody listens any more; the run writes its checkpoint and ends
            if isinstance(event, Stepped):
                yield Progress(job_id, now_s, stage, event.step, event.steps)
            elif isinstance(event, Preparing):
                if isinstance(command, ProbeData) and event.stage.startswith("Probing"):
                    stage = event.stage
                yield Progress(job_id, now_s, event.stage, event.done, event.total)
            else:
                if isinstance(event, RunStarted):
                    stage = "Training"
                yield Training(job_id, now_s, event)
    finally:
        steps.close()
        state.finishing.discard(job_id)
        state.set_threads()
