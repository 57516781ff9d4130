"""Tokens/s and live perplexity from what the engine thread says about each token.

The engine thread only appends a pair to a deque (about 50 ns, atomic, no lock); the sampler thread takes the pairs out
and does the arithmetic. The rate is tokens divided by the time between tokens, so neither idle time nor the time to
the first token dilutes it: the first token after a pause starts the clock and is not counted (MEASURING.md, TPOT).
"""

from __future__ import annotations

import math
from collections import deque

from engine.monitor.series import SeriesInfo
from engine.monitor.source import Sink, Tick

QUEUE_LIMIT = 1 << 16
"""Pairs kept when nobody samples; older ones are dropped."""
PERPLEXITY_TOKENS = 32
IDLE_AFTER_GAPS = 4.0
"""A pause longer than this many usual gaps between tokens (and longer than a tick) is idleness, not slowness."""
FIRST_GAP_LIMIT_S = 10.0
"""Longest gap that still counts as slow generation when no usual gap is known yet."""
MAX_MEAN_NLL = 700.0
"""exp() of more overflows a double."""

NOT_YET = "Nothing has been generated yet."
NO_SPEED = "No speed has been measured yet."  # a reply that is held back has tokens and no speed
NOT_FINITE = "The model's probabilities are not finite numbers."


class ThroughputSource:
    """Series tokens_per_s and live_perplexity. A gap (NaN) parts two stretches of generation.

    `tokens` and `nll` may be appended to from any thread.

    tokens: pairs (count, t_s); a count of 0 starts the clock anew at t_s. nll: pairs (sum in nats, count).
    interval_s: seconds between ticks.
    """

    name = "Throughput"

    def __init__(self, interval_s: float) -> None:
        self.tokens: deque[tuple[int, float]] = deque(maxlen=QUEUE_LIMIT)
        self.nll: deque[tuple[float, int]] = deque(maxlen=QUEUE_LIMIT)
        self._interval_s = interval_s
        self._last_s: float | None = None
        self._usual_gap_s: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._stale = False
        self._rate_reason: str | None = NO_SPEED
        self._perplexity_reason: str | None = NOT_YET

    def series(self) -> tuple[SeriesInfo, ...]:
        return (
            SeriesInfo("tokens_per_s", "Tokens per second", "tok/s", "throughput", "model", self._rate_reason),
            SeriesInfo("live_perplexity", "Live perplexity (how sure the model is)", "", "perplexity", "model",
                       self._perplexity_reason),
        )

    def notes(self) -> tuple[str, ...]:
        return (NOT_FINITE,) if self._perplexity_reason == NOT_FINITE else ()

    def sample(self, tick: Tick, sink: Sink) -> None:
        if self._stale:  # what came while nobody sampled says nothing about now
            self.tokens.clear()
            self.nll.clear()
            self._stale = False
        restarted, rate = self._take_tokens()
        idle = self._is_idle(tick.time_s)
        if rate is not None:
            self._rate_reason = None
            sink.put("tokens_per_s", tick.time_s, rate)
        elif idle or restarted:
            sink.put("tokens_per_s", tick.time_s, math.nan)
        if restarted:
            self._recent.clear()
        self._sample_perplexity(tick, sink, idle)

    def close(self) -> None:
        self._stale = True
        self._last_s = self._usual_gap_s = None
        self._recent.clear()

    def _take_tokens(self) -> tuple[bool, float | None]:
        """Empty the queue. Returns whether a new stretch began, and tokens/s over the counted gaps (None: no gap)."""
        restarted, count, span_s = False, 0, 0.0
        for _ in range(len(self.tokens)):
            n, t_s = self.tokens.popleft()
            gap_s = t_s - self._last_s if self._last_s is not None else math.inf
            self._last_s = t_s
            if n <= 0 or not 0.0 <= gap_s <= self._gap_limit_s():
                restarted, self._usual_gap_s = True, None
                continue
            count += n
            span_s += gap_s
            usual_s = self._usual_gap_s
            self._usual_gap_s = gap_s if usual_s is None else 0.9 * usual_s + 0.1 * gap_s
        return restarted, count / span_s if span_s > 0.0 else None

    def _gap_limit_s(self) -> float:
        if self._usual_gap_s is None:
            return FIRST_GAP_LIMIT_S
        return max(self._interval_s, IDLE_AFTER_GAPS * self._usual_gap_s)

    def _is_idle(self, now_s: float) -> bool:
        return self._last_s is None or now_s - self._last_s > self._gap_limit_s()

    def _sample_perplexity(self, tick: Tick, sink: Sink, idle: bool) -> None:
        """exp(mean NLL) over the tokens since the last tick, topped up with older ones of the same run to 32."""
        fresh = [self.nll.popleft() for _ in range(len(self.nll))]
        finite = [(nll_sum, n) for nll_sum, n in fresh if n > 0 and math.isfinite(nll_sum)]
        if len(finite) < len(fresh) and not finite:
            self._perplexity_reason = NOT_FINITE
            sink.put("live_perplexity", tick.time_s, math.nan)
            return
        if not finite:
            if idle:
                self._recent.clear()
                sink.put("live_perplexity", tick.time_s, math.nan)
            return
        fresh_tokens = sum(n for _, n in finite)
        self._recent.extend(finite)
        tokens = sum(n for _, n in self._recent)
        while tokens - self._recent[0][1] >= max(PERPLEXITY_TOKENS, fresh_tokens):
            tokens -= self._recent.popleft()[1]
        mean_nll = sum(nll_sum for nll_sum, _ in self._recent) / tokens
        self._perplexity_reason = None
        sink.put("live_perplexity", tick.time_s, math.exp(min(mean_nll, MAX_MEAN_NLL)))
