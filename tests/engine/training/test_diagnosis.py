"""What curves are called: each sickness by a curve that has it, and a healthy one by none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.train_events import EvalPoint, Finding, RunStarted, TrainPoint
from engine.train_plan import TrainPlan
from engine.training import records, trainer
from engine.training.diagnosis import diagnose
from engine.training.records import RunRecord
from tests.engine.training.support import plan_for, run_plan

PLAN = TrainPlan(data=("x",), steps=200, batch=4, sequence=50, warmup=0)
Curve = Callable[[int], float]


def findings(train: Curve, held_out: Curve, tokens: int = 1 << 20, steps: int = 200, lr: float = 1e-4,
             ) -> tuple[Finding, ...]:
    points = [TrainPoint(s, train(s), lr, 1.0, 1.0) for s in range(10, steps + 1, 10)]
    judged = [EvalPoint(s, held_out(s), math.exp(held_out(s)), 100) for s in range(0, steps + 1, 20)]
    return diagnose(PLAN, points, judged, steps * PLAN.tokens_per_batch / tokens)


def falling(step: int) -> float:
    return 2 + 2 * math.exp(-step / 30)


def test_a_healthy_run_is_healthy() -> None:
    assert [f.kind for f in findings(falling, lambda s: falling(s) + 0.05)] == ["healthy"]


@pytest.mark.parametrize("lowest", [60, 120, 160])
def test_over_fitting_is_found_within_two_evaluations_of_its_minimum(lowest: int) -> None:
    def held_out(step: int) -> float:
        return 3 + 0.01 * abs(step - lowest)

    found = findings(lambda s: 4 - 0.01 * s, held_out, steps=lowest + 40)
    assert found[0].kind == "over-fitting" and found[0].since == lowest
    assert PLAN.changed(**found[0].remedy).dropout == 0.1
    before = findings(lambda s: 4 - 0.01 * s, held_out, steps=lowest)
    assert all(f.kind != "over-fitting" for f in before)


def test_noise_is_no_over_fitting() -> None:
    assert all(f.kind != "over-fitting"
               for f in findings(falling, lambda s: falling(s) + 0.004 * math.sin(s)))


def test_divergence_asks_for_a_lower_rate() -> None:
    found, = findings(lambda s: 4 - 0.02 * s if s < 100 else 2 + 0.05 * (s - 100), falling)
    assert found.kind == "divergence" and found.since == 100
    assert PLAN.changed(**found.remedy).lr == pytest.approx(PLAN.lr / 3)


def test_a_run_that_still_falls_is_under_fitted() -> None:
    found, = findings(lambda s: 5 - 0.01 * s, lambda s: 5 - 0.01 * s)
    assert found.kind == "under-fitting" and PLAN.changed(**found.remedy).steps == 400


def test_a_flat_curve_at_a_high_rate_is_a_plateau() -> None:
    found, = findings(lambda s: 3.0, lambda s: 3.1, lr=PLAN.lr)
    assert found.kind == "plateau" and PLAN.changed(**found.remedy).lr > PLAN.lr


def test_few_tokens_read_often_are_named() -> None:
    found = findings(lambda s: 4 - 0.015 * s, lambda s: 3 + 0.001 * s, tokens=2_000)
    assert "data-starved" in [f.kind for f in found]


def test_two_points_say_nothing() -> None:
    assert findings(falling, falling, steps=20) == ()


def test_a_run_that_is_only_paused_is_not_told_that_it_ended_too_early(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, steps=40, lr=3e-3, evaluate_every=4)
    folder = tmp_path / "run"
    _, paused = run_plan(plan, folder, asked=lambda e: "pause" if isinstance(e[-1], TrainPoint) and e[-1].step == 30
                         else "")
    record = RunRecord.open(folder)
    while record.look():
        pass
    assert paused.state == record.state == "paused"
    assert all(f.kind != "under-fitting" for f in (*paused.findings, *record.findings()))


def test_epochs_are_those_of_the_windows_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(trainer, "diagnose", lambda *args: seen.append(args[3]) or ())
    plan = plan_for(tmp_path, steps=12, sequence=4096, context=64, data_share=0.5)  # cut to the context
    events, _ = run_plan(plan, tmp_path / "run")
    started = next(e for e in events if isinstance(e, RunStarted))
    windows = round(0.5 * ((started.train_tokens - 1) // started.sequence))
    assert started.sequence == 64 and seen[-1] == pytest.approx(12 * plan.batch / windows)
    record = RunRecord.open(tmp_path / "run")
    while record.look():
        pass
    monkeypatch.setattr(records, "diagnose", lambda *args, **_: seen.append(args[3]) or ())
    record.findings()
    assert seen[-1] == pytest.approx(12 * plan.batch / windows, rel=0.1)
