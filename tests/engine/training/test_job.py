"""Training on the engine thread: events, pausing, going on, finishing early."""

from __future__ import annotations

from pathlib import Path

from engine.messages import Cancel, Cancelled, Failed, Finished, FinishTraining, Progress, Train, Training
from engine.outbox import Outbox
from engine.train_events import TrainPoint, TrainResult
from engine.worker import Worker
from tests.engine.training.support import curve, plan_for, run_plan


def until_end(worker: Worker, outbox: Outbox, job: Train, stop: object = None) -> Finished | Cancelled | Failed:
    """Submit, send `stop` at the first point, and wait for the end."""
    worker.submit(job)
    while True:
        for event in outbox.drain(timeout_s=60):
            if isinstance(event, Training) and isinstance(event.what, TrainPoint) and stop is not None:
                worker.submit(stop)  # type: ignore[arg-type]
            if isinstance(event, (Finished, Cancelled, Failed)):
                return event


def test_a_cancelled_training_job_is_paused_and_goes_on_to_the_identical_curve(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, steps=60)
    run_plan(plan, tmp_path / "whole")
    outbox = Outbox()
    worker = Worker(outbox, probe=False)
    worker.start()
    try:
        folder = str(tmp_path / "run")
        paused = until_end(worker, outbox, Train(1, plan, folder, device="cpu"), Cancel(1))
        assert isinstance(paused, Cancelled) and isinstance(paused.result, TrainResult)
        assert paused.result.state == "paused" and 3 <= paused.result.step < 60
        done = until_end(worker, outbox, Train(2, plan, folder, resume=True, device="cpu"))
        assert isinstance(done, Finished) and isinstance(done.result, TrainResult) and done.result.step == 60
        assert curve(tmp_path / "run") == curve(tmp_path / "whole")
        early = until_end(worker, outbox, Train(3, plan, str(tmp_path / "early"), device="cpu"), FinishTraining(3))
        assert isinstance(early, Finished) and isinstance(early.result, TrainResult)
        assert early.result.state == "finished early" and early.result.model
        failed = until_end(worker, outbox, Train(4, plan.changed(data=("nowhere",)), str(tmp_path / "x"), device="cpu"))
        assert isinstance(failed, Failed) and "nowhere" in failed.summary
    finally:
        worker.stop()


def test_steps_come_as_progress(tmp_path: Path) -> None:
    outbox = Outbox()
    worker = Worker(outbox, probe=False)
    worker.start()
    try:
        worker.submit(Train(1, plan_for(tmp_path), str(tmp_path / "run"), device="cpu"))
        seen: list[object] = []
        while not any(isinstance(e, Finished) for e in seen):
            seen += outbox.drain(timeout_s=60)
        assert any(isinstance(e, Progress) and e.stage == "Training" and e.total == 12 for e in seen)
        assert sum(isinstance(e, Training) and isinstance(e.what, TrainPoint) for e in seen) == 4
    finally:
        worker.stop()
