"""Tokens/s and live perplexity, with ticks and tokens at times the tests choose."""

from __future__ import annotations

import math

import pytest

from engine.monitor import Monitor

TICK_S = 0.5


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(TICK_S, sources=[])


def tick_until(monitor: Monitor, from_s: float, until_s: float) -> None:
    ticks = round((until_s - from_s) / TICK_S)
    for tick in range(1, ticks + 1):
        monitor.sample_now(from_s + tick * TICK_S)


def rates(monitor: Monitor) -> list[float]:
    return monitor.snapshot("tokens_per_s")[1].tolist()


def reason(monitor: Monitor, key: str) -> str | None:
    return next(info.reason_missing for info in monitor.series() if info.key == key)


def test_before_anything_is_generated_there_is_a_gap_and_a_reason(monitor):
    monitor.sample_now(0.0)
    assert math.isnan(monitor.latest("tokens_per_s")) and math.isnan(monitor.latest("live_perplexity"))
    assert reason(monitor, "tokens_per_s") == "No speed has been measured yet."
    assert reason(monitor, "live_perplexity") == "Nothing has been generated yet."


def test_a_steady_stream_has_its_rate_whatever_the_phase_of_the_ticks(monitor):
    for token in range(70):
        t_s = 10.013 + token * 0.07
        if token and int(t_s / TICK_S) != int((t_s - 0.07) / TICK_S):
            monitor.sample_now(int(t_s / TICK_S) * TICK_S)
        monitor.count_tokens(1, t_s)
    assert len(rates(monitor)) == 9
    assert rates(monitor) == pytest.approx([1 / 0.07] * 9)
    assert reason(monitor, "tokens_per_s") is None


def test_a_burst_followed_by_idleness_has_the_bursts_rate_and_then_a_gap(monitor):
    for token in range(11):
        monitor.count_tokens(1, 1.3 + token * 0.01)
    tick_until(monitor, 1.0, 3.0)
    assert rates(monitor)[0] == pytest.approx(100.0)
    assert all(math.isnan(rate) for rate in rates(monitor)[1:]) and len(rates(monitor)) >= 3


def test_idle_time_between_two_replies_dilutes_neither(monitor):
    for start_s in (1.0, 5.0):
        for token in range(11):
            monitor.count_tokens(1, start_s + token * 0.02)
        tick_until(monitor, start_s, start_s + 4.0)
    assert [rate for rate in rates(monitor) if not math.isnan(rate)] == pytest.approx([50.0, 50.0])


def test_a_count_of_zero_starts_the_clock_even_shortly_after_the_last_reply(monitor):
    for token in range(5):
        monitor.count_tokens(1, 1.0 + token * 0.01)
    monitor.count_tokens(0, 1.4)
    for token in range(1, 5):
        monitor.count_tokens(1, 1.4 + token * 0.01)
    monitor.sample_now(1.5)
    assert rates(monitor) == pytest.approx([100.0])


def test_a_gap_parts_a_reply_from_one_that_follows_at_once(monitor):
    for token in range(5):
        monitor.count_tokens(1, 1.0 + token * 0.01)
    monitor.sample_now(1.1)
    monitor.count_tokens(0, 1.2)
    monitor.sample_now(1.3)
    monitor.count_tokens(1, 1.4)
    monitor.sample_now(1.5)
    assert rates(monitor) == pytest.approx([100.0, math.nan, 5.0], nan_ok=True)


def test_generation_slower_than_the_ticks_is_not_mistaken_for_idleness(monitor):
    for token in range(6):
        monitor.count_tokens(1, token * 2.0)
        tick_until(monitor, token * 2.0, token * 2.0 + 1.5)
    assert [rate for rate in rates(monitor) if not math.isnan(rate)] == pytest.approx([0.5] * 5)
    assert not any(math.isnan(rate) for rate in rates(monitor)[1:])


def test_a_slow_reply_after_a_fast_one_still_gets_its_rate(monitor):
    for token in range(11):
        monitor.count_tokens(1, 1.0 + token * 0.01)
    tick_until(monitor, 1.0, 4.0)
    for token in range(3):
        monitor.count_tokens(1, 4.0 + token * 3.0)
        monitor.sample_now(4.1 + token * 3.0)
    assert rates(monitor)[-2:] == pytest.approx([1 / 3.0] * 2)


def test_several_tokens_at_one_stamp_count_as_several(monitor):
    for step in range(5):
        monitor.count_tokens(4, 1.0 + step * 0.1)
    monitor.sample_now(1.5)
    assert rates(monitor) == pytest.approx([40.0])


def test_tokens_counted_while_nobody_sampled_do_not_appear_after_a_restart(monitor):
    monitor.start()
    monitor.stop()
    for token in range(5):
        monitor.count_tokens(1, token * 0.01)
    monitor.sample_now(1.0)
    assert math.isnan(monitor.latest("tokens_per_s"))


def test_live_perplexity_is_exp_of_the_mean_over_the_tokens_since_the_last_tick(monitor):
    for token in range(40):
        monitor.count_tokens(1, 1.0 + token * 0.01)
        monitor.observe_nll(1.0 if token % 2 else 3.0, 1)
    monitor.sample_now(1.5)
    assert monitor.latest("live_perplexity") == pytest.approx(math.exp(2.0))


def test_few_fresh_tokens_are_smoothed_over_the_last_32(monitor):
    for token in range(40):
        monitor.count_tokens(1, 1.0 + token * 0.01)
        monitor.observe_nll(1.0, 1)
    monitor.sample_now(1.5)
    for token in range(8):
        monitor.count_tokens(1, 1.5 + token * 0.05)
        monitor.observe_nll(5.0, 1)
    monitor.sample_now(2.0)
    assert monitor.latest("live_perplexity") == pytest.approx(math.exp((24 * 1.0 + 8 * 5.0) / 32))


def test_a_new_reply_does_not_inherit_the_perplexity_of_the_last(monitor):
    for start_s, nll in ((1.0, 1.0), (5.0, 4.0)):
        for token in range(4):
            monitor.count_tokens(1, start_s + token * 0.01)
            monitor.observe_nll(nll, 1)
        tick_until(monitor, start_s, start_s + 4.0)
    values = monitor.snapshot("live_perplexity")[1]
    assert values[~(values != values)].tolist() == pytest.approx([math.exp(1.0), math.exp(4.0)])


def test_a_reply_that_follows_at_once_does_not_inherit_it_either(monitor):
    for start_s, nll in ((1.0, 1.0), (1.2, 4.0)):
        monitor.count_tokens(0, start_s)
        monitor.observe_nll(nll, 1)
        monitor.sample_now(start_s + 0.1)
    assert monitor.snapshot("live_perplexity")[1].tolist() == pytest.approx([math.exp(1.0), math.exp(4.0)])


def test_probabilities_that_are_not_finite_are_a_gap_with_a_reason_and_do_not_linger(monitor):
    monitor.count_tokens(1, 1.0)
    monitor.observe_nll(math.nan, 1)
    monitor.sample_now(1.2)
    assert math.isnan(monitor.latest("live_perplexity"))
    assert reason(monitor, "live_perplexity") == "The model's probabilities are not finite numbers."
    assert monitor.notes() == ("The model's probabilities are not finite numbers.",)
    monitor.observe_nll(2.0, 1)
    monitor.sample_now(1.4)
    assert monitor.latest("live_perplexity") == pytest.approx(math.exp(2.0))
    assert reason(monitor, "live_perplexity") is None
