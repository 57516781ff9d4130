"""Choosing the next token: repetition penalty, temperature, top-k, top-p, min-p, in the order of Transformers.

Sources: temperature and top-k, Fan et al. 2018; top-p (nucleus), Holtzman et al. 2020; repetition penalty, Keskar et
al. 2019 (CTRL); min-p, Nguyen et al. 2024.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.errors import DynoError
from engine.kernels.likeliest import Chooser, Likeliest
from engine.messages import SAMPLING_LIMITS, Sampling


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
        self._chooser, self._penalised = Chooser(), Chooser()
        self._seen = _Seen(history)

    def choose(self, logits: Tensor, alternatives: int = 0) -> Choice:
        """The next token for fp32 logits (V,) on the CPU."""
        shown = min(alternatives, len(logits))
        top = self._chooser.likeliest(logits, max(1, shown, self._choices(logits) if self._plain else 0))
        if not math.isfinite(top.log_sum):
            raise DynoError("The model's output is no longer a number: its arithmetic has overflowed.",
                            "Switch Precision to bf16 or fp32; fp16 ends at 65,504.")
        likeliest = tuple((i, math.exp(v - top.log_sum)) for i, v in zip(
            top.ids[:shown].tolist(), top.values[:shown].tolist(), strict=True))
        token = self.draw(logits, top if self._plain else None)
        self._seen.add(token)
        return Choice(token, float(logits[token]) - top.log_sum, likeliest)

    def draw(self, logits: Tensor, top: Likeliest | None = None) -> int:
        """A token for fp32 logits (V,), which the history does not take in. top: the likeliest of the logits after the
        repetition penalty, where they are known."""
        count = self._choices(logits)
        if top is None:
            logits = logits if self._plain else _penalised(logits, self._seen.ids, self._sampling.repetition_penalty)
            top = self._penalised.likeliest(logits, count, summed=False)
        return int(top.ids[self._drawn(top.values[:count])])

    @property
    def _plain(self) -> bool:
        return self._sampling.repetition_penalty == 1.0

    def _choices(self, logits: Tensor) -> int:
        """Among how many of the likeliest tokens is drawn."""
        s = self._sampling
        return 1 if s.temperature == 0.0 else min(s.top_k or len(logits), len(logits))

    def _drawn(self, values: npt.NDArray[np.float32]) -> int:
        """Index of the one drawn from descending logits (k,)."""
        s = self._sampling
        if len(values) == 1:
            return 0
        # NumPy, because on a few dozen numbers it costs a microsecond an operation and torch several.
        scaled = values.astype(np.float64) / s.temperature
        kept = np.exp(scaled - scaled[0])
        if s.top_p < 1.0:
            cumulative = kept.cumsum()
            kept[cumulative - kept >= s.top_p * cumulative[-1]] = 0.0  # mass ahead of each; the first always stays
        if s.min_p > 0.0:
            kept[kept < s.min_p * kept[0]] = 0.0
        cumulative = kept.cumsum()
        point = float(torch.rand(1, generator=self._generator, dtype=torch.float64)) * cumulative[-1]
        return min(int(cumulative.searchsorted(point, side="right")), len(cumulative) - 1)


class _Seen:
    """The different tokens of a text, as an array that grows: made anew for each token it would cost more than all the
    rest of the choice."""

    def __init__(self, history: Iterable[int]) -> None:
        self._known: set[int] = set()
        self._buffer = np.empty(256, np.int64)
        for token in history:
            self.add(token)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Each of them once, (n,)."""
        return self._buffer[:len(self._known)]

    def add(self, token: int) -> None:
        """Take in a token."""
        if token in self._known:
            return
        if len(self._known) == len(self._buffer):
            self._buffer = np.concatenate((self._buffer, np.empty_like(self._buffer)))
        self._buffer[len(self._known)] = token
        self._known.add(token)


def _penalised(logits: Tensor, seen: npt.NDArray[np.int64], penalty: float) -> Tensor:
    out = logits.numpy().copy()
    values = out[seen]
    out[seen] = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))
    return torch.from_numpy(out)


def check_sampling(s: Sampling) -> None:
    """Raises DynoError for a value outside its limits."""
    for field, (low, high) in SAMPLING_LIMITS.items():
        value = getattr(s, field) or 0  # no seed is as good as any
        if not low <= value <= high:
            name = field.replace("_", "-" if field.startswith(("top", "min")) else " ")
            raise DynoError(f"{name} is {value:g}, outside {low:g} to {high:g}.",
                            f"Choose a value from {low:g} to {high:g}.")
