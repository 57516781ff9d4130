"""A run's folder as others see it: curves read on, how it stands, and who may train in it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.train_events import RunStarted, TrainPoint
from engine.training.records import FACTS, INTERRUPTED, TRAIN, Facts, RunRecord, find_runs, who_trains
from tests.engine.training.support import plan_for, run_plan


def dead_process() -> Facts:
    """Facts of a run whose process has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return replace(Facts(started_s=1.0), **(who_trains() | {"pid": child.pid, "process_s": 1.0}))


def test_a_run_is_read_on_as_it_goes(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", []

    def look(events: list[object]) -> str:
        if (folder / FACTS).is_file():
            record = RunRecord.open(folder)
            record.look()
            seen.append((record.state, record.facts.mine, len(record.train)))
        return ""

    events, result = run_plan(plan_for(tmp_path), folder, asked=look)
    assert ("running", True, 4) in seen and all(state == "running" for state, _, _ in seen)
    record = RunRecord.open(folder)
    assert record.look() and not record.look()
    assert record.state == result.state == "done"
    assert record.train == [e for e in events if isinstance(e, TrainPoint)]
    assert record.best is not None and record.best.step == result.best_step and record.model == result.model
    started = next(e for e in events if isinstance(e, RunStarted))
    assert (record.facts.parameters, record.facts.learned_tokens) == (started.parameters, started.learned_tokens)
    assert record.step == 12 and record.left_s == 0


def test_a_line_that_is_half_written_waits_and_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_plan(plan_for(tmp_path), folder)
    whole = (folder / TRAIN).read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / TRAIN).write_bytes(b"".join(lines[:3])[:-4])
    record = RunRecord.open(folder)
    record.look()
    assert len(record.train) == 1
    with open(folder / TRAIN, "ab") as file:
        file.write(whole[len(b"".join(lines[:3])) - 4:])
    record.look()
    assert len(record.train) == 4
    (folder / "new").write_bytes(b"".join(lines[:2]))
    (folder / "new").replace(folder / TRAIN)
    record.look()
    assert len(record.train) == 1


def test_a_run_whose_process_is_gone_is_interrupted_and_may_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    plan = plan_for(tmp_path)
    run_plan(plan, folder)
    (folder / FACTS).write_text(dead_process().to_json())
    assert [run.state for run in find_runs(tmp_path / "runs")] == [INTERRUPTED]
    _, result = run_plan(plan, folder, resume=True)
    assert result.state == "done" and RunRecord.open(folder).state == "done"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        import psutil

        folder = tmp_path / "run"
        folder.mkdir()
        mine = who_trains() | {"pid": child.pid, "process_s": psutil.Process(child.pid).create_time()}
        (folder / FACTS).write_text(replace(Facts(), **mine).to_json())
        with pytest.raises(DynoError, match=f"Process {child.pid} trains"):
            run_plan(plan_for(tmp_path), folder)
    finally:
        child.communicate(b"\n")


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, optimizer="sgd", lr=10.0, clip=0.0, warmup=0, steps=300, weight_decay=0.0, momentum=0.999)
    with pytest.raises(DynoError):
        run_plan(plan, tmp_path / "run")
    record = RunRecord.open(tmp_path / "run")
    assert record.state == "failed" and "not a number" in record.facts.message


def test_a_damaged_run_json_is_no_crash(tmp_path: Path) -> None:
    run_plan(plan_for(tmp_path), tmp_path / "run")
    (tmp_path / "run" / FACTS).write_text("{")
    assert RunRecord.open(tmp_path / "run").state == ""
