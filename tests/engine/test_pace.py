"""A reply that is held back: control is carried out meanwhile, and what is measured is decoding alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.messages import ApplyRecipe, Cancel, Cancelled, Failed, Generate, GenerationStats, Switched, Tokens
from engine.pace import Pace
from engine.recipe import parse_recipe
from tests.engine.support import GREEDY, Engine

LONG = dataclasses.replace(GREEDY, max_tokens=40)


def test_no_pace_waits_for_nothing_and_stopping_ends_the_wait() -> None:
    waits: list[float] = []
    assert Pace(0, waits.append, lambda: False).hold(1e12) == 0.0 and waits == []
    held_s = Pace(0.001, waits.append, lambda: len(waits) >= 3).hold(1e12)  # due long after the test
    assert len(waits) == 3 and held_s >= 0.0
    assert all(wait > 1000 for wait in waits), "up to when the next token is due"


@pytest.mark.parametrize("pace", [-1.0, math.nan, math.inf, 1001.0])
def test_a_pace_that_cannot_be_ends_the_job_with_a_sentence(llama_folder: Path, engine: Engine, pace: float) -> None:
    with pytest.raises(DynoError, match="pace"):
        Pace(pace, lambda seconds: None, lambda: False)
    engine.load(llama_folder)
    end = engine.run(Generate(engine.next_id(), prompt="The wind", sampling=LONG, pace_tokens_per_s=pace))
    assert isinstance(end, Failed) and "pace" in end.summary


def test_a_technique_is_switched_while_a_reply_is_held_back_and_the_waiting_is_not_measured(
        llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    job = Generate(engine.next_id(), prompt="The wind", sampling=LONG, pace_tokens_per_s=1.0)
    engine.at({2: ApplyRecipe(parse_recipe("int8-weight"))})
    engine.submit(job)
    engine.wait(lambda event: isinstance(event, Switched))
    engine.at({2: Cancel(job.job_id)})
    end = engine.end_of(job.job_id)
    assert isinstance(end, Cancelled) and isinstance(end.result, GenerationStats)
    stats = end.result
    assert stats.pace_tokens_per_s == 1.0 and stats.recipe == "fp32 → int8 weights"
    assert stats.elapsed_s > stats.output_tokens - 2, "a second between any two, but for where the switch came"
    assert stats.tpot_s * (stats.output_tokens - 1) < stats.elapsed_s - 1.5, "most of which is no decoding"


def test_stop_and_the_end_of_the_engine_wait_for_no_token(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    first = Generate(engine.next_id(), prompt="The wind", sampling=LONG, pace_tokens_per_s=1e-6)
    engine.at({1: Cancel(first.job_id)})
    engine.submit(first)
    assert isinstance(engine.end_of(first.job_id), Cancelled)
    second = dataclasses.replace(first, job_id=engine.next_id())
    engine.submit(second)
    engine.wait(lambda event: isinstance(event, Tokens) and event.job_id == second.job_id)
    assert engine.worker.stop()
