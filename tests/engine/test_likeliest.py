"""The likeliest logits and their sum: every instruction set against NumPy, ties, infinities, sizes of no shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.kernels.likeliest import Chooser
from engine.native.library import library, runnable


@pytest.mark.parametrize("isa", [*runnable(), "off"])
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 129, 4095, 8192, 50_257])
def test_they_are_the_largest_in_order_with_the_sum_over_all(isa: str, size: int) -> None:
    chooser = Chooser(library(isa), native=isa != "off")
    generator = torch.Generator().manual_seed(size)
    for count in {1, min(5, size), min(40, size), min(256, size)}:
        logits = torch.randn(size, generator=generator) * 6
        top = chooser.likeliest(logits, count)
        values = logits.numpy()
        assert np.array_equal(top.values, np.sort(values)[::-1][:count])
        assert np.array_equal(values[top.ids], top.values) and len(set(top.ids.tolist())) == count
        wide = values.astype(np.float64)
        assert top.log_sum == pytest.approx(wide.max() + math.log(np.exp(wide - wide.max()).sum()), abs=3e-6)


@pytest.mark.parametrize("isa", runnable())
def test_of_equal_logits_the_first_come_first(isa: str) -> None:
    logits = torch.zeros(300)
    logits[200:210] = 1.0
    top = Chooser(library(isa)).likeliest(logits, 14)
    assert top.ids.tolist() == [*range(200, 210), 0, 1, 2, 3]


@pytest.mark.parametrize("isa", [*runnable(), "off"])
@pytest.mark.parametrize("at", [0, 7, 100, 298])
def test_what_is_no_number_shows_in_the_sum_and_what_is_impossible_does_not(isa: str, at: int) -> None:
    chooser = Chooser(library(isa), native=isa != "off")
    logits = torch.randn(299, generator=torch.Generator().manual_seed(1))
    logits[at] = -math.inf
    wide = np.delete(logits.numpy().astype(np.float64), at)
    assert chooser.likeliest(logits, 3).log_sum == pytest.approx(math.log(np.exp(wide).sum()), abs=3e-6)
    for bad in (math.nan, math.inf):
        logits[at] = bad
        assert not math.isfinite(chooser.likeliest(logits, 3).log_sum)


def test_a_sum_that_is_not_wanted_is_not_there() -> None:
    assert math.isnan(Chooser().likeliest(torch.randn(99), 3, summed=False).log_sum)


def test_an_impossible_count_is_refused() -> None:
    with pytest.raises((ValueError, RuntimeError)):
        Chooser().likeliest(torch.randn(9), 10)


@pytest.mark.parametrize("isa", [*runnable(), "off"])
@pytest.mark.parametrize("count", [1, 40, 257, 1000])
def test_a_tokens_probability_is_the_same_however_many_were_asked_for(isa: str, count: int) -> None:
    chooser = Chooser(library(isa), native=isa != "off")
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(count)) * 6
    sum_told = chooser.likeliest(logits, count).log_sum
    assert chooser.logprob(logits, 123) == float(logits[123]) - sum_told
