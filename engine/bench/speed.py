"""pp and tg as llama-bench has them: N prompt tokens at once, or N tokens one by one, after d others.

Random tokens, no tokenizer, no sampling. The device is waited for before every time stamp. The cache is made before
the clock starts, as llama-bench has it. It measures one run at a time; `run` decides how many, and in which order.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.errors import DynoError
from engine.measurements import SpeedTest
from engine.models.cache import KVCache
from engine.variant import Variant

UBATCH = 512
"""Prompt tokens run at once, llama-bench's default."""
STEADY = 0.05
MOST_WARM_UPS = 5


@dataclass(frozen=True)
class Sample:
    """One run. elapsed_s: of its tokens. ttft_s: prompt to first token, for pp. gaps_s: between tokens, for tg."""

    tokens: int
    elapsed_s: float
    ttft_s: float | None = None
    gaps_s: tuple[float, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """tokens / elapsed_s."""
        return self.tokens / self.elapsed_s


class SpeedRun:
    """One variant ready for one test: its tokens drawn, its cache filled to the depth."""

    def __init__(self, variant: Variant, test: SpeedTest, seed: int) -> None:
        """Raises DynoError where the cache does not fit."""
        self.variant, self.test = variant, test
        device = variant.device
        self.tokens = test.prompt or test.generate
        generator = torch.Generator().manual_seed(seed)
        size = (1, test.depth + self.tokens)
        ids = torch.randint(variant.decoder.config.vocab_size, size, generator=generator).to(device.torch_name)
        need, free = variant.report.kv_bytes_per_token * size[1], device.free_bytes()
        if need > free:
            raise DynoError(f"A KV cache for {size[1]:,} tokens needs {need / 1e9:.2f} GB; {free / 1e9:.2f} GB are "
                            "free.", "Choose a shorter test, or close other programs.")
        self.cache: KVCache = variant.new_cache(size[1])
        part = UBATCH if test.prompt else 1
        self._parts = [ids[:, at:at + part] for at in range(test.depth, size[1], part)]
        for at in range(0, test.depth, UBATCH):
            variant.forward(ids[:, at:min(at + UBATCH, test.depth)], self.cache)

    def once(self) -> Sample:
        """Run the test once."""
        variant, cache, device = self.variant, self.cache, self.variant.device
        cache.truncate(self.test.depth)
        device.synchronize()
        if self.test.prompt:
            started_s = time.perf_counter()
            for part in self._parts:
                logits = variant.forward(part, cache)  # (1, 1, V)
            device.synchronize()
            elapsed_s = time.perf_counter() - started_s
            int(logits[0, -1].argmax())
            return Sample(self.tokens, elapsed_s, ttft_s=time.perf_counter() - started_s)
        stamps = [time.perf_counter()]
        for part in self._parts:
            variant.step(part, cache)
            device.synchronize()
            stamps.append(time.perf_counter())
        gaps = tuple(b - a for a, b in itertools.pairwise(stamps))
        return Sample(self.tokens, stamps[-1] - stamps[0], gaps_s=gaps)


def is_steady(samples: Sequence[Sample]) -> bool:
    """Whether the last two runs agree within 5 %."""
    if len(samples) < 2:
        return False
    a, b = samples[-2].elapsed_s, samples[-1].elapsed_s
    return abs(a - b) <= STEADY * min(a, b)
