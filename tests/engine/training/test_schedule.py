"""Learning rates and sparsities by step."""

from __future__ import annotations

import math

import pytest

from engine.errors import DynoError
from engine.training.schedule import LearningRate, Shape, Sparsity


def test_the_warm_up_reaches_the_peak_in_its_last_step() -> None:
    rate = LearningRate(1.0, 100, warmup_steps=4)
    assert [rate.at(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("shape", "middle", "last"),
                         [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)])
def test_each_shape_passes_its_middle_and_ends_at_its_floor(shape: Shape, middle: float, last: float) -> None:
    rate = LearningRate(1.0, 101, shape=shape)
    assert rate.at(0) == 1.0
    assert rate.at(50) == pytest.approx(middle)
    assert rate.at(100) == pytest.approx(last)
    assert rate.at(10_000) == rate.at(100)


@pytest.mark.parametrize("peak", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_trains_nothing_is_refused(peak: float) -> None:
    with pytest.raises(DynoError, match="trains nothing"):
        LearningRate(peak, 10)


def test_more_warm_up_than_steps_is_refused() -> None:
    with pytest.raises(DynoError, match="do not fit"):
        LearningRate(1.0, 10, warmup_steps=11)


def test_one_shot_sparsity_is_whole_from_its_step_on() -> None:
    assert [Sparsity(0.8, 3, 3).at(step) for step in (2, 3, 4)] == [0.0, 0.8, 0.8]


def test_gradual_sparsity_is_cubic_and_changes_at_cuts_only() -> None:
    sparsity = Sparsity(0.8, start=10, end=110, every=10)
    shares = [sparsity.at(step) for step in range(130)]
    assert shares == sorted(shares)
    assert shares[60] == shares[69] == pytest.approx(0.8 * (1 - 0.5**3))
    assert shares[9] == shares[10] == 0.0
    assert len(set(shares)) == 11
    assert shares[110] == shares[-1] == 0.8


def test_pruning_everything_is_refused() -> None:
    with pytest.raises(DynoError, match="leaves no model"):
        Sparsity(1.0)
