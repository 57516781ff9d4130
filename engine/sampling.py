"""Choosing the next token: repetition penalty, temperature, top-k, top-p, min-p, in the order of Transformers.

Sources: temperature and top-k, Fan et al. 2018; top-p (nucleus), Holtzman et al. 2020; repetition penalty, Keskar et
al. 2019 (CTRL); min-p, Nguyen et al. 2024.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import DynoError
from engine.messages import Sampling


@dataclass(frozen=True)
class Choice:
    """A chosen token. logprob: natural log of its probability under the model itself, before any of the filters.

    likeliest: (token id, probability) of the most probable tokens, likewise unfiltered.
    """

    token_id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


class Sampler:
    """Draws tokens repeatably: the same seed, logits and history give the same choices."""

    def __init__(self, sampling: Sampling, history: Iterable[int] = ()) -> None:
        check_sampling(sampling)
        self._sampling = sampling
        self.seed = sampling.seed if sampling.seed is not None else secrets.randbelow(1 << 31)
        self._generator = torch.Generator().manual_seed(self.seed)
        self._seen = set(history)

    def choose(self, logits: Tensor, alternatives: int = 0) -> Choice:
        """The next token for fp32 logits (V,)."""
        logprobs = logits.log_softmax(dim=-1)  # (V,)
        token = self._draw(logits)
        self._seen.add(token)
        logprob = float(logprobs[token])
        if not math.isfinite(logprob):
            raise DynoError("The model's output is no longer a number: its arithmetic has overflowed.",
                            "Switch Precision to bf16 or fp32; fp16 ends at 65,504.")
        likeliest: tuple[tuple[int, float], ...] = ()
        if alternatives:
            top = logprobs.topk(min(alternatives, logprobs.numel()))
            likeliest = tuple(zip(top.indices.tolist(), top.values.exp().tolist(), strict=True))
        return Choice(token, logprob, likeliest)

    def _draw(self, logits: Tensor) -> int:
        s = self._sampling
        if s.repetition_penalty != 1.0 and self._seen:
            logits = _penalised(logits, self._seen, s.repetition_penalty)
        if s.temperature == 0.0:
            return int(logits.argmax())
        scaled = logits / s.temperature
        count = min(s.top_k, scaled.numel()) if s.top_k else scaled.numel()
        values, indices = scaled.topk(count)  # (k,) descending
        probabilities = values.softmax(dim=-1)
        kept = probabilities
        if s.top_p < 1.0:
            before = probabilities.cumsum(-1) - probabilities  # mass ahead of each token; the first always stays
            kept = kept.masked_fill(before >= s.top_p, 0.0)
        if s.min_p > 0.0:
            kept = kept.masked_fill(probabilities < s.min_p * probabilities[0], 0.0)
        cumulative = kept.double().cumsum(-1)
        point = torch.rand(1, generator=self._generator, dtype=torch.float64) * cumulative[-1]
        index = int(torch.searchsorted(cumulative, point, right=True).clamp_(max=count - 1))
        return int(indices[index])


def _penalised(logits: Tensor, seen: set[int], penalty: float) -> Tensor:
    index = torch.tensor(list(seen))
    values = logits[index]
    return logits.index_copy(0, index, torch.where(values > 0, values / penalty, values * penalty))


def check_sampling(s: Sampling) -> None:
    """Raises DynoError for a value outside its limits."""
    limits = (("temperature", s.temperature, 0.0, 5.0), ("top-k", s.top_k, 0, 1_000_000), ("top-p", s.top_p, 0.01, 1.0),
              ("min-p", s.min_p, 0.0, 1.0), ("repetition penalty", s.repetition_penalty, 1.0, 3.0),
              ("max tokens", s.max_tokens, 1, 1_000_000), ("seed", s.seed or 0, 0, (1 << 63) - 1))
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise DynoError(f"{name} is {value:g}, outside {low:g} to {high:g}.",
                            f"Choose a value from {low:g} to {high:g}.")
