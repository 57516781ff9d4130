"""Holding a reply back to a pace that eyes can follow: a small model is through before a technique can be switched.

The engine thread never sleeps for it: it waits on control, and carries out what comes. What is measured is decoding
alone, as the waiting is told apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from engine.errors import DynoError

FASTEST = 1000.0


class Pace:
    """tokens_per_s: 0 holds nothing back. wait: returns after so many seconds, or as soon as control was carried out.
    stopping: whether the reply is to end. Raises DynoError for a pace that cannot be."""

    def __init__(self, tokens_per_s: float, wait: Callable[[float], object], stopping: Callable[[], bool]) -> None:
        if not (math.isfinite(tokens_per_s) and 0 <= tokens_per_s <= FASTEST):
            raise DynoError(f"The pace is {tokens_per_s:g} tokens per second, outside 0 to {FASTEST:,.0f}.",
                            "Choose 0 for as fast as it can.")
        self._between_s = 1.0 / tokens_per_s if tokens_per_s else 0.0
        self._wait, self._stopping = wait, stopping

    def hold(self, token_s: float) -> float:
        """Wait until the token after the one that came at `token_s` (time.perf_counter()) is due; returns the seconds
        that took."""
        if not self._between_s:
            return 0.0
        begun_s = now_s = time.perf_counter()
        due_s = token_s + self._between_s
        while now_s < due_s and not self._stopping():
            self._wait(due_s - now_s)
            now_s = time.perf_counter()
        return now_s - begun_s
